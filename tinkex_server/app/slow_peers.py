"""`TimedConnection`: a connection that is closed when its peer sends too slowly or too much.

Headers are bounded in size, and headers and bodies must arrive in time. Otherwise a peer could hold
connections for nothing, even without an API key.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tinkex_server.app.exchange import Exchange

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

MOST_HEADER_BYTES = 64 << 10
"""The bytes of one request's URL and headers. They are read before the API key is known."""
MOST_TRAILERS = 100
"""The headers that may follow a body in chunks."""
HEADER_SECONDS = 30.0
"""The seconds in which all headers must arrive. They count from the opening of the connection, or
from the first byte of a later request.
"""
IDLE_SECONDS = 5.0
"""The seconds after which a connection without a request is closed."""
BODY_SECONDS = 30.0
BODY_BYTES = 8 << 10
"""The bytes of a body that must arrive in each `BODY_SECONDS`: 2 kbit/s."""


class TimedConnection(HttpToolsProtocol):
    """A connection of uvicorn, which alone would wait for ever, with clocks on headers and bodies.

    A request that has arrived completely has no clock on it: its answer may take any time.
    """

    opened_at = 0.0
    _waiting: deque[Exchange]  # requests that were sent before the ones before them were answered
    _headers_since: float | None = None  # while headers are awaited
    _raw_bytes = 0  # received since then; a header that never ends is not parsed at all
    _header_count = 0  # of the request that is received
    _receiving_body = False
    _window_since, _window_bytes = 0.0, 0  # of the body
    _idle_since: float | None = None  # between an answer and the next request

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.opened_at = self._headers_since = time.monotonic()
        self._waiting = deque()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # the peer was refused, and keeps sending
        self._idle_since = None
        super().data_received(data)
        self._window_bytes += len(data)
        if self._headers_since is not None:
            self._raw_bytes += len(data)
            self._check_headers(self._raw_bytes)
        elif self._receiving_body:
            if len(self.headers) > self._header_count + MOST_TRAILERS:
                self._refuse(
                    431,
                    "Request Header Fields Too Large",
                    f"the body is followed by over {MOST_TRAILERS} headers",
                )
        elif not self.is_busy:
            # these bytes ended the clock of an idle connection, but began no request
            self._headers_since = time.monotonic()

    def on_message_begin(self) -> None:
        self._raw_bytes = 0
        if self._headers_since is None:
            self._headers_since = time.monotonic()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begins an exchange, unless the headers are too long."""
        sizes = [len(name) + len(value) for name, value in self.headers]
        self._check_headers(len(self.url) + sum(sizes))
        self._header_count = len(sizes)
        self._headers_since = None
        self._raw_bytes = 0
        self._receiving_body = True
        self._window_since, self._window_bytes = time.monotonic(), 0
        if not self.transport.is_closing():
            assert self.parser
            keep_alive = self._complete_scope(self.parser)
            self._begin_exchange(keep_alive=keep_alive)

    def _complete_scope(self, parser: httptools.HttpRequestParser) -> bool:
        """Adds what the parser knows of a request; returns whether its connection is kept open."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = parser.get_method().decode("ascii")
        self.scope["http_version"] = version = parser.get_http_version()
        self.scope["raw_path"] = url.path
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["query_string"] = url.query or b""
        return version != "1.0" and parser.should_keep_alive()

    def _begin_exchange(self, *, keep_alive: bool) -> None:
        last, self.cycle = (
            self.cycle,
            Exchange(
                self.scope,
                self.transport,
                self.flow,
                self.logger,
                self.access_logger,
                self.access_log,
                self.server_state.default_headers,
                asyncio.Event(),
                self.expect_100_continue,
                keep_alive,
                self.on_response_complete,
            ),
        )
        if last is None or last.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            self._start(self.cycle)
        else:  # it was sent before the last one was answered
            self.flow.pause_reading()
            self._waiting.append(self.cycle)

    def _start(self, exchange: RequestResponseCycle) -> None:
        app = cast("ASGI3Application", self.app)  # pyright: ignore[reportUnknownMemberType]
        task = self.loop.create_task(exchange.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begins the next request of a pipeline, or the idle time of the connection.

        uvicorn's own method arms and cancels a timer for each answer.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._waiting:
            self._start(self._waiting.popleft())
        else:
            self._idle_since = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def awaits_peer(self) -> bool:
        """Whether the next thing to happen is that the peer sends something."""
        return not self.is_busy or self._receiving_body

    def close_if_late(self, now: float) -> None:
        """Closes the connection if one of its clocks has run out."""
        if self._headers_since is not None and now - self._headers_since > HEADER_SECONDS:
            self._refuse(408, "Request Timeout", "the headers did not arrive in time")
        elif self._receiving_body and now - self._window_since > BODY_SECONDS:
            if self._window_bytes < BODY_BYTES and not self.flow.read_paused:
                self._refuse(408, "Request Timeout", "the body did not arrive in time")
            self._window_since, self._window_bytes = now, 0
        elif self._idle_since is not None and now - self._idle_since > IDLE_SECONDS:
            self.transport.close()

    def close_for_others(self) -> None:
        """Closes the connection since there are too many."""
        self._refuse(503, "Service Unavailable", "too many connections; send the request again")

    def _check_headers(self, size: int) -> None:
        if size > MOST_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(
                431,
                "Request Header Fields Too Large",
                f"the headers are over {MOST_HEADER_BYTES} bytes",
            )

    def _refuse(self, status: int, phrase: str, detail: str) -> None:
        """Closes the connection, and answers with the reason unless an answer has begun."""
        if self.transport.is_closing():
            return
        if not (self.is_busy and self.cycle.response_started):
            body = b'{"detail":"%s"}' % detail.encode()
            head = (
                f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: "
                f"{len(body)}\r\n"
            )
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def close_slow_connections(state: ServerState) -> None:
    """Closes the connections whose clocks have run out."""
    now = time.monotonic()
    for connection in _connections(state):
        connection.close_if_late(now)


def close_surplus_connections(state: ServerState, most: int) -> None:
    """Closes the connections above `most`: idle ones first, then those with an incomplete body, the
    oldest first.
    """
    open_ones = [
        connection for connection in _connections(state) if not connection.transport.is_closing()
    ]
    if len(open_ones) <= most:
        return
    idle = sorted(
        (one for one in open_ones if one.awaits_peer), key=lambda one: (one.is_busy, one.opened_at)
    )
    for connection in idle[: len(open_ones) - most]:
        connection.close_for_others()


def _connections(state: ServerState) -> list[TimedConnection]:
    return [cast("TimedConnection", connection) for connection in state.connections]
