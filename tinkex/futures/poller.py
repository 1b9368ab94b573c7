"""Waiting for the result of a request that the server took on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any, TypeVar

import httpx
import orjson
from attrs import define, field
from tinkex_api.api.futures import retrieve_future
from tinkex_api.models import FutureRetrieveRequest, UntypedAPIFuture
from tinkex_api.types import Request

from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APITimeoutError,
    InternalServerError,
    RateLimitError,
    RequestFailedError,
    TinkexError,
    WaitTimeoutError,
)
from tinkex.futures.answers import Failed, Finished, Payload, Pending, classify, pause_after
from tinkex.transport import backoff, failures
from tinkex.transport.http import PARSE_ERRORS, Transport

logger = logging.getLogger("tinkex")
P = TypeVar("P")
T = TypeVar("T")

_PROTOBUF = "application/x-protobuf"
_IN_PROTOBUF = frozenset({"forward", "forward_backward", "sample"})  # operations whose results have a protobuf form
_ACCEPT_BOTH = {"Accept": f"{_PROTOBUF}, application/json"}
_FAST = 0.5  # seconds; a poll that took less was not held by the server
_WAIT_LINES = (10.0, 30.0, 60.0, 120.0)  # seconds of age at which a wait says what it waits for; then every 300


@define
class RequestState:
    """What is known of a request while it is under way; `APIFuture` shows it."""

    operation: str
    request_id: str | None = None
    queue_state: str | None = None
    queue_state_reason: str | None = None


async def send_and_wait(transport: Transport, request: Request[UntypedAPIFuture]) -> Mapping[str, Any]:
    """The fields of the result of a request that stands alone. Raises what sending and `wait_for_payload` raise."""
    promise = await transport.send(request)
    return await wait_for_result(transport, RequestState(request.operation, promise.request_id))


async def wait_for_result(transport: Transport, state: RequestState) -> Mapping[str, Any]:
    """The fields of a result that is JSON on all servers. Raises what `wait_for_payload` does."""
    return fields(await wait_for_payload(transport, state))


def fields(payload: Payload) -> Mapping[str, Any]:
    """Raises `APIResponseValidationError` for a protobuf message."""
    if isinstance(payload, bytes):
        raise APIResponseValidationError("the result is a protobuf message, where JSON was expected")
    return payload


def read_result(parse: Callable[[P], T], payload: P, operation: str) -> T:
    """What `parse` makes of a result. Raises `APIResponseValidationError` for one that is not of the contract's form."""
    try:
        return parse(payload)
    except TinkexError:
        raise
    except PARSE_ERRORS as error:
        raise APIResponseValidationError(
            f"the result is not of the contract's form: {type(error).__name__}: {error}", operation=operation
        ) from error


async def wait_for_payload(transport: Transport, state: RequestState) -> Payload:
    """The result, in the encoding that the server chose, once `state.request_id` is done.

    Raises:
        RequestFailedError: the work failed.
        WaitTimeoutError: `PollSettings.max_wait` is over.
        APIStatusError: the server refuses to tell.
        APIConnectionError: the server is gone for longer than `Config.retry` allows.
    """
    return await _Wait(transport, state).result()


@define
class _Wait:
    transport: Transport
    state: RequestState
    started: float = field(init=False)
    fast_polls: int = 0
    failed_polls: int = 0
    lines: Iterator[float] = field(init=False)
    next_line: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.started = self.transport.clock.now()
        self.lines = chain(_WAIT_LINES, repeat(300.0))
        self.next_line = next(self.lines)

    @property
    def age(self) -> float:
        return self.transport.clock.now() - self.started

    async def result(self) -> Payload:
        request = retrieve_future.request(body=FutureRetrieveRequest(self.state.request_id or ""))
        headers = _ACCEPT_BOTH if self.state.operation in _IN_PROTOBUF else {}
        while True:
            answer = await self._poll(request, headers)
            if isinstance(answer, Finished):
                return answer.result
            if isinstance(answer, Failed):
                raise RequestFailedError(
                    answer.message,
                    category=answer.category,
                    operation=self.state.operation,
                    request_id=self.state.request_id,
                )
            self._say_what_is_awaited()
            await self._pause(answer)

    async def _poll(self, request: Any, headers: Mapping[str, str]) -> Pending | Failed | Finished:
        polls, began = self.transport.config.poll, self.transport.clock.now()
        try:
            response = await self.transport.send_once(request, timeout=polls.request_timeout, headers=headers)
        except APITimeoutError:
            return Pending(self.state.queue_state, self.state.queue_state_reason)  # it held the poll for longer than we do
        except APIConnectionError as error:
            return await self._after_failure(error, None)
        answer = Finished(response.content) if _is_protobuf(response) else classify(response.status_code, _fields(response))
        if answer is None:
            error = failures.status_error(response, self.state.operation)
            return await self._after_failure(error, backoff.retry_hint(response.headers))
        self.failed_polls = 0
        self.fast_polls = self.fast_polls + 1 if self.transport.clock.now() - began < _FAST else 0
        if isinstance(answer, Pending):
            self.state.queue_state, self.state.queue_state_reason = answer.queue_state, answer.reason
        return answer

    async def _after_failure(self, error: TinkexError, hint: float | None) -> Pending:
        """Backs off from a poll that failed, or raises when it is final or has failed too often."""
        error.request_id = self.state.request_id
        self.failed_polls += 1
        settings = self.transport.config.retry
        passing = isinstance(error, (APIConnectionError, RateLimitError, InternalServerError))
        if not passing or self.failed_polls >= settings.max_attempts:
            raise error
        clock = self.transport.clock
        await clock.sleep(backoff.delay(self.failed_polls, settings, hint, clock.random()))
        return Pending(self.state.queue_state, self.state.queue_state_reason)

    async def _pause(self, answer: Pending) -> None:
        polls = self.transport.config.poll
        if self.age >= polls.max_wait:
            raise WaitTimeoutError(
                f"no result after {self.age:.0f} s{self._queue_words()}",
                waited=self.age,
                operation=self.state.operation,
                request_id=self.state.request_id,
                advice="Raise Config.poll.max_wait, or ask the server why it does not get to the request.",
            )
        await self.transport.clock.sleep(pause_after(self.fast_polls, answer, polls.min_interval, polls.max_interval))

    def _say_what_is_awaited(self) -> None:
        if self.age < self.next_line:
            return
        self.next_line = self.age + next(self.lines)
        logger.warning(
            "waiting for %s (request %s) for %.0f s%s",
            self.state.operation,
            self.state.request_id,
            self.age,
            self._queue_words(),
        )

    def _queue_words(self) -> str:
        state, reason = self.state.queue_state, self.state.queue_state_reason
        return f", queue {state}{f': {reason}' if reason else ''}" if state else ""


def _is_protobuf(response: httpx.Response) -> bool:
    """The Content-Type tells, never what was asked for."""
    return response.status_code == 200 and response.headers.get("content-type", "").startswith(_PROTOBUF)


def _fields(response: httpx.Response) -> Mapping[str, Any]:
    """The body's fields; none where it is not a JSON object."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}  # pyright: ignore[reportUnknownVariableType]
