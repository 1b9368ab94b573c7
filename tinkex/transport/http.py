"""`Transport`: one exchange with the server, with its key, its retries and its errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

import httpx
from attrs import define, evolve, field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tinkex_api.api.auth import create_auth_token
from tinkex_api.models import AuthTokenRequest
from tinkex_api.types import Request

from tinkex import events, logs
from tinkex._version import __version__
from tinkex.config import LOCAL, Config
from tinkex.config.secrets import masked
from tinkex.errors import (
    APIResponseValidationError,
    NotATinkerServerError,
    TinkexError,
)
from tinkex.local_server import local_url
from tinkex.transport import adaptation, failures
from tinkex.transport.auth import Auth
from tinkex.transport.backoff import Patience, retry_hint
from tinkex.transport.clock import Clock
from tinkex.transport.progress import Progress, progress
from tinkex.transport.rate_limit import RateLimitWindow, window_for
from tinkex.transport.server import Server, server_for
from tinkex.transport.waiting import Bound, RequestState, Wait, Waits

logger = logging.getLogger("tinkex")
P = ParamSpec("P")
T = TypeVar("T")

PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)
"""What reading an answer of another form than the contract's ends in."""

_BATCHES = frozenset({"forward", "forward_backward"})
_USER_AGENT = f"tinkex/{__version__}"


def _default_handler(config: Config) -> httpx.AsyncBaseTransport:
    from tinkex.transport.connection import Connections  # here, since aiohttp takes its time to import

    return Connections(config.http_limits, proxy=config.proxy, proxy_headers=config.proxy_headers)


@define(eq=False)
class Transport:
    """Sends what the generated package builds, and gives back what it parses. For one event loop."""

    config: Config
    clock: Clock = field(factory=Clock)
    server: Server = field(init=False)
    closed: bool = field(init=False, default=False)
    auth: Auth = field(init=False)
    waits: Waits = field(init=False)
    window: RateLimitWindow = field(init=False)
    report: Callable[[events.Event], object] | None = field(init=False, default=None)
    """Who else hears what this client has trained and sampled: the server, where that is wanted."""
    _handler: httpx.AsyncBaseTransport = field(init=False)
    _headers: dict[str, str] = field(init=False, repr=False)
    _given_headers: frozenset[str] = field(init=False)
    """The names of the user's own, which go before ours."""
    _bound_of_answer: Bound = field(init=False)
    _bound_of_result: Bound = field(init=False)

    def __attrs_post_init__(self) -> None:
        if level := self.config.log_level or ("info" if self.config.dump_headers else None):
            logs.show(level)
        self.server = server_for(self.config)
        self.auth = Auth(self.config, self.server, self.clock, self._exchange_key)
        self._handler = self.config.http_transport or _default_handler(self.config)
        self.waits = Waits(self.clock)
        self.window = window_for(self.config.base_url, self.config.api_key or self.config.credential_cmd)
        self._headers = _constant_headers(self.config, self.clock.new_id())
        self._given_headers = frozenset(name.lower() for name in self.config.default_headers)
        self._bound_of_answer = Bound(self.config.retry.max_wait, "Config.retry.max_wait")
        self._bound_of_result = Bound(self.config.poll.max_wait, "Config.poll.max_wait")

    async def send(
        self,
        request: Request[T],
        *,
        repeatable: bool = True,
        timeout: float | None = None,
        max_attempts: int | None = None,
        state: RequestState | None = None,
    ) -> T:
        """The server's answer, parsed.

        Args:
            repeatable: whether the server may get the request twice. If not, it is tried again only where it is certain that
                the server did not take it.
            timeout: seconds for one try; by default `Config.timeout`, or as long as a wait may be where the work is done meanwhile.
            max_attempts: at most so many tries, if `Config.retry` allows more.
            state: shows the wait to others.

        Raises:
            APIConnectionError: no answer came; `sent` tells whether the server may have read the request.
            APIStatusError: the server refused, and trying again did not help.
            WaitTimeoutError: `RetrySettings.max_wait` is over.
            UnsupportedByServer: it is known to lack the call.
            APIResponseValidationError: the answer is not of the contract's form.
        """
        self.server.require(request.operation)
        patience = Patience(self.config.retry, repeatable, max_attempts)
        with self._waiting_for_answer(state or RequestState(request.operation)) as wait:
            response = await self._exchange(request, timeout or self._usual_timeout, patience, wait)
        return parse(request, response)

    def wait(self, state: RequestState, awaited: str) -> Wait:
        """To be entered by what waits for a result, or for its turn."""
        return self.waits.begin(state, awaited, self._bound_of_result)

    @asynccontextmanager
    async def stream(self, request: Request[Any], *, timeout: float | None = None) -> AsyncGenerator[AsyncIterator[str]]:
        """The lines of a 2xx answer as they come; leaving closes the connection. Raises what `send` does, at any line, too.

        Args:
            timeout: seconds until the answer begins, and from one piece of it to the next; by default `Config.timeout`.
        """
        async with self.answer(request, timeout=timeout) as response:
            yield response.aiter_lines()

    @asynccontextmanager
    async def answer(self, request: Request[Any], *, timeout: float | None = None) -> AsyncGenerator[httpx.Response]:
        """A 2xx answer whose body is not read yet; leaving closes the connection. Raises what `send` does, while it is read, too.

        Args:
            timeout: as for `stream`.
        """
        self.server.require(request.operation)
        patience = Patience(self.config.retry, True, None)
        with self._waiting_for_answer(RequestState(request.operation)) as wait:
            response = await self._exchange(request, timeout or self._usual_timeout, patience, wait, whole=False)
        try:
            yield response
        except httpx.TransportError as error:
            raise failures.connection_error(error, "answered", request.operation, self.config.base_url) from error
        finally:
            await response.aclose()

    @asynccontextmanager
    async def open(
        self, url: str, operation: str, *, with_key: bool, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """The answer to a GET of any URL, whatever its status; its body is not read where it is a success. Leaving closes the connection.

        Args:
            with_key: whether the key and the user's headers go along: never to another server.

        Raises:
            APIConnectionError: no answer came, or it broke off while it was read.
        """
        ours = {**self._headers, **self._with_key(await self.auth.key())} if with_key else {"User-Agent": _USER_AGENT}
        extensions = self._extensions(self.config.timeout, whole=False)
        message = httpx.Request("GET", url, headers={**ours, **(headers or {})}, extensions=extensions)
        response = await self._carried(message, operation, whole=False)
        try:
            yield response
        except httpx.TransportError as error:
            raise failures.connection_error(error, "answered", operation, self._whom(message.url)) from error
        finally:
            await response.aclose()

    def is_own(self, url: str) -> bool:
        """Whether it is a URL of this server."""
        return url.startswith(f"{self.config.base_url}/")

    async def send_once(self, request: Request[Any], *, timeout: float, headers: Mapping[str, str]) -> httpx.Response:
        """The bare answer of one try, whatever its status. Raises `APIConnectionError` when none came."""
        return await self.attempt(request, {**self._headers, **headers}, timeout)

    def tell(self, kind: Callable[P, events.Event], *args: P.args, **kwargs: P.kwargs) -> None:
        """Says that something was trained or sampled, to all who listen; makes no event when nobody does."""
        if self.report is None:
            events.emit(kind, *args, **kwargs)
        else:
            event = kind(*args, **kwargs)
            events.publish(event)
            self.report(event)

    async def aclose(self) -> None:
        self.closed = True
        await self.auth.aclose()
        await self._handler.aclose()

    async def _exchange_key(self, key: str) -> str:
        request = create_auth_token.request(body=AuthTokenRequest())
        response = await self._deliver(request, {**self._headers, **self._with_key(key)}, self.config.timeout)
        if not response.is_success:
            raise failures.status_error(response, request.operation)
        return parse(request, response).jwt

    def _waiting_for_answer(self, state: RequestState) -> Wait:
        return self.waits.begin(state, "an answer", self._bound_of_answer)

    async def _exchange(
        self, request: Request[Any], timeout: float, patience: Patience, wait: Wait, *, whole: bool = True
    ) -> httpx.Response:
        if self.config.base_url == LOCAL:
            await self._go_local(wait)
        headers = dict(self._headers)
        if request.method != "GET":
            headers["X-Idempotency-Key"] = f"tinkex-{self.clock.new_id()}"  # the same over all tries
        try:
            return await _Exchange(self, request, headers, timeout, whole, patience, wait).answered()
        except TinkexError as error:
            if wait.tries > 1:
                error.message += f" (tried {wait.tries} times)"
            raise

    def _whom(self, url: httpx.URL) -> str:
        """The server asked, in words; of another one's URL not the rest, which may be a right to read."""
        return self.config.base_url if self.is_own(str(url)) else f"{url.scheme}://{url.netloc.decode('ascii')}"

    def _extensions(self, timeout: float, *, whole: bool) -> dict[str, Any]:
        times = {"connect": self.config.connect_timeout, "read": timeout, "write": timeout, "pool": timeout}
        return {"timeout": times, "stream": not whole}

    async def _go_local(self, wait: Wait) -> None:
        """The server of this process has no address until it is started, which takes some seconds and so is done in a thread."""
        wait.becomes("computation", "which is the start of the server in this process")
        self.config = evolve(self.config, base_url=await asyncio.to_thread(local_url))
        self._headers["Host"] = _host(self.config.base_url)

    @property
    def _usual_timeout(self) -> float:
        return self.config.poll.max_wait if self.server.dialect.long_posts else self.config.timeout

    async def attempt(
        self, request: Request[Any], headers: Mapping[str, str], timeout: float, *, whole: bool = True
    ) -> httpx.Response:
        """The answer of one try, whatever its status, read to its end; only its beginning where it is a success and not wanted `whole`.

        One that a key has become too old for is sent again, once, with another. Raises `APIConnectionError` when none came.
        """
        key = await self.auth.key()
        response = await self._deliver(request, {**self._with_key(key), **headers}, timeout, whole=whole)
        if response.status_code == 401 and key is not None and await self.auth.replace(key):
            response = await self._deliver(request, {**self._with_key(await self.auth.key()), **headers}, timeout, whole=whole)
        return response

    def _with_key(self, key: str | None) -> Mapping[str, str]:
        """The headers that carry it."""
        if key is None:
            return {}
        headers = {"X-API-Key": key, **(adaptation.bearer(key) if self.server.dialect.bearer else {})}
        return {name: value for name, value in headers.items() if name.lower() not in self._given_headers}

    async def _deliver(
        self, request: Request[Any], headers: Mapping[str, str], timeout: float, *, whole: bool = True
    ) -> httpx.Response:
        events.emit(events.HttpRequestStart, operation=request.operation)
        if events.trace_headers is not None:
            headers = {**headers, **events.trace_headers()}
        if self.config.dump_headers:
            logger.info("%s %s %s", request.method, request.path, masked({**headers, **request.headers}))
        message = _message(
            request,
            _url(self.config.base_url + request.path),
            headers,
            self._extensions(timeout, whole=whole),
            self.config.default_query,
        )
        return await self._carried(message, request.operation, whole=whole)

    async def _carried(self, message: httpx.Request, operation: str, *, whole: bool) -> httpx.Response:
        how_far, began = Progress(), self.clock.now()
        progress.set(how_far)
        try:
            response = await self._handler.handle_async_request(message)
            if whole or not response.is_success:
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        except BaseException as error:
            seconds = self.clock.now() - began
            events.emit(events.HttpRequestException, operation=operation, error=type(error).__name__, seconds=seconds)
            if not isinstance(error, httpx.TransportError):
                raise
            place = how_far.place or failures.place_of(error)
            raise failures.connection_error(error, place, operation, self._whom(message.url)) from error
        seconds = self.clock.now() - began
        events.emit(events.HttpRequestStop, operation=operation, status=response.status_code, seconds=seconds)
        return response


def _constant_headers(config: Config, request_id: str) -> dict[str, str]:
    """Those of each request; the user's go before ours."""
    ours = {
        "Host": _host(config.base_url),
        "User-Agent": _USER_AGENT,
        "Accept": "application/json",
        "X-Request-Id": request_id,  # one server routes by it
        **_cloudflare(config),
    }
    given = {name.lower() for name in config.default_headers}
    return {**{name: value for name, value in ours.items() if name.lower() not in given}, **config.default_headers}


def _cloudflare(config: Config) -> Mapping[str, str]:
    """What Cloudflare Access wants."""
    client, secret = config.cf_access_client_id, config.cf_access_client_secret
    return {"CF-Access-Client-Id": client, "CF-Access-Client-Secret": secret} if client and secret else {}


def _message(
    request: Request[Any], url: httpx.URL, headers: Mapping[str, str], extensions: dict[str, Any], query: Mapping[str, str]
) -> httpx.Request:
    """As httpx makes it of `content`, in a quarter of the time: it need not look for headers that are missing."""
    content = request.content or b""
    length = {} if request.method == "GET" else {"Content-Length": str(len(content))}
    message = httpx.Request(
        request.method,
        url,
        params={**query, **(request.params or {})} if query else request.params,
        headers={**headers, **request.headers, **length},
        stream=httpx.ByteStream(content),
        extensions=extensions,
    )
    message.read()
    return message


def _host(base_url: str) -> str:
    return _url(base_url).netloc.decode("ascii")


@lru_cache(maxsize=256)
def _url(text: str) -> httpx.URL:
    """Parsed once: httpx takes longer to parse a URL than to send a small request."""
    return httpx.URL(text)


@define(eq=False)
class _Exchange:
    """The tries of one request."""

    transport: Transport
    request: Request[Any]
    headers: Mapping[str, str]
    timeout: float
    whole: bool
    patience: Patience
    wait: Wait
    sent_at: float = 0.0
    refused_for: float = 0.0
    """Seconds that the last 429 closed the window for."""

    async def answered(self) -> httpx.Response:
        """The answer that is no refusal. Raises the last error when there is to be no other try."""
        try:
            return await self._try()
        except TinkexError as error:
            return await self._retried(error)

    async def _retried(self, first: TinkexError) -> httpx.Response:
        """What comes of the tries after the first; only these go through tenacity, which costs as much as half a small request."""
        failed: TinkexError | None = first

        async def next_try() -> httpx.Response:
            nonlocal failed
            if failed is not None:
                error, failed = failed, None
                raise error
            return await self._try()

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: self.patience.lasts(error, self.sent_at, self.transport.clock.now())),
            wait=self._pause,
            before_sleep=self._tell,
            sleep=self.transport.clock.sleep,
            reraise=True,
        )
        return await retrying(next_try)

    async def _try(self) -> httpx.Response:
        window, self.sent_at = self.transport.window, self.transport.clock.now()
        if not window.is_open:
            self.wait.becomes("queue", "which refused requests of this key as too many (429)")
        admitted = await window.enter(self.transport.clock)
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
                server = self.transport.server
                server.learn(chunk_limits=server.dialect.chunk_limits.smaller())
            size = len(self.request.content or b"")
            self.refused_for = window.refused(size, retry_hint(response.headers), self.transport.clock)
        if not response.is_success:
            error = failures.status_error(response, self.request.operation)
            if error.operation != "forward":  # which may have another route
                self.transport.server.heed(error)
            raise error
        window.succeeded()
        return response

    async def _attempt(self) -> httpx.Response:
        self.wait.tries += 1
        if self.transport.server.dialect.long_posts:
            self.wait.becomes("computation", "which this server does before it answers")
        else:
            self.wait.becomes("network", "no answer yet")
        refused_fields = self.transport.server.dialect.refused_fields.get(self.request.operation, frozenset[str]())
        request = adaptation.less(self.request, refused_fields)
        response = await self.transport.attempt(request, self.headers, self.timeout, whole=self.whole)
        if response.status_code in adaptation.STATUSES:
            response = await self._adapted(request, response)
        self.wait.last_status = response.status_code
        return response

    async def _adapted(self, request: Request[Any], refusal: httpx.Response) -> httpx.Response:
        """The answer to the request in the form that the refusal asks for, which is then kept to; else the refusal."""
        config, server = self.transport.config, self.transport.server
        adapted = adaptation.adapt(request, refusal, server.dialect, await self.transport.auth.key())
        if adapted is None:
            return refusal
        response = await self.transport.attempt(
            adapted.request, {**self.headers, **adapted.headers}, self.timeout, whole=self.whole
        )
        if not response.is_success:
            return refusal
        server.learn(**adapted.learned)
        logger.warning("%s: %s", config.base_url, adapted.words)
        return response

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next try."""
        if self.patience.trouble == "rate_limit":
            return self.refused_for
        return self.patience.pause(_error_of(state), self.transport.clock.random())

    def _tell(self, state: RetryCallState) -> None:
        error = _error_of(state)
        self.wait.becomes(self.patience.whose, error.message)
        logger.info("try %d failed, again in %.1f s: %s", state.attempt_number, state.upcoming_sleep, error.message)
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


def parse(request: Request[T], response: httpx.Response) -> T:
    """A 2xx answer as the contract has it.

    Raises `BadRequestError` where it is a refusal all the same, `NotATinkerServerError` for a web page, else `APIResponseValidationError`.
    """
    try:
        return request.parse(response)
    except PARSE_ERRORS as error:
        if refusal := failures.refusal_within(response, request.operation):
            raise refusal from error
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
