"""`Transport`: one exchange with the server, with its key, its retries and its errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from attrs import define, field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tinkex_api.types import Request

from tinkex._version import __version__
from tinkex.config import Config
from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    NotATinkerServerError,
    TinkexError,
)
from tinkex.transport import backoff, failures
from tinkex.transport.clock import Clock
from tinkex.transport.progress import Progress, progress
from tinkex.transport.rate_limit import RateLimitWindow, window_for
from tinkex.transport.server import Server, server_for

logger = logging.getLogger("tinkex")
T = TypeVar("T")

PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""What reading an answer of another form than the contract's ends in."""


def _default_handler() -> httpx.AsyncBaseTransport:
    from tinkex.transport.connection import Connections  # here, since aiohttp takes its time to import

    return Connections()


@define(eq=False)
class Transport:
    """Sends what the generated package builds, and gives back what it parses. For one event loop."""

    config: Config
    clock: Clock = field(factory=Clock)
    server: Server = field(init=False)
    _handler: httpx.AsyncBaseTransport = field(init=False)
    _headers: dict[str, str] = field(init=False)
    _window: RateLimitWindow = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server = server_for(self.config)
        self._handler = self.config.http_transport or _default_handler()
        self._window = window_for(self.config.base_url, self.config.api_key)
        self._headers = {
            "User-Agent": f"tinkex/{__version__}",
            "Accept": "application/json",
            **({"X-API-Key": self.config.api_key} if self.config.api_key else {}),
            **self.config.default_headers,
        }

    async def send(
        self, request: Request[T], *, repeatable: bool = True, timeout: float | None = None, max_attempts: int | None = None
    ) -> T:
        """The server's answer, parsed.

        Args:
            repeatable: whether the server may get the request twice. If not, it is tried again only where it is certain that
                the server did not take it.
            timeout: seconds for one try; by default `Config.timeout`.
            max_attempts: at most so many tries, if `Config.retry` allows more.

        Raises:
            APIConnectionError: no answer came; `sent` tells whether the server may have read the request.
            APIStatusError: the server refused, and trying again did not help.
            UnsupportedByServer: it is known to lack the call.
            APIResponseValidationError: the answer is not of the contract's form.
        """
        self.server.require(request.operation)
        attempts = min(self.config.retry.max_attempts, max_attempts or self.config.retry.max_attempts)
        response = await self._exchange(request, repeatable, timeout or self.config.timeout, attempts)
        return parse(request, response)

    @asynccontextmanager
    async def stream(self, request: Request[Any], *, timeout: float | None = None) -> AsyncGenerator[AsyncIterator[str]]:
        """The lines of a 2xx answer as they come; leaving closes the connection. Raises what `send` does, at any line, too.

        Args:
            timeout: seconds until the answer begins, and from one piece of it to the next; by default `Config.timeout`.
        """
        self.server.require(request.operation)
        attempts = self.config.retry.max_attempts
        response = await self._exchange(request, True, timeout or self.config.timeout, attempts, whole=False)
        try:
            yield response.aiter_lines()
        except httpx.TransportError as error:
            raise failures.connection_error(error, "answered", request.operation, self.config.base_url) from error
        finally:
            await response.aclose()

    async def send_once(self, request: Request[Any], *, timeout: float, headers: Mapping[str, str]) -> httpx.Response:
        """The bare answer of one try, whatever its status. Raises `APIConnectionError` when none came."""
        return await self._attempt(request, {**self._headers, **headers}, timeout)

    async def aclose(self) -> None:
        await self._handler.aclose()

    async def _exchange(
        self, request: Request[Any], repeatable: bool, timeout: float, max_attempts: int, *, whole: bool = True
    ) -> httpx.Response:
        headers = dict(self._headers)
        if request.method != "GET":
            headers["X-Idempotency-Key"] = f"tinkex-{uuid4()}"  # the same over all tries
        settings = self.config.retry
        last_moment = self.clock.now() + settings.max_seconds
        retrying = AsyncRetrying(
            stop=lambda state: state.attempt_number >= max_attempts or self.clock.now() >= last_moment,
            retry=retry_if_exception(lambda error: _may_repeat(error, repeatable)),
            wait=lambda state: self._pause(state, len(request.content or b"")),
            before_sleep=_log_retry,
            sleep=self.clock.sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try, request, headers, timeout, whole)
        except TinkexError as error:
            attempts = int(retrying.statistics.get("attempt_number", 1))
            if attempts > 1:
                error.message += f" (tried {attempts} times)"
            raise

    async def _try(self, request: Request[Any], headers: Mapping[str, str], timeout: float, whole: bool) -> httpx.Response:
        await self._window.wait(self.clock)
        response = await self._attempt(request, headers, timeout, whole=whole)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        self._window.succeeded()
        return response

    def _pause(self, state: RetryCallState, body_size: int) -> float:
        """Seconds until the next try; a 429 opens the window that all clients of this key keep to."""
        error = state.outcome.exception() if state.outcome else None
        hint = backoff.retry_hint(error.headers) if isinstance(error, APIStatusError) else None
        if isinstance(error, APIStatusError) and error.status_code == 429:
            return self._window.refused(body_size, hint, self.clock)
        return backoff.delay(state.attempt_number, self.config.retry, hint, self.clock.random())

    async def _attempt(
        self, request: Request[Any], headers: Mapping[str, str], timeout: float, *, whole: bool = True
    ) -> httpx.Response:
        """An answer, read to its end; only its beginning where it is a success and not wanted `whole`."""
        message = httpx.Request(
            request.method,
            self.config.base_url + request.path,
            params=request.params,
            headers={**headers, **request.headers},
            content=request.content,
            extensions={"timeout": {"connect": self.config.connect_timeout, "read": timeout, "write": timeout, "pool": timeout}},
        )
        how_far = Progress()
        progress.set(how_far)
        try:
            response = await self._handler.handle_async_request(message)
            if response.is_success and not whole:
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            place = how_far.place or failures.place_of(error)
            raise failures.connection_error(error, place, request.operation, self.config.base_url) from error
        return response


def _may_repeat(error: BaseException, repeatable: bool) -> bool:
    if isinstance(error, APIConnectionError):
        return repeatable or not error.sent
    return isinstance(error, APIStatusError) and backoff.may_repeat(error.status_code, error.headers, repeatable=repeatable)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    reason = error.message if isinstance(error, TinkexError) else error
    logger.warning("try %d failed, again in %.1f s: %s", state.attempt_number, state.upcoming_sleep, reason)


def parse(request: Request[T], response: httpx.Response) -> T:
    """A 2xx answer as the contract has it. Raises `APIResponseValidationError`, or `NotATinkerServerError` for a web page."""
    try:
        return request.parse(response)
    except PARSE_ERRORS as error:
        if "html" in response.headers.get("content-type", ""):
            raise NotATinkerServerError(
                f"{response.request.url} answers with a web page",
                operation=request.operation,
                advice="Check base_url: it is the URL below which /api/v1/… lies.",
            ) from error
        raise APIResponseValidationError(
            f"the answer is not of the contract's form: {type(error).__name__}: {error}",
            operation=request.operation,
            advice="Is base_url that of a Tinker server?",
        ) from error
