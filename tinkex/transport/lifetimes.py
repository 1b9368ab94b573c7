"""`LoopBinding`: the event loop that a client belongs to. Also weak references to methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from weakref import WeakMethod

from attrs import define

from tinkex.errors import ClientClosedError
from tinkex.threads import call_on_loop, in_thread, run_on_loop

P = ParamSpec("P")
T = TypeVar("T")


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
        """Runs a function on the client's loop. Returns False when that loop has ended."""
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            await function()
        elif loop.is_closed():
            return False
        elif loop.is_running():
            outcome = run_on_loop(loop, function)
            if outcome is None:  # it was closed meanwhile
                return False
            await asyncio.wrap_future(outcome)
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
