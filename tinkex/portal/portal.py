"""`Portal`: the event loop that the blocking clients share, in a background thread of the
process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from tinkex.errors import ClientClosedError, TinkexError
from tinkex.errors.tracebacks import shorten
from tinkex.threads import LastingExecutor

P = ParamSpec("P")
T = TypeVar("T")

_LAST_WORDS = 3.0  # seconds that open sessions get to say goodbye when the interpreter exits


class Portal:
    """Runs work on its event loop for any thread but the loop's own. `shared()` gives the process's
    one.

    A fork copies neither the thread nor the loop: the child gets a new portal for new clients, and
    old ones refuse.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(LastingExecutor(thread_name_prefix="tinkex"))
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tinkex-portal", daemon=True
        )
        self._thread.start()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a function returns or raises that must run on the loop's thread, and does not wait
        there.
        """
        self._check()
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                outcome.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        try:
            return outcome.result()
        except TinkexError as error:
            shorten(error)
            raise

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What an async function returns or raises. An interrupt of the waiting thread (Ctrl-C)
        cancels it.
        """
        self._check()
        outcome = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), self._loop)
        try:
            return outcome.result()
        except TinkexError as error:
            shorten(error)
            raise
        except BaseException:
            outcome.cancel()
            raise

    def close(self) -> None:
        """Cancels what runs, lets it end, and stops the thread."""
        if not self._thread.is_alive() or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ClientClosedError(
                "this client was made before the process was forked, and its connections stayed "
                "with the parent",
                advice="Make the client in the process that uses it.",
            )
        if threading.current_thread() is self._thread:
            raise TinkexError(
                "a blocking call on the thread that would have to answer it",
                advice="Call from another thread, or use the asyncio clients.",
            )
        if self._loop.is_closed():
            raise ClientClosedError("the interpreter is exiting")


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LAST_WORDS)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            await asyncio.get_running_loop().shutdown_asyncgens()  # connections among them


_lock = threading.Lock()
_shared: Portal | None = None


def shared() -> Portal:
    """The process's portal, started when it is first needed and stopped when the interpreter
    exits.
    """
    global _shared
    with _lock:
        if _shared is None:
            _shared = Portal()
            atexit.register(_shared.close)
        return _shared


def _forget() -> None:
    """In the child of a fork, where the portal's thread does not run and the lock may be held for
    ever.
    """
    global _shared, _lock
    _shared, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
