"""`HttpxConnections`: any transport for httpx that the user gives, as `Connections`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

import httpx

from tinkex.config.secrets import without_queries
from tinkex.errors import FailurePoint
from tinkex.transport import response_body
from tinkex.transport.port import Answer, ExchangeFailed, Headers, Message


class HttpxConnections:
    """The connections of an httpx transport.

    Args:
        transport: the transport, such as `httpx.AsyncHTTPTransport()`.
        connect_timeout: seconds to open a connection.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, connect_timeout: float) -> None:
        self._transport = transport
        self._connect_timeout = connect_timeout

    async def exchange(self, message: Message) -> Answer:
        """Sends a message once, and returns the answer.

        What the transport does not tell counts as sent. The body is read if the transport has read
        it.
        """
        with as_failures(None):
            response = await self._transport.handle_async_request(self._request(message))
            return answer_of(response, message.url)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def abandon(self) -> None:
        """Does nothing: only an event loop can close a transport of httpx."""

    def _request(self, message: Message) -> httpx.Request:
        timeouts = dict.fromkeys(("read", "write", "pool"), message.timeout)
        return httpx.Request(
            message.method,
            message.url,
            headers=dict(message.headers),
            content=message.content if message.content or message.method != "GET" else None,
            extensions={"timeout": {**timeouts, "connect": self._connect_timeout}},
        )


def answer_of(response: httpx.Response, url: str) -> Answer:
    """Returns the answer that httpx has received from a URL."""
    answer = Answer(
        response.status_code,
        Headers(list(response.headers.items())),
        reason_phrase=response.reason_phrase,
        url=url,
    )
    if response.is_stream_consumed:
        answer.content = response.content  # which httpx has decompressed
        answer.headers = response_body.without_encoding(answer.headers)
    else:
        answer.body = _Body(response)
    return answer


class _Body:
    """The unread body of an httpx response."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def pieces(self) -> AsyncIterator[bytes]:
        with as_failures("answered"):
            async for piece in self._response.aiter_raw():
                yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def as_failures(place: FailurePoint | None) -> Generator[None]:
    """Translates the errors of httpx. Without a place, their class tells it."""
    try:
        yield
    except httpx.DecodingError as error:
        raise response_body.unreadable_answer(str(error)) from error
    except httpx.TransportError as error:
        raise ExchangeFailed(
            without_queries(str(error)) or type(error).__name__,
            place or _place_of(error),
            late=isinstance(error, httpx.TimeoutException),
        ) from error


def _place_of(error: httpx.TransportError) -> FailurePoint:
    """Returns the failure point that an error's class suggests."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
        return "connecting"
    return "unsent" if isinstance(error, httpx.PoolTimeout) else "unanswered"
