"""Does one task with one SDK, in the process that is measured: `client.py tinkex|official TASK URL`
prints its figures as JSON.

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
from collections.abc import Awaitable
from typing import Any

from workload import DATUMS, PROMPT_TOKENS, SAMPLES, STEPS, TRAINED_TOKENS

warnings.simplefilter("ignore", FutureWarning)  # the deprecations of the official SDK itself
_MODEL = "tinkex/tiny"
_TICK = 0.001  # seconds

SDK, TASK, URL = sys.argv[1:]
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


def batch() -> list[Any]:
    """Makes a batch of lists of numbers, as a tokenizer returns them."""
    tokens, weights = list(range(TRAINED_TOKENS + 1)), [1.0] * TRAINED_TOKENS
    return [
        sdk.Datum(
            model_input=sdk.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},
        )
        for _ in range(DATUMS)
    ]


async def step(trainer: Any, data: list[Any]) -> None:
    params = sdk.AdamParams(learning_rate=1e-4)
    if SDK == "tinkex":
        losses, update = trainer.forward_backward(data, "cross_entropy"), trainer.optim_step(params)
    else:
        losses = await trainer.forward_backward_async(data, "cross_entropy")
        update = await trainer.optim_step_async(params)
    assert len((await losses).loss_fn_outputs) == DATUMS
    await update


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
    await samples(sampler, 200)  # opens connections, fills caches
    began = time.process_time()
    await samples(sampler, SAMPLES)
    return {"cpu": (time.process_time() - began) / SAMPLES}


async def run_step(service: Any) -> dict[str, float]:
    trainer = await create(service, "create_lora_training_client")
    await step(trainer, batch())
    began = time.process_time()
    for _ in range(STEPS):
        await step(trainer, batch())
    cpu = (time.process_time() - began) / STEPS
    data = batch()
    return {"cpu": cpu, "stall": await longest_stall(step(trainer, data))}


async def main() -> dict[str, float]:
    if TASK == "import":
        return {"cpu": IMPORTED - BEGAN}
    service = Service(base_url=URL, api_key="tml-local")
    try:
        return await {"start": run_start, "sample": run_sample, "step": run_step}[TASK](service)
    finally:
        await service.close("success")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
