"""`LoopBinding`: the event loop that a client belongs to. Also weak references to methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar
from weakref import WeakMethod

from attrs import define

from tinkex.errors import ClientClosedError
from tinkex.threads import call_on_loop, in_thread, run_on_loop

P = ParamSpec("P")
T = TypeVar("T")
_LOOK = 0.2  # seconds between two looks whether a loop still runs


@define(eq=False)
class LoopBinding:
    """The event loop of a client: the one that it was first used on.

    The client's connections, waits and tasks belong to that loop.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def check(self, operation: str) -> None:
        """Binds the client to the running loop at the first call.

        Raises `ClientClosedError` on any other loop afterwards.
        """
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise ClientClosedError(
                f"not sent: this client belongs to another event loop, which {self._state()}; "
                "its connections cannot be used here",
                operation=operation,
                advice=(
                    "Make a client in each asyncio.run, or use the blocking client, which works "
                    "everywhere."
                ),
            )

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Runs a function on the client's loop. Returns False when that loop has ended.

        A loop that does not run, or stops meanwhile, is run in a thread until the function ends.
        """
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            await function()
        elif loop.is_closed():
            return False
        elif loop.is_running():
            outcome = run_on_loop(loop, function)
            if outcome is None:  # it was closed meanwhile
                return False
            return await _ended(loop, outcome)
        else:
            await in_thread(lambda: loop.run_until_complete(function()))
        return True

    def schedule(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Schedules a function on the client's loop, unless that loop has ended. May be called in
        any thread.
        """
        if self._loop is not None:
            call_on_loop(self._loop, start_task, self._loop, function)

    def _state(self) -> str:
        if self._loop is None or self._loop.is_closed():
            return "has ended"
        return "runs in another thread" if self._loop.is_running() else "does not run now"


async def _ended(loop: asyncio.AbstractEventLoop, outcome: Future[None]) -> bool:
    """Waits for the end of a task of another loop. Returns False if that loop is closed before.

    A loop that stops without being closed takes its tasks with it. It is then run from here until
    this task has ended, as a loop is that had stopped before.
    """
    waiting = asyncio.wrap_future(outcome)
    try:
        while not (await asyncio.wait({waiting}, timeout=_LOOK))[0]:
            if loop.is_closed():
                return False
            if not loop.is_running():
                await in_thread(_run_until, loop, outcome)
        await waiting
        return True
    finally:
        waiting.cancel()


def _run_until(loop: asyncio.AbstractEventLoop, outcome: Future[None]) -> None:
    """Runs a loop until a task of it has ended, if nobody else runs it again."""
    done: asyncio.Future[None] = loop.create_future()
    outcome.add_done_callback(lambda _: call_on_loop(loop, _set, done))
    with suppress(RuntimeError):  # somebody else runs, stops or closes it
        loop.run_until_complete(done)


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


_running: set[asyncio.Future[object]] = set()
"""The tasks of `start_task`: an event loop alone does not keep its tasks alive."""


def start_task(
    loop: asyncio.AbstractEventLoop, function: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Starts a task, and keeps it alive until it is done. Must be called in the loop's thread."""
    task = loop.create_task(function(), name="tinkex shutdown")
    _running.add(task)
    task.add_done_callback(_running.discard)


def weakly(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Returns a function that calls a bound method without keeping the method's object alive.

    It is for callbacks that the object itself holds.
    """
    reference = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        bound = reference()
        if bound is None:
            raise ClientClosedError("the client was garbage-collected in the meantime")
        return bound(*args, **kwargs)

    return call
