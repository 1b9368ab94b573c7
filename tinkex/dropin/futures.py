"""The futures of the drop-in, by their names in the official SDK."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from tinkex.errors import InvalidInputError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.portal.future import APIFuture as TinkexFuture
from tinkex.portal.portal import Portal
from tinkex.waiting.wait import RequestState

P = ParamSpec("P")
T = TypeVar("T")


class APIFuture(ABC, Generic[T]):
    """A future of a call of a client: wait by `result()`, or await it.

    The futures of tinkex are instances. Programs may derive futures of their own, for tests.
    """

    @abstractmethod
    def result(self, timeout: float | None = None) -> T:
        """Waits for the result and returns it, or raises the error of the call."""

    @abstractmethod
    async def result_async(self, timeout: float | None = None) -> T:
        """Returns what `result` returns, without blocking the event loop."""

    @abstractmethod
    def future(self) -> Future[T]:
        """Returns a future of the standard library."""

    async def coroutine(self) -> T:
        """Awaits the result, for functions that accept only coroutines."""
        return await self.result_async()

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()


APIFuture.register(TinkexFuture)


class SampleFuture(Future[T]):
    """The future of a sample, which is one of the standard library as well: programs give it to
    `concurrent.futures.as_completed` and to `asyncio.wrap_future` as it is.
    """

    def __init__(self, call: TinkexFuture[T]) -> None:
        super().__init__()
        self._call = call
        call._outcome.add_done_callback(self._take)

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result and returns it, or raises the error of the call.

        Raises:
            WaitTimeoutError: the result did not arrive within `timeout` seconds. The request goes
                on.
        """
        return self._call.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the outcome and returns the error of the call, or None."""
        return self._call.exception(timeout)

    async def result_async(self, timeout: float | None = None) -> T:
        """Returns what `result` returns, without blocking the event loop."""
        return await self._call.result_async(timeout)

    async def coroutine(self) -> T:
        """Awaits the result, for functions that accept only coroutines."""
        return await self._call

    def __await__(self) -> Generator[Any, None, T]:
        return self._call.__await__()

    def future(self) -> Future[T]:
        """Returns a future of the standard library. Cancelling it cancels the request."""
        return self._call.future()

    def done(self) -> bool:
        """Returns whether the result or the error has arrived."""
        return self._call.done()

    def cancel(self) -> bool:
        """Stops waiting for the result. Returns False if the call has already ended."""
        return self._call.cancel()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Calls `fn(future)` when the call has ended."""
        self._call.future()  # whose error is the callback's to see
        super().add_done_callback(fn)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return getattr(self.__dict__["_call"], name)

    def __repr__(self) -> str:
        return repr(self._call)

    def _take(self, outcome: Future[T]) -> None:
        if outcome.cancelled():
            super().cancel()
        if not self.set_running_or_notify_cancel():
            return
        if error := outcome.exception():
            self.set_exception(error)
        else:
            self.set_result(outcome.result())


APIFuture.register(SampleFuture)


class AwaitableConcurrentFuture(APIFuture[T]):
    """A future of the standard library that can be awaited in any event loop, too."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result and returns it. Raises `TimeoutError` after `timeout` seconds."""
        return self._future.result(timeout)

    async def result_async(self, timeout: float | None = None) -> T:
        """Returns what `result` returns, without blocking the event loop."""
        return await asyncio.wait_for(asyncio.wrap_future(self._future), timeout)

    def future(self) -> Future[T]:
        """Returns the future that this one is made of."""
        return self._future


def begun(
    portal: Portal,
    operation: str,
    function: Callable[P, Coroutine[Any, Any, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> TinkexFuture[T]:
    """Calls an async method of a client on its event loop, and returns a future of its result.

    Raises:
        InvalidInputError: an argument is wrong. This is raised at once, as in the official SDK.
    """
    made: list[AsyncAPIFuture[T]] = []

    def begin() -> AsyncAPIFuture[T]:
        made.append(AsyncAPIFuture(function(*args, **kwargs), RequestState(operation)))
        return made[0]

    future = TinkexFuture(portal, begin)
    # The call below is behind the first step of the method, in which it checks its arguments.
    if error := portal.call(_refusal, made[0]):
        raise error
    return future


def _refusal(future: AsyncAPIFuture[Any]) -> InvalidInputError | None:
    """Returns the error of a call that has ended because of its arguments."""
    if not future.done() or future.task.cancelled():
        return None
    error = future.task.exception()
    if not isinstance(error, InvalidInputError):
        return None
    future.error_retrieved = True
    return error
