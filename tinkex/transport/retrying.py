"""`RetryingCall`: one request, sent again for as long as that may help."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tinkex_api.types import Request

from tinkex import events
from tinkex.dialects import resend
from tinkex.errors import TinkexError
from tinkex.transport import adaptation, failures
from tinkex.transport.backoff import RetryBudget, retry_hint
from tinkex.transport.port import Answer
from tinkex.transport.rate_limit import RateLimiter
from tinkex.transport.sender import Sender
from tinkex.waiting.wait import Wait

logger = logging.getLogger("tinkex")

_BATCHES = frozenset({"forward", "forward_backward"})


@define(eq=False)
class RetryingCall:
    """One request with its retries."""

    sender: Sender
    rate_limiter: RateLimiter
    request: Request[Any]
    headers: Mapping[str, str]
    timeout: float
    whole: bool
    retry_budget: RetryBudget
    wait: Wait
    read: Callable[[Request[Any], Answer], Any]
    """Parses a successful answer to the request. Raises where it is not what the contract says."""
    sent_at: float = 0.0
    refused_for: float = 0.0
    """The pause in seconds after the last 429."""

    async def send(self) -> Any:
        """Sends the request until an attempt succeeds, and returns what `read` makes of the answer.

        Raises the last error when no further attempt is allowed.
        """
        try:
            return await self._attempt()
        except TinkexError as error:
            return await self._retry(error)

    async def _retry(self, first: TinkexError) -> Any:
        """Sends the request again after its first attempt failed with `first`.

        Only these attempts go through tenacity, whose cost is half that of a small request.
        """
        failed: TinkexError | None = first

        async def attempt() -> Any:
            nonlocal failed
            if failed is not None:
                error, failed = failed, None
                raise error
            return await self._attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: self.retry_budget.allows_retry(
                    error, self.sent_at, self.sender.clock.now()
                )
            ),
            wait=self._pause,
            before_sleep=self._report,
            sleep=self.sender.clock.sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except TinkexError as error:
            if self.wait.tries > 1:
                error.message += f" (tried {self.wait.tries} times)"
            raise

    async def _attempt(self) -> Any:
        try:
            return self.read(self.request, await self._send_when_admitted())
        except TinkexError as error:
            self.wait.state.possibly_taken |= resend.failure_point_of(error) is not None
            raise

    async def _send_when_admitted(self) -> Answer:
        limiter, self.sent_at = self.rate_limiter, self.sender.clock.now()
        admitted = False
        if not limiter.is_open:
            self.wait.set_owner("queue", "closed to this key after status 429")
            admitted = await limiter.enter(self.sender.clock)
        try:
            request = self._begin_attempt()
            response = await self.sender.attempt(
                request, self.headers, self.timeout, whole=self.whole
            )
            if response.status_code in adaptation.STATUSES:
                response = await self._send_adapted(request, response)
            self.wait.last_status = response.status_code
        except BaseException:
            if admitted:
                limiter.leave(succeeded=False)
            raise
        if admitted:
            limiter.leave(succeeded=response.is_success)
        if response.status_code == 429:  # pauses all clients with this key
            if self.request.operation in _BATCHES:
                server = self.sender.server
                server.update_dialect(chunk_limits=server.dialect.chunk_limits.smaller())
            size = len(self.request.content or b"")
            self.refused_for = limiter.record_refusal(
                size, retry_hint(response.headers), self.sender.clock
            )
        if not response.is_success:
            error = failures.status_error(response, self.request.operation)
            if error.operation != "forward":  # which may have another route
                self.sender.server.note_missing_route(error)
            raise error
        limiter.record_success()
        return response

    def _begin_attempt(self) -> Request[Any]:
        """Notes what the attempt waits for, and returns the request as the server takes it."""
        self.wait.tries += 1
        dialect = self.sender.server.dialect
        if self.sender.starts_server:
            self.wait.set_owner("computation", "which is the start of the server in this process")
        elif dialect.long_posts:
            self.wait.set_owner("computation", "which this server finishes before it answers")
        else:
            self.wait.set_owner("network", "no answer yet")
        refused = dialect.refused_fields.get(self.request.operation, frozenset[str]())
        return adaptation.without_fields(self.request, refused)

    async def _send_adapted(self, request: Request[Any], refusal: Answer) -> Answer:
        """Sends the request in the form that the refusal asks for.

        Returns the refusal where there is no such form, or where the server refuses that one too.
        Remembers a form that the server accepts.
        """
        server = self.sender.server
        adapted = adaptation.adapt(request, refusal, server.dialect, await self.sender.auth.key())
        if adapted is None:
            return refusal
        response = await self.sender.attempt(
            adapted.request, {**self.headers, **adapted.headers}, self.timeout, whole=self.whole
        )
        if not response.is_success:
            return refusal
        server.update_dialect(**adapted.dialect_changes)
        logger.warning("%s: %s", self.sender.base_url, adapted.description)
        return response

    def _pause(self, state: RetryCallState) -> float:
        """Returns the seconds until the next attempt."""
        if self.retry_budget.failure_kind == "rate_limit":
            return self.refused_for
        return self.retry_budget.pause(_error_of(state), self.sender.clock.random())

    def _report(self, state: RetryCallState) -> None:
        error = _error_of(state)
        self.wait.set_owner(self.retry_budget.pause_owner, error.message)
        logger.info(
            "attempt %d failed, next in %.1f s: %s",
            state.attempt_number,
            state.upcoming_sleep,
            error.message,
        )
        events.emit(
            events.Retry,
            operation=self.request.operation,
            attempt=state.attempt_number,
            pause=state.upcoming_sleep,
            reason=error.message,
        )


def _error_of(state: RetryCallState) -> TinkexError:
    """Returns the error of the attempt that failed. A retry always follows a `TinkexError`."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TinkexError)
    return error
