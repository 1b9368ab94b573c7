"""A connection pool: aiohttp behind httpx's interface. It reports how far each exchange got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from weakref import finalize

import aiohttp
import httpx
from aiohttp.connector import Connection
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions

from tinkex.config import HttpLimits
from tinkex.config.proxies import Proxies, Proxy
from tinkex.config.secrets import Secret, is_secret, without_queries
from tinkex.threads import call_on_loop
from tinkex.transport import certificates
from tinkex.transport.aiohttp_errors import reason_of
from tinkex.transport.exchange_stage import current_stage
from tinkex.transport.lifetimes import start_task
from tinkex.transport.name_resolution import resolver
from tinkex.transport.unreachable import Unreachable

_DIGITS = 8
"""A Content-Length of fewer digits means less than 10 MB."""
# aiohttp's value for any number; the client bounds its requests in flight
_UNLIMITED = 0


class ConnectionPool(httpx.AsyncBaseTransport):
    """A pool of connections, for one event loop.

    Args:
        limits: bounds on connections; by default those of `HttpLimits`.
        proxies: the proxies by URL; by default none.
        proxy_headers: headers for the proxies alone.
        environment: the variables that may name certificates to trust.
    """

    def __init__(
        self,
        limits: HttpLimits | None = None,
        *,
        proxies: Proxies | None = None,
        proxy_headers: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._limits = limits or HttpLimits()
        self._proxy_of = lru_cache(maxsize=64)((proxies or Proxies()).of)
        self._proxied = bool(proxies)
        self._proxy_headers = dict(proxy_headers or {})
        self._environment = environment or {}
        self._closer: AsyncGenerator[None] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, and returns the answer.

        The body is read if it is small and not compressed, unless the request's extension `stream`
        is true. Otherwise it is left to be streamed.
        """
        stage, url = current_stage.get(), str(request.url)
        stage.failure_point = "connecting"
        stage.proxy = self._proxy_of(_server(request.url)) if self._proxied else None
        with self._as_httpx_errors(stage.proxy):
            response = await self._send(request, url, stage.proxy)
            if request.extensions.get("stream") or not _is_small_and_plain(response):
                body = AiohttpResponseStream(response)
                return httpx.Response(
                    response.status, headers=response.raw_headers, stream=body, request=request
                )
            async with response:  # reading a stream through httpx takes several times longer
                content = await response.read()
        return httpx.Response(
            response.status, headers=response.raw_headers, content=content, request=request
        )

    async def aclose(self) -> None:
        if self._closer is not None:
            await self._closer.aclose()

    async def abandon(self) -> None:
        """Closes the connections when their event loop has ended."""
        if self._closer is not None:
            await self._session.close()

    async def _arrange_close(self) -> None:
        """Arranges that the connections are closed with the loop or the pool, whichever ends
        first.
        """
        self._closer = _close_at_end(self._session)
        await anext(self._closer)
        finalize(self, _schedule_close, asyncio.get_running_loop(), self._closer).atexit = False

    async def _send(
        self, request: httpx.Request, url: str, proxy: Proxy | None
    ) -> aiohttp.ClientResponse:
        timeout, secure = request.extensions.get("timeout", {}), request.url.scheme == "https"
        if self._closer is None:
            await self._arrange_close()
        for_proxy = {**proxy.authorization, **self._proxy_headers} if proxy is not None else {}
        return await self._session.request(
            request.method,
            url,
            headers=[*_headers(request), *(() if secure else for_proxy.items())],
            data=request.content or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                sock_connect=timeout.get("connect"),
                sock_read=timeout.get("read"),
                connect=timeout.get("pool"),
            ),
            ssl=certificates.tls_context(self._trusted) if secure or _is_secure(proxy) else True,
            proxy=proxy.address if proxy is not None else None,
            proxy_headers=for_proxy or None,
        )

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
            response_class=_Response,
            auto_decompress=False,
        )

    @cached_property
    def _trusted(self) -> tuple[tuple[str, str], ...]:
        return certificates.read_variables(self._environment)

    @contextmanager
    def _as_httpx_errors(self, proxy: Proxy | None) -> Generator[None]:
        try:
            with map_aiohttp_exceptions():
                yield
        except httpx.TransportError as error:
            _without_frames(error)
            self._explain(error.__cause__, proxy)
            raise
        # the errors that httpx-aiohttp does not map
        except (aiohttp.ClientError, OSError) as error:
            _without_frames(error)
            self._explain(error, proxy)
            shows_url = isinstance(error, aiohttp.ClientResponseError)
            raise httpx.NetworkError(without_queries(str(error))) from (
                None if shows_url else error
            )

    def _explain(self, error: BaseException | None, proxy: Proxy | None) -> None:
        """Raises `Unreachable` where more is known about an error than its text says."""
        if error is not None and (
            reason := reason_of(error, proxy, certificates.describe(self._environment))
        ):
            raise Unreachable(reason) from error


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


def _headers(request: httpx.Request) -> Iterator[tuple[str, str]]:
    """Yields the headers of a request. Secret values hide themselves in tracebacks, which show
    the library's local variables.
    """
    return (
        (name, Secret(value) if is_secret(name) else value)
        for name, value in request.headers.multi_items()
    )


def _without_frames(error: BaseException) -> None:
    """Removes the tracebacks of an error and its causes: the libraries' frames hold the key."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def _server(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _is_secure(proxy: Proxy | None) -> bool:
    return proxy is not None and proxy.url.startswith("https:")


def _is_small_and_plain(response: aiohttp.ClientResponse) -> bool:
    """Returns whether the headers promise a body that is small enough to read in one piece."""
    headers = response.headers
    if "Content-Encoding" in headers or "Transfer-Encoding" in headers:
        return False
    length = headers.get("Content-Length", "")
    return length.isdecimal() and len(length) < _DIGITS


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        transport = conn.transport
        current_stage.get().failure_point = (
            "unsent" if transport is None or transport.is_closing() else "unanswered"
        )
        return await super().send(conn)


class _Response(aiohttp.ClientResponse):
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        response = await super().start(connection)
        current_stage.get().failure_point = "answered"
        if self.status == 500 and protocol is not None:
            # some servers close the connection after an error without saying so, and the next
            # request on it would fail
            protocol.force_close()
            # the body came with the headers, and the connection is in the pool again
            if connection.protocol is None:
                protocol.close()
        return response
