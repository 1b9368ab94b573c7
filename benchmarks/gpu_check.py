"""The embedded engine on a GPU: `make gpu-check`, or `python -m benchmarks.gpu_check`.

It runs the tests of the engine on the device, then trains beside torch + peft and samples beside
`generate` (and vLLM, if the variable VLLM_PYTHON names an interpreter that has it): tinkex/tiny,
and a random Qwen3 of 0.6 billion parameters. Where no CUDA device is, it says so and succeeds.
`--device cpu` takes the same ways on a CPU with a small Qwen3 and few tokens; its figures say
nothing.
"""

# torch types some of its functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.engine_sampling import REQUESTS, SAMPLED, of_engine, of_generate, of_vllm
from benchmarks.small_model import QWEN3_600M, make_model
from benchmarks.training_step import LEARNING_RATE, RANK, plain_step, seconds
from scripts.official_sdk import ROOT
from tinkex_server.engine.interface import AdamSettings, Example, LoraShape
from tinkex_server.engine.model_info import loadable_name
from tinkex_server.engine.torch.engine import TorchEngine

_SHAPES, _SHAPES_ON_CPU = ((8, 128), (32, 256)), ((2, 16),)  # datums, tokens
_ROUNDS, _WARM_UP = 5, 2
_DTYPES = ("bfloat16", "float32")
_TINY = "tinkex/tiny"


def failed_tests(device: str) -> list[str]:
    """Runs the tests of the engine; returns the runs that failed."""
    tests = "tests/server/engine"
    # others compare with bounds that hold in float32 only
    runs = {"float32": tests, "bfloat16": f"{tests}/test_models.py"}
    failed: list[str] = []
    for dtype, path in runs.items():
        command = [sys.executable, "-m", "pytest", path, "--device", device, "--dtype", dtype]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(" ".join(command[2:]))
    return failed


def engine_step(engine: TorchEngine, tokens: np.ndarray[Any, Any]) -> Callable[[], None]:
    data = [Example(row[:-1], {"target_tokens": row[1:]}) for row in tokens]

    def step() -> None:
        engine.forward_backward("m", data, "cross_entropy", {}, backward=True)
        engine.optim_step("m", AdamSettings(learning_rate=LEARNING_RATE))

    return step


def measured(work: Callable[[], None]) -> tuple[float, str]:
    """Returns the median seconds, and the most memory that torch had on a GPU meanwhile."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    taken = [seconds(work) for _ in range(_WARM_UP + _ROUNDS)][_WARM_UP:]
    most = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return statistics.median(taken), f"{most / 2**30:.2f} GiB" if most else "-"


def rows(model: str, device: str, dtype: str) -> Iterator[Sequence[str]]:
    """Yields what is measured, in which way, tokens per second, and memory."""
    with closing(TorchEngine([model], device, dtype)) as engine:
        engine.create_model("m", model, LoraShape(RANK))
        engine.load_sampler("base", model, None)
        for datums, length in _SHAPES_ON_CPU if device == "cpu" else _SHAPES:
            tokens = np.random.default_rng(0).integers(0, 256, (datums, length + 1))
            ways = {
                "tinkex": engine_step(engine, tokens),
                "torch + peft": plain_step(loadable_name(model), tokens, device, dtype),
            }
            for way, step in ways.items():
                taken, memory = measured(step)
                what = f"train {datums} x {length}"
                yield what, way, f"{datums * length / taken:,.0f}", memory
        network: Any = AutoModelForCausalLM.from_pretrained(loadable_name(model), dtype=dtype)
        network = network.to(torch.device(device)).eval()
        network.generation_config.eos_token_id = None  # each sample is as long as is asked for
        for count in REQUESTS[:1] if device == "cpu" else REQUESTS:
            for way, sample in (
                ("tinkex", partial(of_engine, engine, ["base"])),
                ("generate", partial(of_generate, network)),
            ):
                taken, memory = measured(partial(sample, count))
                yield f"sample {count} at once", way, f"{count * SAMPLED / taken:,.0f}", memory
    for count, taken in zip(REQUESTS, of_vllm(loadable_name(model), dtype) or (), strict=False):
        yield f"sample {count} at once", "vLLM", f"{count * SAMPLED / taken:,.0f}", "-"


def table(title: str, model: str, device: str, dtype: str) -> Table:
    made = Table("", "", "tokens/s", "peak memory", title=f"{title}, {device}, {dtype}")
    for row in rows(model, device, dtype):
        made.add_row(*row)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("not run: no CUDA device")
        return 0
    on_cpu = given.device == "cpu"
    failed = [] if given.no_tests else failed_tests(given.device)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), **({} if on_cpu else QWEN3_600M))
        models = {_TINY: _TINY, "a small Qwen3" if on_cpu else "Qwen3 of 0.6 billion": folder}
        for dtype in _DTYPES:
            for title, model in models.items():
                Console().print(table(title, model, given.device, dtype))
    for command in failed:
        print(f"failed: {command}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
