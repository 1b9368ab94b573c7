"""Latency with many samples in flight, measured alike for clients and for the floor. It imports
nothing but the standard library, since it also runs beside the official SDK.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable


async def latencies(
    sample: Callable[[], Awaitable[None]], count: int, in_flight: int
) -> dict[str, float]:
    """Keeps so many samples in flight, each after the one before it; returns the percentiles of
    their seconds.
    """
    taken: list[float] = []

    async def in_turn(number: int) -> None:
        await asyncio.sleep(number / in_flight)  # spreads them over a second
        for _ in range(count // in_flight):
            began = time.perf_counter()
            await sample()
            taken.append(time.perf_counter() - began)

    await asyncio.gather(*(in_turn(number) for number in range(in_flight)))
    percentiles = statistics.quantiles(taken, n=100)
    return {"p50": percentiles[49], "p99": percentiles[98]}
