"""The connections: aiohttp behind httpx's interface, which also tell how far an exchange got."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cached_property

import aiohttp
import httpx
from aiohttp.connector import Connection
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions

from tinkex.config import HttpLimits
from tinkex.transport.progress import progress

_DIGITS = 8
"""A length of fewer digits is below 10 MB."""
_UNLIMITED = 0  # connections; what bounds them is the number of requests that a client has in flight


class Connections(httpx.AsyncBaseTransport):
    """A pool of connections, for one event loop."""

    def __init__(
        self, limits: HttpLimits | None = None, *, proxy: str | None = None, proxy_headers: Mapping[str, str] | None = None
    ) -> None:
        self._limits = limits or HttpLimits()
        self._proxy = proxy
        self._proxy_headers = dict(proxy_headers or {})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, whole where it is small and plain and the request's extension `stream` is not true; else its body is unread."""
        progress.get().place = "connecting"
        with _as_httpx_errors():
            response = await self._send(request)
            if request.extensions.get("stream") or not _is_small_and_plain(response):
                body = AiohttpResponseStream(response)
                return httpx.Response(response.status, headers=response.raw_headers, stream=body, request=request)
            async with response:  # httpx takes several times longer to read a stream
                content = await response.read()
        return httpx.Response(response.status, headers=response.raw_headers, content=content, request=request)

    async def aclose(self) -> None:
        if "_session" in self.__dict__:
            await self._session.close()

    async def _send(self, request: httpx.Request) -> aiohttp.ClientResponse:
        timeout, tunnelled = request.extensions.get("timeout", {}), request.url.scheme == "https"
        return await self._session.request(
            request.method,
            str(request.url),
            headers=[*request.headers.multi_items(), *(() if tunnelled else self._proxy_headers.items())],
            data=request.content or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                sock_connect=timeout.get("connect"), sock_read=timeout.get("read"), connect=timeout.get("pool")
            ),
            ssl=self._ssl_context if tunnelled else True,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers or None,
        )

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=self._limits.max_connections or _UNLIMITED, keepalive_timeout=self._limits.keepalive)
        return aiohttp.ClientSession(connector=connector, request_class=_Request, response_class=_Response, auto_decompress=False)

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        """Made for the first https:// request, since loading the certificates takes its time."""
        return httpx.create_ssl_context()


def _is_small_and_plain(response: aiohttp.ClientResponse) -> bool:
    """Whether it says that it is no more than may be read without a look at each piece of it."""
    headers = response.headers
    if "Content-Encoding" in headers or "Transfer-Encoding" in headers:
        return False
    length = headers.get("Content-Length", "")
    return length.isdecimal() and len(length) < _DIGITS


@contextmanager
def _as_httpx_errors() -> Generator[None]:
    try:
        with map_aiohttp_exceptions():
            yield
    except (aiohttp.ClientError, OSError) as error:  # those for which httpx-aiohttp has no other name
        raise httpx.NetworkError(str(error)) from error


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        transport = conn.transport
        progress.get().place = "unsent" if transport is None or transport.is_closing() else "unanswered"
        return await super().send(conn)


class _Response(aiohttp.ClientResponse):
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        response = await super().start(connection)
        progress.get().place = "answered"
        if self.status == 500 and protocol is not None:
            # some servers close the connection after a fault without saying so, and the next request on it would die
            protocol.force_close()
            if connection.protocol is None:  # a body that came with the headers: it is in the pool again
                protocol.close()
        return response
