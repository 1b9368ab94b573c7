"""A proxy before a server that loses requests and answers when it is told to, over real sockets."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from attrs import define, field, frozen

Fault = Literal["request lost", "answer lost", "answer cut"]
"""The request is read and goes no further; the server answers it, and nothing of that comes back;
or the headers alone.
"""


@frozen
class Instead:
    """The server answers, and this comes back in place of what it says."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(factory=dict)


HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}
UNREADABLE: Mapping[str, tuple[bytes, Mapping[str, str]]] = {
    "empty": (b"", {}),
    "empty JSON": (b"", JSON),
    "web page": (b"<html><body>Welcome</body></html>", HTML),
    "half JSON": (b'{"request_id": "r', JSON),
    "list": (b'["a"]', JSON),
    "empty list": (b"[]", JSON),
    "null": (b"null", JSON),
    "empty text": (b'""', JSON),
    "random bytes": (bytes(range(128, 256)), {"Content-Type": "application/octet-stream"}),
    "false gzip": (b"no gzip at all", {**JSON, "Content-Encoding": "gzip"}),
    "false zstd": (b"no zstd at all", {**JSON, "Content-Encoding": "zstd"}),
    "false deflate": (b"no deflate at all", {**JSON, "Content-Encoding": "deflate"}),
    "random protobuf": (b"\xff\xff\xff", {"Content-Type": "application/x-protobuf"}),
    "empty protobuf": (b"", {"Content-Type": "application/x-protobuf"}),
    "JSON that says protobuf": (b"{}", {"Content-Type": "application/x-protobuf"}),
}
"""Bodies and headers of answers with a good status that nobody can make anything of."""


def unreadable(kind: str, status: int = 200) -> Instead:
    return Instead(status, *UNREADABLE[kind])


@define(eq=False)
class Faulty:
    """The state of a proxy: its URL, its next faults, and the paths and statuses that passed
    through it.
    """

    base_url: str
    faults: list[tuple[str, Fault | Instead]] = field(factory=list)
    """The faults of the next requests of a path, in order."""
    seen: list[str] = field(factory=list)
    """The last parts of the paths of all requests that came."""
    lock: threading.Lock = field(factory=threading.Lock)

    def next_fault(self, call: str) -> Fault | Instead | None:
        with self.lock:
            self.seen.append(call)
            for index, (path, fault) in enumerate(self.faults):
                if path == call:
                    del self.faults[index]
                    return fault
        return None

    def count(self, call: str) -> int:
        return self.seen.count(call)


@contextmanager
def faulty(base_url: str, proxy: Faulty | None = None) -> Iterator[Faulty]:
    """Serves a proxy before the server at `base_url`, with the faults of `proxy` if it is given."""
    target = urlsplit(base_url)
    proxy = proxy or Faulty("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_DELETE(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            fault = proxy.next_fault(self.path.rpartition("/")[2])
            if fault == "request lost":
                self.close_connection = True
                return
            status, headers, answer = forward(
                self.command, self.path, body, dict(self.headers.items())
            )
            if fault == "answer lost":
                self.close_connection = True
                return
            if isinstance(fault, Instead):
                headers = {"Content-Length": str(len(fault.body)), **fault.headers}
                status, answer = fault.status, fault.body
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if fault == "answer cut":
                self.close_connection = True
                return
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    def forward(
        method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
            kept = {
                name: response.headers[name]
                for name in ("content-type", "content-length", "location")
                if name in response.headers
            }
            return response.status, kept, answer
        finally:
            connection.close()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.base_url = f"http://127.0.0.1:{server.server_port}"
    # it looks so often, in seconds, whether it is to stop
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
