"""Polls the server for the result of a request that it accepted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import orjson
from attrs import define, field
from tinkex_api.api.futures import retrieve_future
from tinkex_api.models import FutureRetrieveRequest, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex import events
from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    GoneError,
    NotFoundError,
    RequestFailedError,
    ResultLostError,
    TinkexError,
)
from tinkex.futures.answers import (
    Answer,
    Failed,
    Finished,
    Payload,
    Pending,
    ResultLost,
    classify,
    pause_after,
)
from tinkex.threads import in_thread
from tinkex.transport import failures, port
from tinkex.transport.answers import PARSE_ERRORS
from tinkex.transport.backoff import RetryBudget
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import RequestState, Wait
from tinkex.wire import large_json

T = TypeVar("T")

NO_RESULT = (NotFoundError, GoneError, ResultLostError)
"""Errors which mean that the server has no result under the request's id, or no longer has it. A
sample may then be requested again.
"""

FAST = 0.5
"""The seconds below which a poll was not held by the server."""

_PROTOBUF = "application/x-protobuf"
# operations whose results have a protobuf form
_IN_PROTOBUF = frozenset({"forward", "forward_backward", "sample"})
_ACCEPT_BOTH = {"Accept": f"{_PROTOBUF}, application/json"}
_LARGE = 256 << 10  # bytes of an answer that is read in a thread, since it takes milliseconds
_HOLD_MARGIN = 15.0  # seconds that a poll may take longer than the server is known to hold it


async def send_and_wait(
    transport: Transport, request: Request[UntypedAPIFuture], read: Callable[[Mapping[str, Any]], T]
) -> T:
    """Sends a request without a number, and returns what `read` makes of its result.

    Raises what sending and `wait_for_result` raise.
    """
    promise = await transport.send(request)
    return await wait_for_result(
        transport, RequestState(request.operation, promise.request_id), of_fields(read)
    )


def of_fields(read: Callable[[Mapping[str, Any]], T]) -> Callable[[Payload], T]:
    """Returns a reader of results that are JSON on all servers, from one of their fields."""

    def read_fields(payload: Payload) -> T:
        if isinstance(payload, bytes):
            raise ValueError("it is a protobuf message, but JSON was expected")
        return read(payload)

    return read_fields


def wait_for_result(
    transport: Transport, state: RequestState, read: Callable[[Payload], T]
) -> Coroutine[Any, Any, T]:
    """Waits until the request `state.request_id` is done, and returns what `read` makes of its
    result.

    A malformed answer is requested again. Each id must be waited for in one place only, since some
    servers give a result out once.

    Args:
        transport: the connections to the server.
        state: the request.
        read: reads the result, in the encoding that the server chose. Raises `ValueError` or a
            similar error for a malformed one. Called in a thread if the result is large.

    Raises:
        RequestFailedError: the work failed.
        WaitTimeoutError: it took longer than `PollSettings.max_wait`.
        ResultLostError, GoneError, NotFoundError: the server has no result under this id, or no
            longer has it.
        APIResponseValidationError: all answers were malformed, in as many attempts as
            `Config.retry` allows.
        APIStatusError: the server refuses the poll.
        APIConnectionError: the server is unreachable for longer than `Config.retry` allows.
    """
    return _Polling(transport, state, transport.wait(state, "its result")).result(read)


@define(eq=False)
class _Polling:
    transport: Transport
    state: RequestState
    wait: Wait
    retry_budget: RetryBudget = field(init=False)
    fast_polls: int = 0
    answer_bytes: int = 0
    """The size of the last answer."""

    def __attrs_post_init__(self) -> None:
        self.retry_budget = RetryBudget(self.state.retry or self.transport.config.retry)

    async def result(self, read: Callable[[Payload], T]) -> T:
        request = retrieve_future.request(body=FutureRetrieveRequest(self.state.request_id or ""))
        headers = _ACCEPT_BOTH if self.state.operation in _IN_PROTOBUF else {}
        with self.wait:
            self.wait.set_owner(
                "computation", "the poll is not answered yet, so that the server may not have begun"
            )
            while True:
                began = self.transport.clock.now()
                match await self._poll(request, headers, began):
                    case Finished(result):
                        try:
                            if self.answer_bytes <= _LARGE:
                                return read(result)
                            return await in_thread(read, result)
                        except PARSE_ERRORS as error:
                            await self._after_unreadable(
                                f"{type(error).__name__}: {error}", began, error
                            )
                    case Failed() as failed:
                        raise RequestFailedError(
                            failed.message,
                            category=failed.category,
                            state_loss=failed.state_loss,
                            **self._which(),
                        )
                    case ResultLost(message):
                        raise ResultLostError(f"its result is lost: {message}", **self._which())
                    case Pending() as pending:
                        self.retry_budget.reset()
                        await self._pause(pending)
                    case None:
                        pass

    async def _poll(
        self, request: Request[Any], headers: Mapping[str, str], began: float
    ) -> Answer | None:
        """Polls once. Returns the answer; None after a failed poll and the pause that follows."""
        self.wait.tries += 1
        try:
            response = await self.transport.send_once(
                request, timeout=poll_timeout(self.transport), headers=headers
            )
        except APIConnectionError as error:
            return await self._after_broken_poll(error, began)
        except APIResponseValidationError as error:
            return await self._after_failure(error, began)
        self.wait.last_status = response.status_code
        self.answer_bytes = len(response.content)
        if _is_protobuf(response):
            return Finished(response.content)
        large = self.answer_bytes > _LARGE
        body = await in_thread(_fields, response, large_json.loads) if large else _fields(response)
        if body is None and response.is_success:
            return await self._after_unreadable("it is not a JSON object", began, None)
        answer = classify(
            response.status_code, body or {}, by_kind=self.transport.server.dialect.fails_by_kind
        )
        if answer is None:
            return await self._after_failure(
                failures.status_error(response, self.state.operation), began
            )
        self._count(began)
        if isinstance(answer, Pending):
            self._note(answer)
        return answer

    def _count(self, began: float) -> None:
        self.fast_polls = self.fast_polls + 1 if self.transport.clock.now() - began < FAST else 0

    async def _after_broken_poll(self, error: APIConnectionError, began: float) -> Pending | None:
        if not isinstance(error, APITimeoutError) or error.failure_point == "answered":
            if error.failure_point == "answered" and self.transport.server.dialect.results_once:
                raise ResultLostError(
                    "its result was lost: the connection broke while it was being read",
                    **self._which(),
                ) from error
            return await self._after_failure(error, began)
        self.wait.attribute_past_to("network")
        self.wait.set_owner("network", "the last poll was not answered in time")
        self._count(began)
        # perhaps the server held it for longer than our timeout
        return Pending(self.state.queue_state, self.state.queue_state_reason)

    async def _after_unreadable(self, why: str, began: float, cause: Exception | None) -> None:
        """Backs off after a malformed answer, or raises if there were too many."""
        error = APIResponseValidationError(
            f"all answers to polls for its result are malformed; the last one: {why}",
            operation=self.state.operation,
            advice=(
                "The server still has the result. Check whether a proxy answers in the server's "
                "place."
            ),
        )
        error.__cause__ = cause
        await self._after_failure(error, began)

    async def _after_failure(self, error: TinkexError, began: float) -> None:
        """Backs off after a failed poll, or raises if the error is final or there were too many."""
        clock = self.transport.clock
        error.request_id = self.state.request_id
        self.wait.attribute_past_to("network")
        if not self.retry_budget.allows_retry(error, began, clock.now()):
            raise error
        pause = self.retry_budget.pause(error, clock.random())
        self.wait.set_owner(self.retry_budget.pause_owner, error.message)
        events.emit(
            events.Retry,
            operation=self.state.operation,
            attempt=self.retry_budget.attempts,
            pause=pause,
            reason=error.message,
        )
        await clock.sleep(pause)

    def _note(self, answer: Pending) -> None:
        """Records the state of the wait, to which the time of the last poll counts."""
        state = self.state
        self.wait.attribute_past_to(answer.owner)
        self.wait.set_owner(answer.owner)
        if state.note_queue_state(answer.queue_state, answer.reason):
            events.emit(
                events.QueueStateChange,
                operation=state.operation,
                request_id=state.request_id,
                queue_state=answer.queue_state,
                reason=answer.reason,
            )

    async def _pause(self, answer: Pending) -> None:
        polls = self.transport.config.poll
        if pause := pause_after(self.fast_polls, answer, polls.min_interval, polls.max_interval):
            await self.transport.clock.sleep(pause)

    def _which(self) -> Mapping[str, Any]:
        return {"operation": self.state.operation, "request_id": self.state.request_id}


def poll_timeout(transport: Transport) -> float:
    """Returns the seconds that a poll may take: longer than the server is known to hold it."""
    shortest, hold = transport.config.poll.request_timeout, transport.server.dialect.hold
    return max(shortest, hold + _HOLD_MARGIN) if hold else shortest


def _is_protobuf(response: port.Answer) -> bool:
    """Returns whether a result is protobuf, by its Content-Type and not by what was requested."""
    return response.status_code == 200 and response.headers.get("content-type", "").startswith(
        _PROTOBUF
    )


def _fields(
    response: port.Answer, loads: Callable[[bytes], Any] = orjson.loads
) -> Mapping[str, Any] | None:
    """Returns the fields of the body; None if it is not a JSON object."""
    try:
        body = loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None  # pyright: ignore[reportUnknownVariableType]
