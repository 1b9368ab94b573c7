"""The connections: aiohttp behind httpx's interface, which also tell how far an exchange got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from weakref import finalize

import aiohttp
import httpx
from aiohttp.connector import Connection
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions

from tinkex.config import HttpLimits
from tinkex.config.proxies import Proxies, Proxy
from tinkex.config.secrets import Secret, is_secret, without_queries
from tinkex.transport import certificates
from tinkex.transport.aiohttp_errors import reason_of
from tinkex.transport.exchange_stage import current_stage
from tinkex.transport.lifetimes import soon
from tinkex.transport.name_resolution import resolver
from tinkex.transport.unreachable import Unreachable

_DIGITS = 8
"""A length of fewer digits is below 10 MB."""
# connections; what bounds them is the number of requests that a client has in flight
_UNLIMITED = 0


class ConnectionPool(httpx.AsyncBaseTransport):
    """A pool of connections, for one event loop.

    Args:
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
        self._kept: AsyncGenerator[None] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, whole where it is small and plain and the request's extension `stream` is not
        true; else its body is unread.
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
            async with response:  # httpx takes several times longer to read a stream
                content = await response.read()
        return httpx.Response(
            response.status, headers=response.raw_headers, content=content, request=request
        )

    async def aclose(self) -> None:
        if self._kept is not None:
            await self._kept.aclose()

    async def abandon(self) -> None:
        """Lets go of the connections of a loop that has ended."""
        if self._kept is not None:
            await self._session.close()

    async def _keep(self) -> None:
        """Has the connections closed with the loop, or when nobody refers to them any more,
        whichever comes first.
        """
        self._kept = _held(self._session)
        await anext(self._kept)
        finalize(self, _let_go, asyncio.get_running_loop(), self._kept).atexit = False

    async def _send(
        self, request: httpx.Request, url: str, proxy: Proxy | None
    ) -> aiohttp.ClientResponse:
        timeout, secure = request.extensions.get("timeout", {}), request.url.scheme == "https"
        if self._kept is None:
            await self._keep()
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
            ssl=certificates.context(self._trusted) if secure or _is_secure(proxy) else True,
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
        return certificates.named(self._environment)

    @contextmanager
    def _as_httpx_errors(self, proxy: Proxy | None) -> Generator[None]:
        try:
            with map_aiohttp_exceptions():
                yield
        except httpx.TransportError as error:
            _without_frames(error)
            self._explain(error.__cause__, proxy)
            raise
        # those for which httpx-aiohttp has no other name
        except (aiohttp.ClientError, OSError) as error:
            _without_frames(error)
            self._explain(error, proxy)
            shows_url = isinstance(error, aiohttp.ClientResponseError)
            raise httpx.NetworkError(without_queries(str(error))) from (
                None if shows_url else error
            )

    def _explain(self, error: BaseException | None, proxy: Proxy | None) -> None:
        """Raises `Unreachable` where more is known of an error of aiohttp's than its own words
        say.
        """
        if error is not None and (
            reason := reason_of(error, proxy, certificates.in_words(self._environment))
        ):
            raise Unreachable(reason) from error


async def _held(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """Closes the session when it is closed itself, which the event loop does at its end."""
    try:
        yield
    finally:
        await session.close()


def _let_go(loop: asyncio.AbstractEventLoop, held: AsyncGenerator[None]) -> None:
    """Closes it on its loop, from any thread."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(soon, loop, held.aclose)


def _headers(request: httpx.Request) -> Iterator[tuple[str, str]]:
    """Yields the headers of a request; secret ones hide themselves in the frames of the library
    that gets them.
    """
    return (
        (name, Secret(value) if is_secret(name) else value)
        for name, value in request.headers.multi_items()
    )


def _without_frames(error: BaseException) -> None:
    """Lets go of the libraries' frames of an error and its causes, some of which hold the request
    as it was written, key and all.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def _server(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _is_secure(proxy: Proxy | None) -> bool:
    return proxy is not None and proxy.url.startswith("https:")


def _is_small_and_plain(response: aiohttp.ClientResponse) -> bool:
    """Whether it says that it is no more than may be read without a look at each piece of it."""
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
            # some servers close the connection after a fault without saying so, and the next
            # request on it would die
            protocol.force_close()
            # a body that came with the headers: it is in the pool again
            if connection.protocol is None:
                protocol.close()
        return response
