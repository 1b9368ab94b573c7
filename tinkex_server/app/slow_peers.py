"""`TimedConnection`: a connection that is closed when its peer sends too slowly or too much.

Headers are bounded in size, and headers and bodies must arrive in time. Otherwise a peer could hold
connections for nothing, even without an API key.
"""

from __future__ import annotations

import time
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tinkex_server.app.joined_writes import JoinedWrites

MOST_HEADER_BYTES = 64 << 10
"""The bytes of one request's URL and headers. They are read before the API key is known."""
HEADER_SECONDS = 30.0
"""The seconds in which all headers must arrive. They count from the opening of the connection, or
from the first byte of a later request.
"""
BODY_SECONDS = 30.0
BODY_BYTES = 8 << 10
"""The bytes of a body that must arrive in each `BODY_SECONDS`: 2 kbit/s."""


class TimedConnection(HttpToolsProtocol):
    """A connection of uvicorn, which alone would wait for ever, with clocks on headers and bodies.

    A request that has arrived completely has no clock on it: its answer may take any time.
    """

    opened_at = 0.0
    _headers_since: float | None = None  # while headers are awaited
    _header_bytes = 0  # of the headers that were parsed
    _raw_bytes = 0  # received since then; a header that never ends is not parsed at all
    _receiving_body = False
    _window = (0.0, 0)  # its begin, and the bytes received in it

    def connection_made(self, transport: object) -> None:
        self.opened_at = self._headers_since = time.monotonic()
        super().connection_made(JoinedWrites(transport))  # pyright: ignore[reportArgumentType]  it has all that uvicorn uses

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # the peer was refused, and keeps sending
        super().data_received(data)
        since, count = self._window
        self._window = since, count + len(data)
        if self._headers_since is not None:
            self._raw_bytes += len(data)
            self._check_headers()
        elif not self._receiving_body and not self.is_busy:
            # these bytes ended the clock of an idle connection, but began no request
            self._headers_since = time.monotonic()

    def on_message_begin(self) -> None:
        self._header_bytes = self._raw_bytes = 0
        if self._headers_since is None:
            self._headers_since = time.monotonic()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._header_bytes += len(url)
        self._check_headers()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes <= MOST_HEADER_BYTES:
            super().on_header(name, value)
        else:
            self._check_headers()

    def on_headers_complete(self) -> None:
        self._headers_since = None
        self._header_bytes = self._raw_bytes = 0
        self._receiving_body, self._window = True, (time.monotonic(), 0)
        assert self.parser
        if self.parser.should_upgrade() and self._has_body:
            self._refuse(  # the parser would skip the body
                400,
                "Bad Request",
                "this server speaks HTTP/1.1 alone: send no Upgrade header with a body (in Java, "
                "set HttpClient.Version.HTTP_1_1)",
            )
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

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
        elif self._receiving_body and now - self._window[0] > BODY_SECONDS:
            if self._window[1] < BODY_BYTES and not self.flow.read_paused:
                self._refuse(408, "Request Timeout", "the body did not arrive in time")
            self._window = now, 0

    def close_for_others(self) -> None:
        """Closes the connection since there are too many."""
        self._refuse(503, "Service Unavailable", "too many connections; send the request again")

    @property
    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def _check_headers(self) -> None:
        if (
            max(self._header_bytes, self._raw_bytes) > MOST_HEADER_BYTES
            and not self.transport.is_closing()
        ):
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
