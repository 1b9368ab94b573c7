"""`RetryingCall`: one request, sent again for as long as that may help."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from attrs import define
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tinkex_api.types import Request

from tinkex import events
from tinkex.dialects import resend
from tinkex.errors import TinkexError
from tinkex.transport import adaptation, failures
from tinkex.transport.backoff import RetryBudget, retry_hint
from tinkex.transport.rate_limit import RateLimitWindow
from tinkex.transport.sender import Sender
from tinkex.waiting.wait import Wait

logger = logging.getLogger("tinkex")

_BATCHES = frozenset({"forward", "forward_backward"})


@define(eq=False)
class RetryingCall:
    """Those of one request."""

    sender: Sender
    window: RateLimitWindow
    request: Request[Any]
    headers: Mapping[str, str]
    timeout: float
    whole: bool
    retry_budget: RetryBudget
    wait: Wait
    read: Callable[[httpx.Response], Any]
    """Makes of an answer what is asked for, or raises that it is none."""
    sent_at: float = 0.0
    refused_for: float = 0.0
    """Seconds that the last 429 closed the window for."""

    async def answered(self) -> Any:
        """What was read of the answer that is no refusal. Raises the last error when there is to be
        no other try.
        """
        try:
            return await self._try()
        except TinkexError as error:
            return await self._retried(error)

    async def _retried(self, first: TinkexError) -> Any:
        """What comes of the tries after the first; only these go through tenacity, which costs as
        much as half a small request.
        """
        failed: TinkexError | None = first

        async def next_try() -> Any:
            nonlocal failed
            if failed is not None:
                error, failed = failed, None
                raise error
            return await self._try()

        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: self.retry_budget.allows_retry(
                    error, self.sent_at, self.sender.clock.now()
                )
            ),
            wait=self._pause,
            before_sleep=self._tell,
            sleep=self.sender.clock.sleep,
            reraise=True,
        )
        return await retrying(next_try)

    async def _try(self) -> Any:
        try:
            return self.read(await self._response())
        except TinkexError as error:
            self.wait.state.possibly_taken |= resend.failure_point_of(error) is not None
            raise

    async def _response(self) -> httpx.Response:
        window, self.sent_at = self.window, self.sender.clock.now()
        if not window.is_open:
            self.wait.set_owner("queue", "which refused requests of this key as too many (429)")
        admitted = await window.enter(self.sender.clock)
        try:
            response = await self._attempt()
        except BaseException:
            if admitted:
                window.leave(succeeded=False)
            raise
        if admitted:
            window.leave(succeeded=response.is_success)
        if response.status_code == 429:  # opens the window that all clients of this key keep to
            if self.request.operation in _BATCHES:
                server = self.sender.server
                server.update_dialect(chunk_limits=server.dialect.chunk_limits.smaller())
            size = len(self.request.content or b"")
            self.refused_for = window.record_refusal(
                size, retry_hint(response.headers), self.sender.clock
            )
        if not response.is_success:
            error = failures.status_error(response, self.request.operation)
            if error.operation != "forward":  # which may have another route
                self.sender.server.note_missing_route(error)
            raise error
        window.record_success()
        return response

    async def _attempt(self) -> httpx.Response:
        self.wait.tries += 1
        if self.sender.server.dialect.long_posts:
            self.wait.set_owner("computation", "which this server does before it answers")
        else:
            self.wait.set_owner("network", "no answer yet")
        refused_fields = self.sender.server.dialect.refused_fields.get(
            self.request.operation, frozenset[str]()
        )
        request = adaptation.less(self.request, refused_fields)
        response = await self.sender.attempt(request, self.headers, self.timeout, whole=self.whole)
        if response.status_code in adaptation.STATUSES:
            response = await self._adapted(request, response)
        self.wait.last_status = response.status_code
        return response

    async def _adapted(self, request: Request[Any], refusal: httpx.Response) -> httpx.Response:
        """The answer to the request in the form that the refusal asks for, which is then kept to;
        else the refusal.
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
        server.update_dialect(**adapted.learned)
        logger.warning("%s: %s", self.sender.base_url, adapted.words)
        return response

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next try."""
        if self.retry_budget.failure_kind == "rate_limit":
            return self.refused_for
        return self.retry_budget.pause(_error_of(state), self.sender.clock.random())

    def _tell(self, state: RetryCallState) -> None:
        error = _error_of(state)
        self.wait.set_owner(self.retry_budget.pause_owner, error.message)
        logger.info(
            "try %d failed, again in %.1f s: %s",
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
    """What a try that failed raised; there is always one, of ours, where another try follows."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TinkexError)
    return error
