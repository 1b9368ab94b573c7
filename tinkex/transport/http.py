"""`Transport`: one exchange with the server, with its key, its retries and its errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
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
from tinkex.transport import adaptation, backoff, failures
from tinkex.transport.clock import Clock
from tinkex.transport.progress import Progress, progress
from tinkex.transport.rate_limit import RateLimitWindow, window_for
from tinkex.transport.server import Server, server_for

logger = logging.getLogger("tinkex")
T = TypeVar("T")

PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""What reading an answer of another form than the contract's ends in."""

_BATCHES = frozenset({"forward", "forward_backward"})


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
            "X-Request-Id": uuid4().hex,  # one server routes by it
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
            timeout: seconds for one try; by default `Config.timeout`, or as long as a wait may be where the work is done meanwhile.
            max_attempts: at most so many tries, if `Config.retry` allows more.

        Raises:
            APIConnectionError: no answer came; `sent` tells whether the server may have read the request.
            APIStatusError: the server refused, and trying again did not help.
            UnsupportedByServer: it is known to lack the call.
            APIResponseValidationError: the answer is not of the contract's form.
        """
        self.server.require(request.operation)
        attempts = min(self.config.retry.max_attempts, max_attempts or self.config.retry.max_attempts)
        usual = self.config.poll.max_wait if self.server.dialect.long_posts else self.config.timeout
        response = await self._exchange(request, repeatable, timeout or usual, attempts)
        return parse(request, response)

    async def send_once(self, request: Request[Any], *, timeout: float, headers: Mapping[str, str]) -> httpx.Response:
        """The bare answer of one try, whatever its status. Raises `APIConnectionError` when none came."""
        return await self._attempt(request, {**self._headers, **headers}, timeout)

    async def aclose(self) -> None:
        await self._handler.aclose()

    async def _exchange(self, request: Request[Any], repeatable: bool, timeout: float, max_attempts: int) -> httpx.Response:
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
            return await retrying(self._try, request, headers, timeout)
        except TinkexError as error:
            attempts = int(retrying.statistics.get("attempt_number", 1))
            if attempts > 1:
                error.message += f" (tried {attempts} times)"
            raise

    async def _try(self, request: Request[Any], headers: Mapping[str, str], timeout: float) -> httpx.Response:
        await self._window.wait(self.clock)
        request = adaptation.less(request, self.server.dialect.refused_fields.get(request.operation, frozenset()))
        response = await self._attempt(request, headers, timeout)
        if response.status_code in adaptation.STATUSES:
            response = await self._adapt(request, headers, timeout, response)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        self._window.succeeded()
        return response

    async def _adapt(
        self, request: Request[Any], headers: Mapping[str, str], timeout: float, refusal: httpx.Response
    ) -> httpx.Response:
        """The answer to the request in the form that the refusal asks for, which is then kept to; else the refusal."""
        adapted = adaptation.adapt(request, refusal, self.server.dialect, self.config.api_key)
        if adapted is None:
            return refusal
        response = await self._attempt(adapted.request, {**headers, **adapted.headers}, timeout)
        if response.is_success:
            self.server.learn(**adapted.learned)
            logger.warning("%s: %s", self.config.base_url, adapted.words)
        return response if response.is_success else refusal

    def _pause(self, state: RetryCallState, body_size: int) -> float:
        """Seconds until the next try; a 429 opens the window that all clients of this key keep to."""
        error = state.outcome.exception() if state.outcome else None
        hint = backoff.retry_hint(error.headers) if isinstance(error, APIStatusError) else None
        if isinstance(error, APIStatusError) and error.status_code == 429:
            if error.operation in _BATCHES:
                self.server.learn(chunk_limits=self.server.dialect.chunk_limits.smaller())
            return self._window.refused(body_size, hint, self.clock)
        return backoff.delay(state.attempt_number, self.config.retry, hint, self.clock.random())

    async def _attempt(self, request: Request[Any], headers: Mapping[str, str], timeout: float) -> httpx.Response:
        if self.server.dialect.bearer:
            headers = {**adaptation.bearer(self.config.api_key), **headers}
        message = httpx.Request(
            request.method,
            _url(self.config.base_url + request.path),
            params=request.params,
            headers={**headers, **request.headers},
            content=request.content,
            extensions={"timeout": {"connect": self.config.connect_timeout, "read": timeout, "write": timeout, "pool": timeout}},
        )
        how_far = Progress()
        progress.set(how_far)
        try:
            response = await self._handler.handle_async_request(message)
            try:
                await response.aread()
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            place = how_far.place or failures.place_of(error)
            raise failures.connection_error(error, place, request.operation, self.config.base_url) from error
        return response


@lru_cache(maxsize=256)
def _url(text: str) -> httpx.URL:
    """Parsed once: httpx takes longer to parse a URL than to send a small request."""
    return httpx.URL(text)


def _may_repeat(error: BaseException, repeatable: bool) -> bool:
    if isinstance(error, APIConnectionError):
        return repeatable or not error.sent
    return isinstance(error, APIStatusError) and backoff.may_repeat(
        error.status_code, error.message, error.headers, repeatable=repeatable
    )


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
