"""`LoopBinding`: the event loop that a client belongs to; and references that keep nothing alive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar
from weakref import WeakMethod

from attrs import define

from tinkex.errors import ClientClosedError
from tinkex.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")


@define(eq=False)
class LoopBinding:
    """The event loop on which a client was used first: its connections, its waits and its tasks
    live there.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def enter(self, operation: str) -> None:
        """Takes the running loop for the client's own if it has none. Raises `ClientClosedError` on
        another one than its own.
        """
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise ClientClosedError(
                f"not sent: this client belongs to another event loop, which {self._in_words()}; "
                "its connections are there",
                operation=operation,
                advice=(
                    "Make a client in each asyncio.run, or use the blocking one, which works from "
                    "everywhere."
                ),
            )

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Runs a function on the client's own loop; returns False where that has ended."""
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            await function()
        elif loop.is_closed():
            return False
        elif loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(), loop))
        else:
            await in_thread(lambda: loop.run_until_complete(function()))
        return True

    def soon(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Has a function run on the client's own loop, unless that has ended. May be called in any
        thread.
        """
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(soon, self._loop, function)

    def _in_words(self) -> str:
        if self._loop is None or self._loop.is_closed():
            return "has ended"
        return "runs in another thread" if self._loop.is_running() else "does not run now"


_under_way: set[asyncio.Future[object]] = set()
"""What `soon` has begun: a loop alone does not keep its tasks."""


def soon(
    loop: asyncio.AbstractEventLoop, function: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Begins a task, and keeps it until it is done. To be called on the loop's thread."""
    task = loop.create_task(function(), name="tinkex last words")
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)


def weakly(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Returns a bound method as a function that does not keep its object alive, for what that
    object holds itself.
    """
    reference = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        bound = reference()
        if bound is None:
            raise ClientClosedError("the client was dropped meanwhile")
        return bound(*args, **kwargs)

    return call
