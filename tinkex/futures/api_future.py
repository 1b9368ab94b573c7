"""`AsyncAPIFuture`: the future result of a training or sampling call."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar
from weakref import ref

from tinkex.errors import TinkexError, WaitTimeoutError
from tinkex.errors.tracebacks import shorten
from tinkex.futures.unretrieved_errors import UnretrievedErrors, log_unretrieved
from tinkex.waiting.wait import RequestState

T = TypeVar("T")


class AsyncAPIFuture(Generic[T]):
    """The future result of one call. It may be awaited at any time, and more than once.

    Cancelling an await does not cancel the request: a training step that was sent is not undone.
    `cancel()` stops waiting for the result; a sample is then cancelled on the server, too, if the
    server can do that. The error of a failed call that is never retrieved is logged.

    Example:
        fb = trainer.forward_backward(data, "cross_entropy")
        step = trainer.optim_step(AdamParams(learning_rate=1e-4))
        loss = (await fb).metrics["loss:sum"]
        try:
            await step.result_async(timeout=60.0)
        except WaitTimeoutError:
            print(step.request_id, step.queue_state)  # the step goes on
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
        """Whether a caller has received the error, or will, so that it is not logged.

        `TinkexError.delivered` notes on the error itself that the user has received it."""
        self._failures = failures
        self._awaiting: list[asyncio.Future[None]] = []
        """One for each await that has begun and not ended."""
        self.task.add_done_callback(partial(_end, ref(self), state.operation))

    def __await__(self) -> Generator[Any, None, T]:
        """Waits for the result. Cancelling the await does not cancel the call.

        It does what `asyncio.shield` does with a third of the objects: thousands of samples may
        wait, and the garbage collector visits all that they hold.
        """
        try:
            if not self.task.done():
                ended = self.task.get_loop().create_future()
                self._awaiting.append(ended)
                try:
                    yield from ended
                finally:
                    self._awaiting.remove(ended)
            return self.task.result()
        except Exception as error:
            self.error_retrieved = True
            deliver(error, self.state)
            shorten(error)
            raise

    async def result_async(self, timeout: float | None = None) -> T:
        """Waits for the result and returns it, as an await does.

        Args:
            timeout: the seconds to wait; by default as long as `Config.poll.max_wait` allows. The
                request goes on after a timeout.

        Raises:
            WaitTimeoutError: the result did not arrive in time.

        Example:
            future = trainer.forward(data, "cross_entropy")
            output = await future.result_async(timeout=60)
        """
        done, _ = await asyncio.wait([self.task], timeout=timeout)
        if not done:
            raise not_in_time(self.state, timeout or 0.0)
        return await self

    async def coroutine(self) -> T:
        """Waits for the result, for functions that take only coroutines."""
        return await self

    def done(self) -> bool:
        """Returns whether the result or the error has arrived."""
        return self.task.done()

    def cancel(self) -> bool:
        """Stops waiting for the result. Returns False if it has arrived already.

        Example:
            future = trainer.forward(data, "cross_entropy")
            print(future.cancel())
        """
        return self.task.cancel()

    def add_done_callback(self, callback: Callable[[AsyncAPIFuture[T]], object]) -> None:
        """Calls `callback(future)` on the event loop once the result or the error has arrived.

        Example:
            future = trainer.forward(data, "cross_entropy")
            future.add_done_callback(lambda done: print("it has ended:", done.done()))
            await future
        """
        self.error_retrieved = True
        self.task.add_done_callback(lambda _: callback(self))

    def wrapped(self) -> asyncio.Future[T]:
        """Returns an asyncio future of the result, for another future that passes on the error."""
        self.error_retrieved = True
        return asyncio.shield(self.task)

    def log_if_unretrieved(self) -> None:
        """Logs the error of a failed call, unless it was retrieved."""
        if (
            not self.error_retrieved
            and self.task.done()
            and not self.task.cancelled()
            and (error := self.task.exception())
        ):
            self.error_retrieved = True
            log_unretrieved(self.state.operation, error)

    def end(self, error: BaseException | None) -> None:
        """Ends the awaits. Makes the session log an error when it ends, unless it is retrieved
        before.
        """
        for ended in self._awaiting:
            if not ended.done():
                ended.set_result(None)
        if error is not None and self._failures is not None:
            self._failures.add(self)

    def __del__(self) -> None:
        if "task" in self.__dict__:  # the constructor was not interrupted
            self.log_if_unretrieved()

    @property
    def request_id(self) -> str | None:
        """The server's id of the request; None until the server has accepted it."""
        return self.state.request_id

    @property
    def queue_state(self) -> str | None:
        """The state of the server's queue: `active`, `paused_capacity` or `paused_rate_limit`; None
        if the server has not told.
        """
        return self.state.queue_state

    if not TYPE_CHECKING:  # with it, mypy would accept any attribute, and lose the result's type

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(no_result_yet(self, name, "await it"), name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {describe(self.task, self.state)}>"

    def _repr_html_(self) -> str:
        return future_html(self, self.task, self.state)


Outcome: TypeAlias = "asyncio.Future[Any] | Future[Any]"


def describe(outcome: Outcome, state: RequestState) -> str:
    """Returns the call of a future, its request, and whether it is done or has failed."""
    request = f" request_id={state.request_id}" if state.request_id else ""
    return f"{state.operation}{request} {_standing(outcome, state)}"


def future_html(future: object, outcome: Outcome, state: RequestState) -> str:
    """Returns the repr of a future as HTML, for notebooks, with what the call waits for."""
    waits = f"<br>{html.escape(str(state.wait.facts()))}" if state.wait else ""
    return f"<code>{html.escape(repr(future))}</code>{'' if outcome.done() else waits}"


def _standing(outcome: Outcome, state: RequestState) -> str:
    if not outcome.done():
        return f"queue={state.queue_state} done=False" if state.queue_state else "done=False"
    if outcome.cancelled():
        return "cancelled"
    if (error := outcome.exception()) is None:
        return "done=True"
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"


def _end(reference: ref[AsyncAPIFuture[Any]], operation: str, task: asyncio.Future[Any]) -> None:
    """Ends a future with its task, without keeping the future alive until then.

    Nobody can retrieve the error of a future that was dropped before its call failed, so that error
    is logged at once.
    """
    error = None if task.cancelled() else task.exception()
    if (future := reference()) is not None:
        future.end(error)
    elif error is not None:
        log_unretrieved(operation, error)


def no_result_yet(future: object, name: str, how: str) -> str:
    """Returns the message for an attribute of the result that was looked up on its future."""
    kind = type(future).__name__
    return f"{kind!r} object has no attribute {name!r}: it is a future; {how} to get the result"


def deliver(error: BaseException | None, state: RequestState) -> BaseException | None:
    """Marks an error and its causes as delivered to the user, and returns it."""
    cause = state.failure if error is not None and state.failure is not None else error
    while isinstance(cause, TinkexError):
        cause.delivered = True
        cause = cause.__cause__
    return error


def not_in_time(state: RequestState, timeout: float) -> WaitTimeoutError:
    """Returns the error for a result that did not arrive within `timeout` seconds."""
    return WaitTimeoutError(
        f"no result within {timeout:g} s",
        waited=timeout,
        wait=state.wait.facts() if state.wait else None,
        operation=state.operation,
        request_id=state.request_id,
        advice="The request goes on; wait again, or cancel it.",
    )
