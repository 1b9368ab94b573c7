"""`in_thread`: runs blocking functions in threads, even after the main thread has ended."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
            return _in_own_thread(fn, *args, **kwargs)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a blocking function in a thread, with the context variables of this task, and returns
    its result.
    """
    context = contextvars.copy_context()

    def call() -> T:
        return context.run(function, *args, **kwargs)

    try:
        future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError:  # the main thread has ended
        future = asyncio.wrap_future(_in_own_thread(call))
    return await future


def _in_own_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
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
