"""`AsyncAPIFuture`: the result to come of a call that changes a model or asks for samples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar
from weakref import ref

from tinkex.errors import TinkexError, WaitTimeoutError
from tinkex.errors.tracebacks import shorten
from tinkex.futures.unretrieved_errors import UnretrievedErrors, log_unretrieved
from tinkex.waiting.wait import RequestState

T = TypeVar("T")


class AsyncAPIFuture(Generic[T]):
    """The result to come of one call. Await it, now or later, once or often.

    Giving up an await does not cancel the request: a training step that was sent is not undone by
    looking away. `cancel()` does stop waiting for it, and a sample is then given up on the server,
    too, where that can be.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        state: RequestState,
        failures: UnretrievedErrors | None = None,
    ) -> None:
        self.task = asyncio.ensure_future(work)
        self.state = state
        self.error_retrieved = False
        """Whether somebody has got the error, or takes care of it."""
        self._failures = failures
        self.task.add_done_callback(_failure_noted(ref(self), state.operation))

    def __await__(self) -> Generator[Any, None, T]:
        return self._delivered().__await__()

    async def result_async(self, timeout: float | None = None) -> T:
        """The result, or raises the error, as an await does.

        Args:
            timeout: seconds to wait for it; by default as long as `Config.poll.max_wait` allows.
                The request goes on when it is over.

        Raises:
            WaitTimeoutError: it is not there in time.
        """
        done, _ = await asyncio.wait([self.task], timeout=timeout)
        if not done:
            raise not_in_time(self.state, timeout or 0.0)
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
        self.error_retrieved = True
        self.task.add_done_callback(lambda _: callback(self))

    def wrapped(self) -> asyncio.Future[T]:
        """The result for another future that is made of this one, and gives the error to the user
        in its place.
        """
        self.error_retrieved = True
        return asyncio.shield(self.task)

    def log_if_unretrieved(self) -> None:
        """Logs the error of a call that failed, unless somebody has seen it."""
        if (
            not self.error_retrieved
            and self.task.done()
            and not self.task.cancelled()
            and (error := self.task.exception())
        ):
            self.error_retrieved = True
            log_unretrieved(self.state.operation, error)

    def register_failure(self) -> None:
        """Has the session tell of the failure when it ends, unless somebody sees it before."""
        if self._failures is not None:
            self._failures.add(self)

    def __del__(self) -> None:
        if "task" in self.__dict__:  # it was made whole
            self.log_if_unretrieved()

    async def _delivered(self) -> T:
        try:
            return await asyncio.shield(self.task)
        except Exception as error:
            self.error_retrieved = True
            deliver(error, self.state)
            shorten(error)
            raise

    @property
    def request_id(self) -> str | None:
        """The server's name for the request; None until it took the request on."""
        return self.state.request_id

    @property
    def queue_state(self) -> str | None:
        """How the request waits, in the server's words: `active`, `paused_capacity`,
        `paused_rate_limit`.
        """
        return self.state.queue_state

    if not TYPE_CHECKING:  # mypy would take it for any attribute, and lose the result's type

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(no_result_yet(self, name, "await it"), name=name, obj=self)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.state.operation} request_id={self.request_id} "
            f"done={self.done()}>"
        )


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
            log_unretrieved(operation, error)
        else:
            future.register_failure()

    return note


def no_result_yet(future: object, name: str, how: str) -> str:
    kind = type(future).__name__
    return f"{kind!r} object has no attribute {name!r}: it is the result to come; {how} to have it"


def deliver(error: BaseException | None, state: RequestState) -> BaseException | None:
    """Notes on the error, and on its causes, that the user gets it."""
    cause = state.failure if error is not None and state.failure is not None else error
    while isinstance(cause, TinkexError):
        cause.delivered = True
        cause = cause.__cause__
    return error


def not_in_time(state: RequestState, timeout: float) -> WaitTimeoutError:
    return WaitTimeoutError(
        f"no result within {timeout:g} s",
        waited=timeout,
        wait=state.wait.facts() if state.wait else None,
        operation=state.operation,
        request_id=state.request_id,
        advice="The request goes on; wait again, or cancel it.",
    )
