"""Calls between threads and event loops: `in_thread` runs blocking functions in threads, even after
the main thread has ended; `call_on_loop` and `run_on_loop` reach an event loop from any thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LastingExecutor(ThreadPoolExecutor):
    """A thread pool that accepts work as long as any thread runs.

    The standard library's pools accept none once the main thread has ended, even while other
    threads of the user run.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function in the pool, or in a thread of its own if the pool accepts no work."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            return in_own_thread(fn, *args, **kwargs)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a blocking function in a thread, with the context variables of this task, and returns
    its result.
    """
    return await _start_in_thread(function, *args, **kwargs)


async def in_thread_to_end(
    function: Callable[P, T],
    when_cancelled: Callable[[asyncio.Future[T]], object],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Calls a blocking function as `in_thread` does. When this is cancelled, it ends only after the
    function, so that nothing is made that nobody knows of.

    `when_cancelled` is called at the first cancellation, with the future of the result.
    """
    # no task, which the end of an event loop would cancel
    running = _start_in_thread(function, *args, **kwargs)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        when_cancelled(running)
        while not running.done():  # this may be cancelled again meanwhile
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


def _start_in_thread(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    context = contextvars.copy_context()

    def call() -> T:
        return context.run(function, *args, **kwargs)

    try:
        return asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError:  # the main thread has ended
        return asyncio.wrap_future(in_own_thread(call))


def call_on_loop(
    loop: asyncio.AbstractEventLoop, function: Callable[[Unpack[Ts]], object], *args: *Ts
) -> bool:
    """Schedules a call in the thread of an event loop. May be called in any thread.

    Returns False when the loop is closed, so that the function will not be called.
    """
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if loop.is_closed():
            return False
        raise
    return True


def run_on_loop(
    loop: asyncio.AbstractEventLoop,
    function: Callable[P, Coroutine[Any, Any, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Future[T] | None:
    """Starts an async function on an event loop, and returns the future of its result. May be
    called in any thread.

    Returns None when the loop is closed, so that the function will not run.
    """
    coroutine = function(*args, **kwargs)
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()  # or Python warns that it was never awaited
        if loop.is_closed():
            return None
        raise


def in_own_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Starts a blocking function in a thread of its own, which does not keep the process alive."""
    outcome: Future[T] = Future()

    def run() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - awaiting the future raises it
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name="tinkex-late", daemon=True).start()
    return outcome
