"""Calls from threads to event loops, of which some are closed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tinkex.errors import ClientClosedError
from tinkex.portal.portal import Portal
from tinkex.threads import call_on_loop, run_on_loop
from tinkex.transport.lifetimes import LoopBinding


async def number() -> int:
    return 3


@pytest.fixture
def closed_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def test_a_call_reaches_a_loop_from_another_thread() -> None:
    async def main() -> None:
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        threads: list[threading.Thread] = []

        def note() -> None:
            threads.append(threading.current_thread())
            called.set()

        assert await asyncio.to_thread(call_on_loop, loop, note)
        await asyncio.wait_for(called.wait(), 20)
        assert threads == [threading.current_thread()]
        outcome = await asyncio.to_thread(run_on_loop, loop, number)
        assert outcome is not None
        assert await asyncio.wrap_future(outcome) == 3

    asyncio.run(main())


def test_a_closed_loop_is_no_error(closed_loop: asyncio.AbstractEventLoop) -> None:
    assert call_on_loop(closed_loop, print) is False
    assert run_on_loop(closed_loop, number) is None


def test_an_error_that_is_not_of_a_closed_loop_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("another fault")

        monkeypatch.setattr(loop, "call_soon_threadsafe", fail)
        with pytest.raises(RuntimeError, match="another fault"):
            call_on_loop(loop, print)
        with pytest.raises(RuntimeError, match="another fault"):
            run_on_loop(loop, number)
        monkeypatch.undo()

    asyncio.run(main())


def test_a_client_whose_loop_closes_meanwhile_is_told_so(
    closed_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop closes between the look at it and the call."""
    monkeypatch.setattr(closed_loop, "is_running", lambda: True)
    answers = [False]
    is_closed = closed_loop.is_closed
    monkeypatch.setattr(closed_loop, "is_closed", lambda: answers.pop() if answers else is_closed())

    async def work() -> None:
        raise AssertionError("the loop is closed")

    async def main() -> bool:
        return await LoopBinding(closed_loop).run(work)

    assert asyncio.run(main()) is False


def test_calls_of_a_portal_that_has_ended_say_so() -> None:
    portal = Portal()
    portal.close()
    with pytest.raises(ClientClosedError, match="the interpreter is exiting"):
        portal.call(print)
    with pytest.raises(ClientClosedError, match="the interpreter is exiting"):
        portal.run(number)
