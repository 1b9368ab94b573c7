"""`Portal`: the event loop in a background thread that all blocking clients of a process share."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from tinkex.errors import ClientClosedError, TinkexError
from tinkex.errors.tracebacks import shorten
from tinkex.futures.unretrieved_errors import log_unfinished
from tinkex.threads import LastingExecutor, call_on_loop, run_on_loop

P = ParamSpec("P")
T = TypeVar("T")

_LAST_WORDS = 3.0  # seconds for open sessions to end when the interpreter exits


class Portal:
    """An event loop in a thread of its own, on which other threads run functions and coroutines.

    `shared()` returns the portal of the process. A fork copies neither the thread nor the loop: in
    the child process, new clients get a new portal, and calls of older clients raise
    `ClientClosedError`.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        # a call begins before the last tasks are cancelled, or not at all; reentrant, since garbage
        # collection inside of a call may close an iterator
        self._gate = threading.RLock()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(LastingExecutor(thread_name_prefix="tinkex"))
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tinkex-portal", daemon=True
        )
        self._thread.start()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in the loop's thread and returns its result.

        The function must not block.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                outcome.set_exception(error)

        with self._entered():
            if not call_on_loop(self._loop, run):
                raise exiting()
        try:
            return outcome.result()
        except TinkexError as error:
            shorten(error)
            raise

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs an async function on the loop and returns its result.

        An interrupt (Ctrl-C) of the calling thread cancels it.
        """
        with self._entered():
            outcome = run_on_loop(self._loop, function, *args, **kwargs)
        if outcome is None:
            raise exiting()
        try:
            return outcome.result()
        except TinkexError as error:
            shorten(error)
            raise
        except CancelledError:
            if self._closing:
                raise exiting() from None
            raise
        except BaseException:
            outcome.cancel()
            raise

    @property
    def is_closing(self) -> bool:
        """Whether all calls are cancelled, and no new ones begin."""
        return self._closing

    def close(self) -> None:
        """Cancels all tasks, waits for them to end, and stops the thread."""
        if not self._thread.is_alive() or self._pid != os.getpid():
            return
        with self._gate:
            self._closing = True
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def _entered(self) -> Generator[None]:
        """Keeps the portal open while a call is handed to the loop. Raises `TinkexError` if calls
        cannot be made.
        """
        self._check()
        with self._gate:
            if self._closing:
                raise exiting()
            yield

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ClientClosedError(
                "this client was created before the process was forked, and its connections belong "
                "to the parent process",
                advice="Create the client in the process that uses it.",
            )
        if threading.current_thread() is self._thread:
            raise TinkexError(
                "a blocking call in the thread of the event loop would never return",
                advice="Make the call in another thread, or use the asyncio clients.",
            )


def exiting() -> ClientClosedError:
    """Returns the error of a call that the end of the program cancels or prevents."""
    return ClientClosedError("the interpreter is exiting")


async def _cancel_all() -> None:
    log_unfinished()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks and (await asyncio.wait(tasks, timeout=_LAST_WORDS))[1]:
        # the generators of these tasks still run, which asyncio would report for each of them
        asyncio.get_running_loop().set_exception_handler(_ignore_generators)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            await asyncio.get_running_loop().shutdown_asyncgens()  # connections among them


def _ignore_generators(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if "asyncgen" not in context:
        loop.default_exception_handler(context)


_lock = threading.Lock()
_shared: Portal | None = None


def shared() -> Portal:
    """Returns the portal of the process.

    The first call starts it; it stops when the interpreter exits.
    """
    global _shared
    with _lock:
        if _shared is None:
            _shared = Portal()
            atexit.register(_shared.close)
        return _shared


def _forget() -> None:
    """Resets the module in a forked child, where the portal's thread does not run and the lock may
    never be released.
    """
    global _shared, _lock
    _shared, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
