"""`TimedConnection`: a connection that a peer cannot hold for nothing: headers are bounded and, like
bodies, have to come on.
"""

from __future__ import annotations

import time
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MOST_HEADER_BYTES = 64 << 10
"""Of one request, the URL with them. They come before the key is known, so before anything else is.
"""
HEADER_SECONDS = 30.0
"""From the opening of a connection, or the first byte of a later request, until all headers are
there.
"""
BODY_SECONDS = 30.0
BODY_BYTES = 8 << 10
"""So many have to come in each `BODY_SECONDS`, until all of a body is there: 2 kbit/s."""


class TimedConnection(HttpToolsProtocol):
    """uvicorn's connection, which waits for as long as the peer likes. A request that is there
    whole may take its time: no clock is on it.
    """

    opened_at = 0.0
    _heading_since: float | None = None
    _header_bytes = 0  # of those that were read
    _raw_bytes = 0  # that came until then: of a header without an end none is read
    _sending_body = False
    _window = (0.0, 0)  # since when, and how many bytes came

    def connection_made(self, transport: object) -> None:
        self.opened_at = self._heading_since = time.monotonic()
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]  uvicorn's is narrower than asyncio's

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # it was refused, and goes on sending
        super().data_received(data)
        since, count = self._window
        self._window = since, count + len(data)
        if self._heading_since is not None:
            self._raw_bytes += len(data)
            self._check_headers()
        elif not self._sending_body and not self.is_busy:
            # what came ends the clock on an idle connection, and is no request yet
            self._heading_since = time.monotonic()

    def on_message_begin(self) -> None:
        self._header_bytes = self._raw_bytes = 0
        if self._heading_since is None:
            self._heading_since = time.monotonic()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._header_bytes += len(url)
        self._check_headers()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        self._check_headers()
        if self._header_bytes <= MOST_HEADER_BYTES:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._heading_since = None
        self._header_bytes = self._raw_bytes = 0
        self._sending_body, self._window = True, (time.monotonic(), 0)
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._sending_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way, be it there whole or not."""
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def owes(self) -> bool:
        """Whether the peer is to send something, and nothing waits for the server."""
        return not self.is_busy or self._sending_body

    def close_if_late(self, now: float) -> None:
        """Closes it when its peer has let one of the clocks run out."""
        if self._heading_since is not None and now - self._heading_since > HEADER_SECONDS:
            self._refuse(408, "Request Timeout", "the headers did not come in time")
        elif self._sending_body and now - self._window[0] > BODY_SECONDS:
            if self._window[1] < BODY_BYTES and not self.flow.read_paused:
                self._refuse(408, "Request Timeout", "the body did not come in time")
            self._window = now, 0

    def close_for_others(self) -> None:
        """There are too many connections."""
        self._refuse(503, "Service Unavailable", "too many connections; send this again")

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
        """Says why, unless an answer is being sent or nothing was asked; and closes the
        connection.
        """
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
    """Closes the connections whose peers let their clocks run out."""
    now = time.monotonic()
    for connection in _clocked(state):
        connection.close_if_late(now)


def close_surplus_connections(state: ServerState, most: int) -> None:
    """Closes connections above `most`: those that have nothing under way first, then those with
    half a body, the oldest first.
    """
    open_ones = [
        connection for connection in _clocked(state) if not connection.transport.is_closing()
    ]
    if len(open_ones) <= most:
        return
    idle = sorted(
        (one for one in open_ones if one.owes), key=lambda one: (one.is_busy, one.opened_at)
    )
    for connection in idle[: len(open_ones) - most]:
        connection.close_for_others()


def _clocked(state: ServerState) -> list[TimedConnection]:
    return [cast("TimedConnection", connection) for connection in state.connections]
