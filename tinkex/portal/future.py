"""`APIFuture`: a thread-safe future of a call of a blocking client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from tinkex.errors.tracebacks import shorten
from tinkex.futures.api_future import (
    AsyncAPIFuture,
    deliver,
    describe,
    future_html,
    no_result_yet,
    not_in_time,
)
from tinkex.portal.portal import Portal, exiting

T = TypeVar("T")


class APIFuture(Generic[T]):
    """A future of one call of a blocking client.

    `result()` waits for the result; it can be called from any thread and any number of times. In an
    event loop, the future can also be awaited, like an `AsyncAPIFuture`.

    Example:
        fb = trainer.forward_backward(data, "cross_entropy")
        step = trainer.optim_step(AdamParams(learning_rate=1e-4))
        loss = fb.result().metrics["loss:sum"]
        try:
            step.result(timeout=60.0)
        except WaitTimeoutError:
            print(step.request_id, step.queue_state)  # the step goes on
    """

    def __init__(self, portal: Portal, begin: Callable[[], AsyncAPIFuture[T]]) -> None:
        self._portal = portal
        self._outcome: Future[T] = Future()
        self._future = portal.call(self._begin, begin)

    def __await__(self) -> Generator[Any, None, T]:
        return self._delivered(asyncio.shield(asyncio.wrap_future(self._outcome))).__await__()

    async def result_async(self, timeout: float | None = None) -> T:
        """Returns what `result` returns, without blocking the event loop."""
        waiting = asyncio.wrap_future(self._outcome)
        # Retrieves the error even if nobody waits any more, so that asyncio does not log it.
        waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait([waiting], timeout=timeout)
        if not done:
            raise not_in_time(self._future.state, timeout or 0.0)
        return await self._delivered(waiting)

    async def coroutine(self) -> T:
        """Awaits the future, for functions that accept only coroutines."""
        return await self

    def future(self) -> Future[T]:
        """Returns a `concurrent.futures.Future`, for functions such as `concurrent.futures.wait`.

        Its `cancel` does what `cancel` of this future does.

        Example:
            import concurrent.futures

            calls = [trainer.forward([each], "cross_entropy").future() for each in data]
            for call in concurrent.futures.as_completed(calls):
                print(call.result().metrics["loss:sum"])
        """
        self._future.error_retrieved = True
        self._outcome.add_done_callback(
            lambda outcome: outcome.cancelled() or self._seen(outcome.exception())
        )
        return self._outcome

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result and returns it, or raises the error of the call.

        Args:
            timeout: seconds to wait; by default as long as `Config.poll.max_wait` allows. The
                request continues after a timeout.

        Raises:
            WaitTimeoutError: the result did not arrive in time.
            CancelledError: `cancel` was called.

        Example:
            future = trainer.forward(data, "cross_entropy")
            loss = future.result(timeout=60).metrics["loss:sum"]
        """
        try:
            return self._outcome.result(timeout)
        except TimeoutError as error:
            if self._outcome.done():  # the error of the call itself
                self._seen(error)
                raise
            raise not_in_time(self._future.state, timeout or 0.0) from error
        except Exception as error:
            self._seen(error)
            shorten(error)
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the outcome and returns the error of the call, or None.

        Raises `WaitTimeoutError` and `CancelledError` like `result`.

        Example:
            future = trainer.forward(data, "cross_entropy")
            if (error := future.exception()) is not None:
                print(error)
        """
        try:
            return self._seen(self._outcome.exception(timeout))
        except TimeoutError as error:
            raise not_in_time(self._future.state, timeout or 0.0) from error

    def done(self) -> bool:
        return self._outcome.done()

    def cancel(self) -> bool:
        """Stops waiting for the result. Returns False if the call has already ended.

        Example:
            future = trainer.forward(data, "cross_entropy")
            print(future.cancel())
        """
        return self._portal.call(self._future.cancel)

    def add_done_callback(self, callback: Callable[[APIFuture[T]], object]) -> None:
        """Calls `callback(future)` in a worker thread when the call has ended.

        The callback may make blocking calls.

        Example:
            future = trainer.forward(data, "cross_entropy")
            future.add_done_callback(lambda done: print(done.result().metrics))
            future.result()
        """
        self._future.error_retrieved = True

        def call() -> None:
            self._future.task.add_done_callback(
                lambda task: task.get_loop().run_in_executor(None, callback, self)
            )

        self._portal.call(call)

    @property
    def request_id(self) -> str | None:
        """The id of the request on the server; None until the server has accepted it."""
        return self._future.request_id

    @property
    def queue_state(self) -> str | None:
        """The queue state that the server reports: `active`, `paused_capacity` or
        `paused_rate_limit`.
        """
        return self._future.queue_state

    if not TYPE_CHECKING:  # hidden from mypy, which would type every attribute by it

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(no_result_yet(self, name, "call .result()"), name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {describe(self._outcome, self._future.state)}>"

    def _repr_html_(self) -> str:
        return future_html(self, self._outcome, self._future.state)

    def _begin(self, begin: Callable[[], AsyncAPIFuture[T]]) -> AsyncAPIFuture[T]:
        future = begin()
        future.task.add_done_callback(self._take)
        self._outcome.add_done_callback(self._pass_on_cancellation)
        return future

    def _take(self, task: asyncio.Future[T]) -> None:
        if task.cancelled() and not self._portal.is_closing:
            self._outcome.cancel()
        # retrieved even if nobody waits for it, so that asyncio does not log it
        error = exiting() if task.cancelled() else task.exception()
        if not self._outcome.set_running_or_notify_cancel():
            return
        if error:
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
        """Records that the user has received the outcome of the call."""
        self._future.error_retrieved = True
        return deliver(error, self._future.state)

    def _pass_on_cancellation(self, outcome: Future[T]) -> None:
        if outcome.cancelled() and not self._future.done():
            self.cancel()
