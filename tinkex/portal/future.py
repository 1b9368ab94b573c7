"""`APIFuture`: the result to come of a call of a blocking client, for any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from tinkex.errors.tracebacks import shorten
from tinkex.futures.api_future import AsyncAPIFuture, deliver, no_result_yet, not_in_time
from tinkex.portal.portal import Portal

T = TypeVar("T")


class APIFuture(Generic[T]):
    """The result to come of one call of a blocking client. `result()` waits for it, in any thread,
    now or later, once or often.

    In an event loop it can be awaited, as an `AsyncAPIFuture` can.
    """

    def __init__(self, portal: Portal, begin: Callable[[], AsyncAPIFuture[T]]) -> None:
        self._portal = portal
        self._outcome: Future[T] = Future()
        self._future = portal.call(self._begin, begin)

    def __await__(self) -> Generator[Any, None, T]:
        return self._delivered(asyncio.shield(asyncio.wrap_future(self._outcome))).__await__()

    async def result_async(self, timeout: float | None = None) -> T:
        """As `result`, for a running event loop, which it does not hold up."""
        waiting = asyncio.wrap_future(self._outcome)
        # seen, also where nobody waits any more
        waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait([waiting], timeout=timeout)
        if not done:
            raise not_in_time(self._future.state, timeout or 0.0)
        return await self._delivered(waiting)

    async def coroutine(self) -> T:
        """As an await of the future itself, for what takes coroutines alone."""
        return await self

    def future(self) -> Future[T]:
        """For what works with futures of the standard library: `concurrent.futures.wait`,
        executors. Cancelling it is `cancel()`.
        """
        self._future.error_retrieved = True
        self._outcome.add_done_callback(
            lambda outcome: outcome.cancelled() or self._seen(outcome.exception())
        )
        return self._outcome

    def result(self, timeout: float | None = None) -> T:
        """The result, or raises the error.

        Args:
            timeout: seconds to wait for it; by default as long as `Config.poll.max_wait` allows.
                The request goes on when it is over.

        Raises:
            WaitTimeoutError: it is not there in time.
            CancelledError: `cancel` was called.
        """
        try:
            return self._outcome.result(timeout)
        except TimeoutError as error:
            if self._outcome.done():  # the work's own
                self._seen(error)
                raise
            raise not_in_time(self._future.state, timeout or 0.0) from error
        except Exception as error:
            self._seen(error)
            shorten(error)
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that `result` would raise, or None. Raises `WaitTimeoutError` and
        `CancelledError` as it does.
        """
        try:
            return self._seen(self._outcome.exception(timeout))
        except TimeoutError as error:
            raise not_in_time(self._future.state, timeout or 0.0) from error

    def done(self) -> bool:
        return self._outcome.done()

    def cancel(self) -> bool:
        """Stops waiting for the result; False when it is there already."""
        return self._portal.call(self._future.cancel)

    def add_done_callback(self, callback: Callable[[APIFuture[T]], object]) -> None:
        """Calls `callback(future)` in a worker thread once the result, or the error, is there; it
        may make blocking calls.
        """
        self._future.error_retrieved = True

        def call() -> None:
            self._future.task.add_done_callback(
                lambda task: task.get_loop().run_in_executor(None, callback, self)
            )

        self._portal.call(call)

    @property
    def request_id(self) -> str | None:
        """The server's name for the request; None until it took the request on."""
        return self._future.request_id

    @property
    def queue_state(self) -> str | None:
        """How the request waits, in the server's words: `active`, `paused_capacity`,
        `paused_rate_limit`.
        """
        return self._future.queue_state

    if not TYPE_CHECKING:  # mypy would take it for any attribute, and lose the result's type

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(no_result_yet(self, name, "call .result()"), name=name, obj=self)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._future.state.operation} request_id={self.request_id} "
            f"done={self.done()}>"
        )

    def _begin(self, begin: Callable[[], AsyncAPIFuture[T]]) -> AsyncAPIFuture[T]:
        future = begin()
        future.task.add_done_callback(self._take)
        self._outcome.add_done_callback(self._pass_on_cancellation)
        return future

    def _take(self, task: asyncio.Future[T]) -> None:
        if task.cancelled():
            self._outcome.cancel()
            self._outcome.set_running_or_notify_cancel()
        elif not self._outcome.set_running_or_notify_cancel():
            task.exception()  # nobody is left to see it
        elif error := task.exception():
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(task.result())

    async def _delivered(self, outcome: Awaitable[T]) -> T:
        try:
            return await outcome
        except Exception as error:
            self._seen(error)
            shorten(error)
            raise

    def _seen(self, error: BaseException | None) -> BaseException | None:
        """Notes that the user gets the error of the call, or learns that there is none."""
        self._future.error_retrieved = True
        return deliver(error, self._future.state)

    def _pass_on_cancellation(self, outcome: Future[T]) -> None:
        if outcome.cancelled() and not self._future.done():
            self.cancel()
