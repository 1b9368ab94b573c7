"""`HttpConnection`: one connection to a server, which carries one HTTP/1.1 exchange at a time.

httptools parses the answers; asyncio carries the bytes. What was sent and what has arrived is known
exactly here, so that a failure has its place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

import httptools

from tinkex.errors import FailurePoint
from tinkex.transport.port import Answer, ExchangeFailed, Headers, Message
from tinkex.transport.unreachable import SERVER_SPEAKS_TLS, os_error_text

_SMALL = 10_000_000  # bytes; a body that promises fewer is read whole
_HEAD_BYTES = 256 << 10
"""The most bytes of an answer's headers."""
_WRITTEN_AT_ONCE = 64 << 10  # bytes of a body that go with the headers
_PIECE = 256 << 10  # bytes of a larger body that are written before other tasks run
_BUFFERED = 512 << 10  # bytes that nobody has read yet, above which the connection is not read
_TLS_ALERT = b"\x15\x03"
"""The beginning of a TLS server's answer to plain HTTP."""


class _Arriving:
    """The answer of one exchange, as it arrives; the `Body` of one that is read in pieces."""

    __slots__ = (
        "complete",
        "connection",
        "error",
        "handed_over",
        "head_seen",
        "message",
        "pairs",
        "parts",
        "reason_phrase",
        "status",
        "unread",
        "until_close",
        "waiter",
    )

    def __init__(self, message: Message, connection: HttpConnection) -> None:
        self.message = message
        self.connection = connection
        self.pairs: list[tuple[str, str]] = []
        self.parts: deque[bytes] = deque()
        self.unread = 0  # bytes in parts
        self.status = 0
        self.reason_phrase = ""
        self.head_seen = self.complete = self.handed_over = self.until_close = False
        self.error: ExchangeFailed | None = None
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            if self.parts:
                piece = self.parts.popleft()
                self.unread -= len(piece)
                yield piece
            elif self.error is not None:
                raise self.error
            elif self.complete:
                return
            else:
                await self.connection.wait_for_more(self)

    async def aclose(self) -> None:
        if not self.complete:
            self.connection.close()


class HttpConnection(asyncio.Protocol):
    """One connection to a server, for one event loop.

    Args:
        loop: the running event loop.
        on_done: called when an exchange is over, however it ended.
        on_lost: called when the connection is closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_done: Callable[[HttpConnection], None],
        on_lost: Callable[[HttpConnection], None],
    ) -> None:
        self.reusable = True
        """Whether another exchange may follow the one that is over."""
        self.idle_since = 0.0
        self._loop = loop
        self._on_done = on_done
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._arriving: _Arriving | None = None
        self._informational = False
        self._unasked = False
        """Whether the message that arrives answers no request."""
        self._head_bytes = 0
        self._sent_whole = True
        self._writable: asyncio.Future[None] | None = None
        """Set while the connection takes no more bytes."""
        self._reading = True
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another exchange may use it."""
        return self.reusable and self._transport is not None and not self._transport.is_closing()

    async def exchange(
        self, message: Message, target: str, host: str, more_headers: Mapping[str, str]
    ) -> Answer:
        """Sends a message and returns the answer. Its body is read if it is complete, or if it
        promises to be small and `Message.streamed` is not set.

        Args:
            message: the message.
            target: the target of the request line.
            host: the header Host, where the message has none.
            more_headers: headers in addition to those of the message.
        """
        if self._transport is None or self._transport.is_closing():
            self._on_done(self)
            raise ExchangeFailed("the connection was closed before the request", "unsent")
        arriving = self._arriving = _Arriving(message, self)
        try:
            # in one expression: no variable of this frame holds the key
            self._transport.write(
                _head(message, target, host, more_headers)
                + (message.content if len(message.content) <= _WRITTEN_AT_ONCE else b"")
            )
            if len(message.content) > _WRITTEN_AT_ONCE:
                await self._send_large(message.content, arriving)
            while not (arriving.handed_over or arriving.error):
                await self.wait_for_more(arriving)
        except BaseException:
            self.close()
            raise
        if arriving.error is not None:
            raise arriving.error
        return self._answer(arriving)

    async def wait_for_more(self, arriving: _Arriving) -> None:
        """Waits until more of an answer has arrived, its end, or its failure."""
        arriving.waiter = self._loop.create_future()
        self._set_deadline(arriving.message.timeout)
        if not self._reading and arriving.unread < _BUFFERED:
            self._reading = True
            cast(asyncio.Transport, self._transport).resume_reading()
        try:
            await arriving.waiter
        finally:
            arriving.waiter = None

    def close(self) -> None:
        """Closes the connection. An exchange that is not over fails."""
        self.reusable = False
        if self._transport is not None:
            if self._arriving is None:
                self._transport.close()
            else:
                self._transport.abort()
        self._fail("the client closed the connection")

    def abort(self) -> None:
        """Closes the connection without waiting for the end of its TLS session."""
        self.close()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        arriving = self._arriving
        if arriving is not None and arriving.until_close and exc is None:
            self._complete(arriving)
        elif isinstance(exc, OSError):
            self._fail(os_error_text(exc))
        else:
            seen = arriving is not None and arriving.head_seen
            self._fail(str(exc) if exc else _CUT_OFF if seen else _NO_ANSWER)
        self._resume()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        self._resume()

    def data_received(self, data: bytes) -> None:
        arriving = self._arriving
        if arriving is None:  # a server that speaks unasked, as one does that is about to close
            self.close()
            return
        self._deadline = self._loop.time() + arriving.message.timeout
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(arriving, data, error)
            return
        if arriving.complete:
            if self._unasked:
                self.close()
        elif not arriving.head_seen:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._abort(f"the headers of its answer exceed {_HEAD_BYTES:,} bytes")
        elif arriving.handed_over:
            arriving.wake()
            if arriving.unread > _BUFFERED and self._reading:
                self._reading = False
                cast(asyncio.Transport, self._transport).pause_reading()
        elif arriving.message.streamed or not _is_small_and_plain(arriving.pairs):
            arriving.handed_over = True
            arriving.wake()

    # ---- what the parser calls ----

    def on_message_begin(self) -> None:
        self._informational = False
        self._unasked = self._arriving is None

    def on_status(self, words: bytes) -> None:
        if self._arriving is not None:
            self._arriving.reason_phrase = _text(words)

    def on_header(self, name: bytes, value: bytes) -> None:
        arriving = self._arriving
        if arriving is not None and not arriving.head_seen:  # no trailer after the body
            arriving.pairs.append((name.decode("latin-1").lower(), _text(value)))

    def on_headers_complete(self) -> None:
        arriving, status = self._arriving, self._parser.get_status_code()
        if arriving is None:
            return
        if 100 <= status < 200:
            self._informational = True
            arriving.pairs.clear()
            return
        arriving.status, arriving.head_seen = status, True
        arriving.until_close = status not in _WITHOUT_BODY and not any(
            name in _FRAMED for name, _ in arriving.pairs
        )

    def on_body(self, body: bytes) -> None:
        if self._arriving is not None:
            self._arriving.parts.append(body)
            self._arriving.unread += len(body)

    def on_message_complete(self) -> None:
        if self._informational or self._arriving is None:
            return
        # some servers close the connection after an error without saying so, and the next request
        # on it would fail
        self.reusable &= (
            self._sent_whole and self._arriving.status != 500 and self._parser.should_keep_alive()
        )
        self._complete(self._arriving)

    # ---- the steps of an exchange ----

    async def _send_large(self, content: bytes, arriving: _Arriving) -> None:
        """Sends a large body piece by piece, and stops when an answer or a failure comes first."""
        self._sent_whole, whole = False, memoryview(content)
        for at in range(0, len(whole), _PIECE):
            if arriving.handed_over or arriving.error is not None:
                return
            cast(asyncio.Transport, self._transport).write(whole[at : at + _PIECE])
            if self._writable is None:
                await asyncio.sleep(0)
            else:
                arriving.waiter = self._writable  # an answer ends the wait, too
                self._set_deadline(arriving.message.timeout)
                await arriving.waiter
                arriving.waiter = None
        self._sent_whole = True

    @staticmethod
    def _answer(arriving: _Arriving) -> Answer:
        parts = arriving.parts
        answer = Answer(
            arriving.status, Headers(arriving.pairs), reason_phrase=arriving.reason_phrase
        )
        if arriving.complete:
            answer.content = parts[0] if len(parts) == 1 else b"".join(parts)
        else:
            answer.body = arriving
        return answer

    def _complete(self, arriving: _Arriving) -> None:
        arriving.complete = arriving.handed_over = True
        self._end()
        arriving.wake()

    def _end(self) -> None:
        self._arriving, self._head_bytes = None, 0
        self._on_done(self)

    def _fail(self, text: str, *, late: bool = False) -> None:
        arriving = self._arriving
        if arriving is None:
            return
        point: FailurePoint = "answered" if arriving.head_seen else "unanswered"
        arriving.error = ExchangeFailed(text, point, late=late)
        self._end()
        arriving.wake()

    def _abort(self, text: str, *, late: bool = False) -> None:
        """Fails the exchange and closes the connection."""
        self.reusable = False
        self._fail(text, late=late)
        self.close()

    def _refuse(self, arriving: _Arriving, data: bytes, error: Exception) -> None:
        """Ends an exchange whose answer is not HTTP."""
        self._abort(f"its answer is not HTTP/1.1: {error}")
        if arriving.error is not None and data.startswith(_TLS_ALERT):
            arriving.error.reason = SERVER_SPEAKS_TLS

    def _resume(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    # ---- the time for a piece ----

    def _set_deadline(self, timeout: float) -> None:
        """Sets the time at which a wait for a piece fails.

        One timer serves all exchanges of a connection: it is set anew only when it is due, since
        setting it for each exchange would cost as much as parsing an answer.
        """
        self._deadline = self._loop.time() + timeout
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer, arriving = None, self._arriving
        if arriving is None or arriving.waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        else:
            self._abort(f"nothing came for {arriving.message.timeout:g} s", late=True)


_NO_ANSWER = "no answer had come"
_CUT_OFF = "its answer is incomplete"
_FRAMED = frozenset({"content-length", "transfer-encoding"})
"""The headers that tell where a body ends. Without them it ends with the connection."""
_WITHOUT_BODY = frozenset({204, 304})


def _head(message: Message, target: str, host: str, more_headers: Mapping[str, str]) -> bytes:
    """Returns the request line and the headers.

    Raises `ValueError` for a header that would end before its value does.
    """
    lines = [f"{message.method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in message.headers.items()]
    lines += [f"{name}: {value}" for name, value in more_headers.items()]
    if "Host" not in message.headers and not any(
        len(name) == 4 and name.lower() == "host" for name in message.headers
    ):
        lines.append(f"Host: {host}")
    if message.content or message.method != "GET":
        lines.append(f"Content-Length: {len(message.content)}")
    text = "\r\n".join(lines)
    if text.count("\n") + text.count("\r") > 2 * (len(lines) - 1):
        raise ValueError("a header has a line break")
    return f"{text}\r\n\r\n".encode()


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _is_small_and_plain(pairs: list[tuple[str, str]]) -> bool:
    """Returns whether the headers promise a body that is small enough to read in one piece."""
    length = 0
    for name, value in pairs:
        if name in ("content-encoding", "transfer-encoding"):
            return False
        if name == "content-length":
            length = int(value) if value.isdecimal() else _SMALL
    return 0 < length < _SMALL
