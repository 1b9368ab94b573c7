"""`LastingPool`: a pool of threads for a server in a script whose main thread may end before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LastingPool(ThreadPoolExecutor):
    """A pool that accepts work until it is shut down.

    The standard library's pools accept none once the main thread has ended, even while other
    threads of the user run and use the server.
    """

    _is_shut_down = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function in the pool, or in a thread of its own once the main thread has ended.
        Raises `RuntimeError` after `shutdown`.
        """
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            if self._is_shut_down:
                raise
            outcome: Future[T] = Future()
            work = partial(_run, outcome, partial(fn, *args, **kwargs))
            threading.Thread(target=work, daemon=True).start()
            return outcome

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accepts no more work. Functions in threads of their own are not waited for."""
        self._is_shut_down = True
        super().shutdown(wait, cancel_futures=cancel_futures)


def _run(outcome: Future[T], function: Callable[[], T]) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
