"""`Transport`: one exchange with the server, with its key, its retries and its errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar
from uuid import uuid4

import httpx
from attrs import define, field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from tinkex._version import __version__
from tinkex.config import Config
from tinkex.errors import APIConnectionError, APIResponseValidationError, APIStatusError, TinkexError
from tinkex.transport import backoff, failures
from tinkex.transport.clock import Clock
from tinkex.transport.rate_limit import RateLimitWindow, window_for
from tinkex_api.types import Request

logger = logging.getLogger("tinkex")
T = TypeVar("T")

# Below the 5 seconds after which common servers close an idle connection: a request sent on one that is just being
# closed dies unanswered, and for a training step that would mean an unknown outcome.
_KEEPALIVE_SECONDS = 4.0
_UNLIMITED = 0  # connections; what bounds them is the number of requests that a client has in flight


def _default_handler() -> httpx.AsyncBaseTransport:
    from httpx_aiohttp import AiohttpTransport  # here, since aiohttp takes its time to import

    limits = httpx.Limits(max_connections=_UNLIMITED, keepalive_expiry=_KEEPALIVE_SECONDS)
    return AiohttpTransport(limits=limits)


@define(eq=False)
class Transport:
    """Sends what the generated package builds, and gives back what it parses. For one event loop."""

    config: Config
    clock: Clock = field(factory=Clock)
    _handler: httpx.AsyncBaseTransport = field(init=False)
    _headers: dict[str, str] = field(init=False)
    _window: RateLimitWindow = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._handler = self.config.http_transport or _default_handler()
        self._window = window_for(self.config.base_url, self.config.api_key)
        self._headers = {
            "User-Agent": f"tinkex/{__version__}",
            "Accept": "application/json",
            **({"X-API-Key": self.config.api_key} if self.config.api_key else {}),
            **self.config.default_headers,
        }

    async def send(self, request: Request[T], *, repeatable: bool = True, timeout: float | None = None) -> T:
        """The server's answer, parsed.

        Args:
            repeatable: whether the server may get the request twice. If not, it is tried again only where it is certain that
                the server did not take it.
            timeout: seconds for one try; by default `Config.timeout`.

        Raises:
            APIConnectionError: no answer came; `sent` tells whether the server may have read the request.
            APIStatusError: the server refused, and trying again did not help.
            APIResponseValidationError: the answer is not of the contract's form.
        """
        response = await self._exchange(request, repeatable=repeatable, timeout=timeout)
        return parse(request, response)

    async def send_once(self, request: Request[object], *, timeout: float, headers: Mapping[str, str]) -> httpx.Response:
        """The bare answer of one try, whatever its status. Raises `APIConnectionError` when none came."""
        try:
            return await self._attempt(request, {**self._headers, **headers}, timeout)
        except httpx.TransportError as error:
            raise failures.connection_error(error, request.operation, self.config.base_url, 1) from error

    async def aclose(self) -> None:
        await self._handler.aclose()

    async def _exchange(self, request: Request[object], *, repeatable: bool, timeout: float | None) -> httpx.Response:
        headers = dict(self._headers)
        if request.method != "GET":
            headers["X-Idempotency-Key"] = f"tinkex-{uuid4()}"  # the same over all tries
        body_size = len(request.content or b"")
        retry = _Retry(self, request.operation, body_size, repeatable)
        async for attempt in retry.attempts():
            with attempt:
                return await self._try(request, headers, timeout or self.config.timeout, attempt.retry_state.attempt_number)
        raise AssertionError("tenacity ends in a result or an exception")

    async def _try(
        self, request: Request[object], headers: Mapping[str, str], timeout: float, number: int
    ) -> httpx.Response:
        await self._window.wait(self.clock)
        try:
            response = await self._attempt(request, headers, timeout)
        except httpx.TransportError as error:
            raise failures.connection_error(error, request.operation, self.config.base_url, number) from error
        if response.is_error:
            raise _Refused(response, failures.status_error(response, request.operation, number))
        self._window.succeeded()
        return response

    async def _attempt(self, request: Request[object], headers: Mapping[str, str], timeout: float) -> httpx.Response:
        message = httpx.Request(
            request.method,
            self.config.base_url + request.path,
            params=request.params,
            headers={**headers, **request.headers},
            content=request.content,
            extensions={
                "timeout": {"connect": self.config.connect_timeout, "read": timeout, "write": timeout, "pool": timeout}
            },
        )
        response = await self._handler.handle_async_request(message)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response

    def refused(self, response: httpx.Response, body_size: int) -> float | None:
        """Takes note of a refusal; returns how long the server asks to wait, in seconds."""
        hint = backoff.retry_hint(response.headers)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return self._window.refused(body_size, hint, self.clock)
        return hint
