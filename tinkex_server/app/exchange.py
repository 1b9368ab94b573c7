"""`Exchange`: one request and its answer, whose head is sent together with its body.

uvicorn alone writes them separately, which takes two system calls and two packets.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

_IN_HEADERS = bytes({*b"\t", *range(0x20, 0x100)} - {0x7F})
"""The bytes that a line of a head may hold."""


class Exchange(RequestResponseCycle):
    """An exchange of uvicorn's that writes answers in its own way."""

    _head = b""
    """The head of the answer, until it is sent."""
    _left = 0
    """The number of bytes that are missing of a body of declared length."""

    async def send(self, message: Any) -> None:
        """Sends a part of the answer, as ASGI has it."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started and message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif self.response_started and message["type"] == "http.response.body":
            self._continue(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} was sent out of order")

    def _begin(self, status: int, headers: Any) -> None:
        if self.access_log:
            self.access_logger.info(
                '%s - "%s %s HTTP/%s" %d',
                get_client_addr(self.scope),
                self.scope["method"],
                get_path_with_query_string(self.scope),
                self.scope["http_version"],
                status,
            )
        self._head = self._written(status, [*self.default_headers, *headers])
        self.response_started, self.waiting_for_100_continue = True, False
        if self.chunked_encoding:  # the first piece of a stream may be long in coming
            self._write(b"")

    def _written(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Returns the head of the answer. Raises `RuntimeError` for what would break out of it."""
        lines, names = [STATUS_LINE[status]], {name.lower(): value for name, value in headers}
        lines += [b"%s: %s\r\n" % header for header in headers]
        if b"close" in names.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if b"content-length" in names:
            self.chunked_encoding, self._left = False, int(names[b"content-length"])
        elif b"transfer-encoding" in names:
            self.chunked_encoding = True
        elif self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.translate(None, _IN_HEADERS) != b"\r\n" * len(lines):
            raise RuntimeError("a header of the answer holds a control character")
        return head

    def _continue(self, body: bytes, *, more: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the answer has ended already")
        if self.scope["method"] == "HEAD":
            body, self._left = b"", 0
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body has another length than its head declares")
        self._write(body)
        if not more:
            self._end()

    def _write(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self.transport.writelines((head, data) if head else (data,))

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
