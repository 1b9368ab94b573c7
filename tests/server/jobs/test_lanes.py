"""Lanes run jobs one at a time, or begin them one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tinkex_server.jobs.lanes import Job, Lanes


async def order(*, overlapping: bool) -> Sequence[str]:
    """Returns the order in which two jobs, whose numbers come in reverse, begin and end."""
    lanes, seen, both_ended = Lanes(overlapping=overlapping), list[str](), asyncio.Event()

    def job(name: str) -> Job:
        async def run() -> None:
            seen.append(f"{name} begins")
            await asyncio.sleep(0.02 if name == "first" else 0)
            seen.append(f"{name} ends")
            if len(seen) == 4:
                both_ended.set()

        return Job(None, run)

    lanes.put("model", 2, job("second"))
    lanes.put("model", 1, job("first"))
    async with asyncio.timeout(10):
        await both_ended.wait()
    await lanes.close()
    return seen


@pytest.mark.parametrize(
    ("overlapping", "expected"),
    [
        (False, ["first begins", "first ends", "second begins", "second ends"]),
        (True, ["first begins", "second begins", "second ends", "first ends"]),
    ],
)
def test_jobs_begin_in_the_order_of_their_numbers(
    overlapping: bool, expected: Sequence[str]
) -> None:
    assert asyncio.run(order(overlapping=overlapping)) == expected


def test_closing_ends_the_jobs_that_have_begun() -> None:
    async def work() -> bool:
        lanes, begun, cancelled = Lanes(overlapping=True), asyncio.Event(), asyncio.Event()

        async def run() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        lanes.put("model", 1, Job(None, run))
        await begun.wait()
        await lanes.close()
        return cancelled.is_set()

    assert asyncio.run(work())
