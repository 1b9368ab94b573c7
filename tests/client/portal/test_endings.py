"""Iterators that are used while the portal closes, as it does when the interpreter exits."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import cast

import pytest

from tinkex.errors import ClientClosedError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.futures.poller import RequestState
from tinkex.portal import portal as portals
from tinkex.portal.future import APIFuture
from tinkex.portal.iteration import iterate
from tinkex.portal.portal import Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


def numbers_that_end_slowly(portal: Portal, ending: threading.Event) -> Generator[int]:
    """Returns an iterator that has begun, and whose generator sets `ending` and takes a while when
    it is closed.
    """

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            ending.set()
            await asyncio.sleep(0.3)

    items = cast("Generator[int]", iterate(portal, numbers))
    assert next(items) == 1
    return items


def test_an_iterator_may_end_while_the_portal_closes_its_generator(portal: Portal) -> None:
    ending = threading.Event()
    items = numbers_that_end_slowly(portal, ending)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(portal.close)
        assert ending.wait(10)
        items.close()
        closing.result(10)


def test_no_call_begins_once_the_portal_closes(portal: Portal) -> None:
    ending = threading.Event()
    items = numbers_that_end_slowly(portal, ending)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(portal.close)
        assert ending.wait(10)
        with pytest.raises(ClientClosedError, match="exiting"):
            next(items)
        with pytest.raises(ClientClosedError, match="exiting"):
            portal.run(asyncio.sleep, 0)
        closing.result(10)


def test_calls_under_way_say_that_the_program_ends(portal: Portal) -> None:
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    def begin() -> AsyncAPIFuture[None]:
        return AsyncAPIFuture(forever(), RequestState("sample"))

    future = APIFuture(portal, begin)
    cancelled = APIFuture(portal, begin)
    assert cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result(10)
    begun.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(portal.run, forever)
        assert begun.wait(10)
        portal.close()
        with pytest.raises(ClientClosedError, match="exiting"):
            call.result(10)
    with pytest.raises(ClientClosedError, match="exiting"):
        future.result(10)


def test_a_generator_that_outlives_its_last_words_is_left_alone(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(portals, "_LAST_WORDS", 0.1)
    begun = threading.Event()

    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            begun.set()
            await asyncio.sleep(60)
            yield 1
        finally:
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue

    items = iterate(portal, stubborn)
    threading.Thread(target=lambda: next(items), daemon=True).start()
    assert begun.wait(10)
    with caplog.at_level(logging.ERROR, "asyncio"):
        portal.close()
    assert [record.getMessage() for record in caplog.records] == []


def test_an_iterator_that_is_collected_with_its_generator_ends_it_once(portal: Portal) -> None:
    """The garbage collector finds both at once in a cycle, in whatever order."""
    endings: list[str] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0.05)
            endings.append("ended")

    errors: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda unraisable: errors.append(unraisable.exc_value))
        for _ in range(20):
            cycle: list[object] = [iterate(portal, numbers)]
            assert next(cast("Iterator[int]", cycle[0])) == 1
            cycle.append(cycle)
            del cycle
            gc.collect()
    assert errors == []
    assert endings == ["ended"] * 20
