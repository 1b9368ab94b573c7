"""Does one task with one SDK, in the process that is measured: `client.py tinkex|official TASK URL
COUNT` prints its figures as JSON, times in seconds and memory in bytes.

The two SDKs have the same names where it matters; `create`, `samples` and `step` hold what differs.
"""

# which of the two SDKs `sdk` is, is known at run time; the official one is in a venv of its own
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from in_flight import latencies
from workload import (
    DATUMS,
    IN_FLIGHT,
    LARGE_DATUMS,
    LARGE_TOKENS,
    PROMPT_TOKENS,
    STEPS,
    TRAINED_TOKENS,
    WARM_UP,
)

warnings.simplefilter("ignore", FutureWarning)  # the deprecations of the official SDK itself
_MODEL = "tinkex/tiny"
_TICK = 0.001  # seconds

_THREADS = 64

SDK, TASK, URL, _COUNT = sys.argv[1:]
COUNT = int(_COUNT)
BEGAN = time.process_time()
if SDK == "tinkex":
    import tinkex as sdk
else:
    import tinker as sdk
_ = sdk.ServiceClient  # tinkex imports its names when they are first used
IMPORTED = time.process_time()
Service: Any = sdk.AsyncServiceClient if SDK == "tinkex" else sdk.ServiceClient


async def create(service: Any, kind: str) -> Any:
    if SDK == "official":
        kind += "_async"
    return await getattr(service, kind)(base_model=_MODEL)


async def samples(sampler: Any, count: int) -> None:
    """Samples this many at once and reads their tokens."""
    tokens, params = list(range(PROMPT_TOKENS)), sdk.SamplingParams(max_tokens=64)
    call = sampler.sample if SDK == "tinkex" else sampler.sample_async
    for sampled in await asyncio.gather(
        *(call(sdk.ModelInput.from_ints(tokens), 1, params) for _ in range(count))
    ):
        assert len(sampled.sequences[0].tokens) == 64


def sample_in_threads(sampler: Any, count: int) -> None:
    """Samples by blocking calls, of which so many run at once as there are threads."""
    tokens, params = list(range(PROMPT_TOKENS)), sdk.SamplingParams(max_tokens=64)

    def sample(_: int) -> None:
        sampled = sampler.sample(sdk.ModelInput.from_ints(tokens), 1, params).result()
        assert len(sampled.sequences[0].tokens) == 64

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(sample, range(count)):
            pass


def sample_by_futures(sampler: Any, count: int) -> None:
    """Asks for all samples from one thread, then reads them."""
    tokens, params = list(range(PROMPT_TOKENS)), sdk.SamplingParams(max_tokens=64)
    futures = [sampler.sample(sdk.ModelInput.from_ints(tokens), 1, params) for _ in range(count)]
    for future in futures:
        assert len(future.result().sequences[0].tokens) == 64


def batch(datums: int = DATUMS, length: int = TRAINED_TOKENS) -> list[Any]:
    """Makes a batch of lists of numbers, as a tokenizer returns them."""
    tokens, weights = list(range(length + 1)), [1.0] * length
    return [
        sdk.Datum(
            model_input=sdk.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},
        )
        for _ in range(datums)
    ]


async def step(trainer: Any, data: list[Any]) -> None:
    params = sdk.AdamParams(learning_rate=1e-4)
    if SDK == "tinkex":
        losses, update = trainer.forward_backward(data, "cross_entropy"), trainer.optim_step(params)
    else:
        losses = await trainer.forward_backward_async(data, "cross_entropy")
        update = await trainer.optim_step_async(params)
    assert len((await losses).loss_fn_outputs) == len(data)
    await update


class Memory:
    """The growth of this process's memory since the object was made; Linux alone tells it."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        self._before = self._bytes("VmRSS")

    def growth(self) -> float:
        """Returns the bytes of the peak above what was in use at first."""
        return self._bytes("VmHWM") - self._before

    def _bytes(self, name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) << 10


async def longest_stall(work: Awaitable[None]) -> float:
    """Returns the longest delay of the event loop, in seconds, while it ran `work`."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK)
            longest = max(longest, time.perf_counter() - before - _TICK)

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(10 * _TICK)
    await work
    ticker.cancel()
    return longest


async def run_start(service: Any) -> dict[str, float]:
    await create(service, "create_sampling_client")
    return {"cpu": time.process_time()}


async def run_sample(service: Any) -> dict[str, float]:
    sampler = await create(service, "create_sampling_client")
    await samples(sampler, WARM_UP)
    memory, began = Memory(), time.process_time()
    await samples(sampler, COUNT)
    cpu = (time.process_time() - began) / COUNT
    return {"cpu": cpu, "memory": memory.growth() / COUNT}


async def run_latency(service: Any) -> dict[str, float]:
    sampler = await create(service, "create_sampling_client")
    await samples(sampler, WARM_UP)
    return await latencies(lambda: samples(sampler, 1), COUNT, IN_FLIGHT)


async def run_step(service: Any) -> dict[str, float]:
    trainer = await create(service, "create_lora_training_client")
    await step(trainer, batch())
    began = time.process_time()
    for _ in range(STEPS):
        await step(trainer, batch())
    cpu = (time.process_time() - began) / STEPS
    data = batch()
    return {"cpu": cpu, "stall": await longest_stall(step(trainer, data))}


async def run_large_step(service: Any) -> dict[str, float]:
    trainer = await create(service, "create_lora_training_client")
    data = batch(LARGE_DATUMS, LARGE_TOKENS)
    memory = Memory()
    stall = await longest_stall(step(trainer, data))
    return {"memory": memory.growth(), "stall": stall}


def run_blocking(sample: Callable[[Any, int], None]) -> dict[str, float]:
    service: Any = sdk.ServiceClient(base_url=URL, api_key="tml-local")
    sampler = service.create_sampling_client(base_model=_MODEL)
    sample(sampler, WARM_UP)
    began = time.process_time()
    sample(sampler, COUNT)
    return {"cpu": (time.process_time() - began) / COUNT}


_ASYNC = {
    "start": run_start,
    "sample": run_sample,
    "latency": run_latency,
    "step": run_step,
    "large": run_large_step,
}
_BLOCKING = {"threads": sample_in_threads, "futures": sample_by_futures}


async def run_async() -> dict[str, float]:
    service = Service(base_url=URL, api_key="tml-local")
    try:
        return await _ASYNC[TASK](service)
    finally:
        await service.close("success")


def main() -> dict[str, float]:
    if TASK == "import":
        return {"cpu": IMPORTED - BEGAN}
    if TASK in _BLOCKING:
        return run_blocking(_BLOCKING[TASK])
    return asyncio.run(run_async())


if __name__ == "__main__":
    print(json.dumps(main()), flush=True)
