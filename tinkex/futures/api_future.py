"""`APIFuture` and `AsyncAPIFuture`: what a call that changes a model or asks for samples gives back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar
from weakref import ref

from tinkex.errors import TinkexError, WaitTimeoutError
from tinkex.futures.unseen import UnseenFailures, tell_failure
from tinkex.portal import Portal
from tinkex.tracebacks import shorten
from tinkex.transport.waiting import RequestState

T = TypeVar("T")


class AsyncAPIFuture(Generic[T]):
    """The result to come of one call. Await it, now or later, once or often.

    Giving up an await does not cancel the request: a training step that was sent is not undone by looking away. `cancel()` does
    stop waiting for it, and a sample is then given up on the server, too, where that can be.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        state: RequestState,
        failures: UnseenFailures | None = None,
    ) -> None:
        self.task = asyncio.ensure_future(work)
        self.state = state
        self.seen = False
        """Whether somebody has got the error, or takes care of it."""
        self._failures = failures
        self.task.add_done_callback(_failure_noted(ref(self), state.operation))

    def __await__(self) -> Generator[Any, None, T]:
        return self._delivered().__await__()

    async def result_async(self, timeout: float | None = None) -> T:
        """The result, or raises the error, as an await does.

        Args:
            timeout: seconds to wait for it; by default as long as `Config.poll.max_wait` allows. The request goes on when it is over.

        Raises:
            WaitTimeoutError: it is not there in time.
        """
        done, _ = await asyncio.wait([self.task], timeout=timeout)
        if not done:
            raise _not_in_time(self.state, timeout or 0.0)
        return await self

    async def coroutine(self) -> T:
        """As an await of the future itself, for what takes coroutines alone."""
        return await self

    def done(self) -> bool:
        return self.task.done()

    def cancel(self) -> bool:
        """Stops waiting for the result; False when it is there already."""
        return self.task.cancel()

    def add_done_callback(self, callback: Callable[[AsyncAPIFuture[T]], object]) -> None:
        """Calls `callback(future)` on the event loop once the result, or the error, is there."""
        self.seen = True
        self.task.add_done_callback(lambda _: callback(self))

    def wrapped(self) -> asyncio.Future[T]:
        """The result for another future that is made of this one, and gives the error to the user in its place."""
        self.seen = True
        return asyncio.shield(self.task)

    def tell_unseen(self) -> None:
        """Logs the error of a call that failed, unless somebody has seen it."""
        if (
            not self.seen
            and self.task.done()
            and not self.task.cancelled()
            and (error := self.task.exception())
        ):
            self.seen = True
            tell_failure(self.state.operation, error)

    def note_failure(self) -> None:
        """Has the session tell of the failure when it ends, unless somebody sees it before."""
        if self._failures is not None:
            self._failures.add(self)

    def __del__(self) -> None:
        if "task" in self.__dict__:  # it was made whole
            self.tell_unseen()

    async def _delivered(self) -> T:
        try:
            return await asyncio.shield(self.task)
        except Exception as error:
            self.seen = True
            _deliver(error, self.state)
            shorten(error)
            raise

    @property
    def request_id(self) -> str | None:
        """The server's name for the request; None until it took the request on."""
        return self.state.request_id

    @property
    def queue_state(self) -> str | None:
        """How the request waits, in the server's words: `active`, `paused_capacity`, `paused_rate_limit`."""
        return self.state.queue_state

    if not TYPE_CHECKING:  # mypy would take it for any attribute, and lose the result's type

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(_no_result_yet(self, name, "await it"), name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.operation} request_id={self.request_id} done={self.done()}>"


class APIFuture(Generic[T]):
    """The result to come of one call of a blocking client. `result()` waits for it, in any thread, now or later, once or often.

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
            raise _not_in_time(self._future.state, timeout or 0.0)
        return await self._delivered(waiting)

    async def coroutine(self) -> T:
        """As an await of the future itself, for what takes coroutines alone."""
        return await self

    def future(self) -> Future[T]:
        """For what works with futures of the standard library: `concurrent.futures.wait`, executors. Cancelling it is `cancel()`."""
        self._future.seen = True
        self._outcome.add_done_callback(
            lambda outcome: outcome.cancelled() or self._seen(outcome.exception())
        )
        return self._outcome

    def result(self, timeout: float | None = None) -> T:
        """The result, or raises the error.

        Args:
            timeout: seconds to wait for it; by default as long as `Config.poll.max_wait` allows. The request goes on when it is over.

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
            raise _not_in_time(self._future.state, timeout or 0.0) from error
        except Exception as error:
            self._seen(error)
            shorten(error)
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that `result` would raise, or None. Raises `WaitTimeoutError` and `CancelledError` as it does."""
        try:
            return self._seen(self._outcome.exception(timeout))
        except TimeoutError as error:
            raise _not_in_time(self._future.state, timeout or 0.0) from error

    def done(self) -> bool:
        return self._outcome.done()

    def cancel(self) -> bool:
        """Stops waiting for the result; False when it is there already."""
        return self._portal.call(self._future.cancel)

    def add_done_callback(self, callback: Callable[[APIFuture[T]], object]) -> None:
        """Calls `callback(future)` in a worker thread once the result, or the error, is there; it may make blocking calls."""
        self._future.seen = True

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
        """How the request waits, in the server's words: `active`, `paused_capacity`, `paused_rate_limit`."""
        return self._future.queue_state

    if not TYPE_CHECKING:  # mypy would take it for any attribute, and lose the result's type

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(_no_result_yet(self, name, "call .result()"), name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._future.state.operation} request_id={self.request_id} done={self.done()}>"

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
        self._future.seen = True
        return _deliver(error, self._future.state)

    def _pass_on_cancellation(self, outcome: Future[T]) -> None:
        if outcome.cancelled() and not self._future.done():
            self.cancel()


def _failure_noted(
    reference: ref[AsyncAPIFuture[Any]], operation: str
) -> Callable[[asyncio.Future[Any]], None]:
    """Returns a callback for the task of a future, which it does not keep alive: one that was
    dropped before its call failed can be asked by nobody, so the failure is told at once."""

    def note(task: asyncio.Future[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if (future := reference()) is None:
            tell_failure(operation, error)
        else:
            future.note_failure()

    return note


def _no_result_yet(future: object, name: str, how: str) -> str:
    kind = type(future).__name__
    return f"{kind!r} object has no attribute {name!r}: it is the result to come; {how} to have it"


def _deliver(error: BaseException | None, state: RequestState) -> BaseException | None:
    """Notes on the error, and on its causes, that the user gets it."""
    cause = state.failed if error is not None and state.failed is not None else error
    while isinstance(cause, TinkexError):
        cause.delivered = True
        cause = cause.__cause__
    return error


def _not_in_time(state: RequestState, timeout: float) -> WaitTimeoutError:
    return WaitTimeoutError(
        f"no result within {timeout:g} s",
        waited=timeout,
        wait=state.wait.facts() if state.wait else None,
        operation=state.operation,
        request_id=state.request_id,
        advice="The request goes on; wait again, or cancel it.",
    )
