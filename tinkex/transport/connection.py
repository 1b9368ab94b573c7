"""`ConnectionPool`: connections by aiohttp, which know how far each exchange got."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
)
from functools import cached_property, lru_cache, partial
from ssl import SSLContext, SSLError
from weakref import finalize

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from attrs import define, frozen
from yarl import URL

from tinkex.config import HttpLimits
from tinkex.config.proxies import Proxies, Proxy
from tinkex.config.secrets import without_queries
from tinkex.errors import ClientClosedError, FailurePoint
from tinkex.threads import call_on_loop
from tinkex.transport import certificates
from tinkex.transport.lifetimes import start_task
from tinkex.transport.name_resolution import resolver
from tinkex.transport.port import Answer, ExchangeFailed, Headers, Message
from tinkex.transport.request_body import RequestBody
from tinkex.transport.unreachable import (
    SERVER_SPEAKS_TLS,
    Reason,
    local_limit,
    os_error_text,
    proxy_refused,
    proxy_unreachable,
    tls_failed,
)
from tinkex.transport.urls import split_url

_UNLIMITED = 0
"""The value of aiohttp for any number of connections; the client bounds its requests in flight."""
_HEADER_BYTES = 256 << 10
"""The most bytes of one header of an answer."""
_DIGITS = 8
"""A Content-Length of fewer digits means less than 10 MB."""
_TLS_ALERT = r"\x15\x03"
"""The beginning of a TLS server's answer to plain HTTP, as aiohttp quotes it."""
_ADDED_BY_AIOHTTP = frozenset({"Accept", "Accept-Encoding", "User-Agent", "Content-Type"})
"""The headers that aiohttp adds where they are missing, unless it is told not to."""


@frozen(eq=False)
class _Route:
    """The way to a URL: the proxy, and the headers that the proxy gets."""

    url: URL
    secure: bool
    proxy: Proxy | None
    for_proxy: Mapping[str, str]
    """The headers for the proxy alone, its password among them."""

    @property
    def needs_tls(self) -> bool:
        return self.secure or (self.proxy is not None and self.proxy.url.startswith("https:"))


class ConnectionPool:
    """A pool of connections, for one event loop. It is the client's own `Connections`.

    Args:
        limits: bounds on connections; by default those of `HttpLimits`.
        proxies: the proxies by URL; by default none.
        proxy_headers: headers for the proxies alone.
        environment: the variables that may name certificates to trust.
        connect_timeout: seconds to open a connection.
    """

    def __init__(
        self,
        limits: HttpLimits | None = None,
        *,
        proxies: Proxies | None = None,
        proxy_headers: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
    ) -> None:
        self._limits = limits or HttpLimits()
        self._proxies = proxies or Proxies()
        self._proxy_headers = dict(proxy_headers or {})
        self._environment = environment or {}
        self._route = lru_cache(maxsize=256)(self._route_to)
        self._connect_timeout = connect_timeout
        self._timeouts = lru_cache(maxsize=64)(self._timeouts_of)
        self._closer: AsyncGenerator[None] | None = None

    async def exchange(self, message: Message) -> Answer:
        """Sends a message once, and returns the answer. Raises `ExchangeFailed` without one, and
        `ClientClosedError` if the pool is closed.

        The body is read if it is small and not compressed, unless `Message.streamed` is set.
        """
        if self._closer is None:
            await self._arrange_close()
        if self._session.closed:  # by the end of its loop; `Sender` refuses after its own `aclose`
            raise ClientClosedError(
                "not sent: the client, or the service client that made it, was closed meanwhile",
                advice="Ask for the results of calls before you close their client.",
            )
        route, body = self._route(message.url), RequestBody(message.content)
        try:
            response = await self._request(message, route, body)
            body.failure_point = "answered"
            if response.status == 500:
                _close_after_error(response, body.connection)
            answer = Answer(
                response.status,
                Headers(list(_pairs(response))),
                reason_phrase=response.reason or "",
                url=message.url,
                proxy=route.proxy,
            )
            if message.streamed or not _is_small_and_plain(answer.headers):
                answer.body = _Body(response, partial(self._failure, "answered", route))
            else:
                answer.content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(body.failure_point, route, error)  # noqa: B904  it has its cause
        return answer

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._closer is not None:
            await self._closer.aclose()

    async def abandon(self) -> None:
        """Closes the connections when their event loop has ended."""
        if self._closer is not None:
            await self._session.close()

    def _request(
        self, message: Message, route: _Route, body: RequestBody
    ) -> Awaitable[aiohttp.ClientResponse]:
        headers = message.headers
        if route.for_proxy and not route.secure:
            headers = {**headers, **route.for_proxy}
        return self._session.request(
            message.method,
            route.url,
            headers=headers,
            # to name some to be left out costs a copy of the headers; mostly all are given
            skip_auto_headers=None if headers.keys() >= _ADDED_BY_AIOHTTP else _ADDED_BY_AIOHTTP,
            data=body,
            allow_redirects=False,
            timeout=self._timeouts(message.timeout),
            ssl=self._tls_context if route.needs_tls else True,
            proxy=route.proxy.address if route.proxy is not None else None,
            proxy_headers=route.for_proxy or None,
        )

    def _timeouts_of(self, seconds: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            connect=seconds, sock_connect=self._connect_timeout, sock_read=seconds
        )

    def _route_to(self, url: str) -> _Route:
        parts = split_url(url)
        proxy = self._proxies.of(f"{parts.scheme}://{parts.netloc}") if self._proxies else None
        headers = {} if proxy is None else {**proxy.authorization, **self._proxy_headers}
        address = URL(f"{parts.scheme}://{parts.netloc}{parts.target}", encoded=True)
        return _Route(address, parts.is_secure, proxy, headers)

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=resolver(),
            limit=self._limits.max_connections or _UNLIMITED,
            keepalive_timeout=self._limits.keepalive,
        )
        return aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )

    @cached_property
    def _tls_context(self) -> SSLContext:
        return certificates.tls_context(certificates.read_variables(self._environment))

    async def _arrange_close(self) -> None:
        """Arranges that the connections are closed with the loop or the pool, whichever ends
        first.
        """
        self._closer = _close_at_end(self._session)
        await anext(self._closer)
        finalize(self, _schedule_close, asyncio.get_running_loop(), self._closer).atexit = False

    def _failure(
        self, failure_point: FailurePoint, route: _Route, error: Exception
    ) -> ExchangeFailed:
        """Translates an error of aiohttp, which becomes the cause unless it shows the whole URL."""
        _without_frames(error)
        failed = ExchangeFailed(
            _text_of(error),
            failure_point,
            late=isinstance(error, TimeoutError),
            reason=_reason_of(error, route, certificates.describe(self._environment)),
            proxy=route.proxy,
        )
        failed.__cause__ = None if isinstance(error, aiohttp.ClientResponseError) else error
        return failed


@define(eq=False)
class _Body:
    """The unread body of an answer."""

    _response: aiohttp.ClientResponse
    _failure: Callable[[Exception], ExchangeFailed]
    """Translates an error of aiohttp."""

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            self._response.close()
            raise self._failure(error)  # noqa: B904  it has its cause

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def _close_at_end(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """Closes the session when the generator is closed; the event loop does that at its end."""
    try:
        yield
    finally:
        await session.close()


def _schedule_close(loop: asyncio.AbstractEventLoop, closer: AsyncGenerator[None]) -> None:
    """Closes the generator on its event loop, which does so itself at its end. May be called in any
    thread.
    """
    call_on_loop(loop, start_task, loop, closer.aclose)


def _pairs(response: aiohttp.ClientResponse) -> Iterator[tuple[str, str]]:
    """Yields the headers of an answer: names in lower case, values in UTF-8 or else in Latin-1."""
    for name, value in response.headers.items():
        if not value.isascii():
            octets = value.encode("utf-8", "surrogateescape")
            value = octets.decode("latin-1") if "\udc80" <= max(value) <= "\udcff" else value
        yield name.lower(), value


def _is_small_and_plain(headers: Headers) -> bool:
    """Returns whether the headers promise a body that is small enough to read in one piece."""
    if headers.get("content-encoding") or headers.get("transfer-encoding"):
        return False
    length = headers.get("content-length", "")
    return length.isdecimal() and len(length) < _DIGITS


def _close_after_error(response: aiohttp.ClientResponse, protocol: ResponseHandler | None) -> None:
    """Closes the connection of an answer, once that is read.

    Some servers close it after an error without saying so, and the next request on it would fail.
    """
    if protocol is not None:
        protocol.force_close()
        if response.connection is None:  # the body came with the headers: it is in the pool again
            protocol.close()


def _reason_of(error: BaseException, route: _Route, trusted: str) -> Reason | None:
    """Returns the reason for an error of aiohttp; None where its own text is good enough."""
    proxy, cause = route.proxy, error.__cause__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _reason_of_tls(error.certificate_error, route, trusted)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _reason_of_tls(cause, route, trusted)
    if isinstance(error, aiohttp.ClientConnectorError) and (reason := local_limit(error.os_error)):
        return reason
    if proxy is not None and isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(proxy, error.status, error.message)
    if proxy is not None and isinstance(error, aiohttp.ClientProxyConnectionError):
        return proxy_unreachable(proxy, error.os_error)
    if isinstance(error, aiohttp.ClientResponseError) and _TLS_ALERT in error.message:
        return SERVER_SPEAKS_TLS
    return None


def _reason_of_tls(error: BaseException | None, route: _Route, trusted: str) -> Reason | None:
    """Returns the reason for a handshake that failed."""
    if isinstance(error, SSLError):
        return tls_failed(error, route.url.authority, trusted)
    return None


def _text_of(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return os_error_text(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return "its answer ends within the headers"
    return without_queries(str(error)) or type(error).__name__


def _without_frames(error: BaseException) -> None:
    """Removes the tracebacks of an error and its causes: the library's frames hold the key."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        body, protocol, transport = self.body, conn.protocol, conn.transport
        assert isinstance(body, RequestBody)
        body.failure_point, body.connection = "unsent", protocol
        if protocol is not None and protocol.should_close:
            # an answer to no request, such as a server sends that is about to close
            raise aiohttp.ServerDisconnectedError("the server spoke unasked")
        if transport is not None and not transport.is_closing():
            body.failure_point = "unanswered"
        return await super().send(conn)
