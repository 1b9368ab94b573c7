"""A server on a real socket that answers each call as a function says, and keeps what was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from attrs import define, field, frozen


@frozen
class Call:
    method: str
    path: str
    """Without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """The header values by lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def at_once() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@frozen
class Answer:
    status: int = 200
    body: bytes | memoryview = b""
    headers: Mapping[str, str] = field(factory=dict)
    cut: int | None = None
    """The connection is closed after so many bytes of the body, and when they have `arrived`: the
    client loses what it has not read.
    """
    arrived: threading.Event = field(factory=at_once)


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(
        status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
    )


NO_ROUTE = as_json({"detail": "Not Found"}, 404)


@define(eq=False)
class Answering:
    base_url: str
    calls: list[Call] = field(factory=list)

    def to(self, path: str) -> list[Call]:
        """Returns the calls whose paths end like this."""
        return [call for call in self.calls if call.path.endswith(path)]


@contextmanager
def answering(answer: Callable[[Call], Answer]) -> Iterator[Answering]:
    """Serves `answer`, which is called in one thread per connection."""
    server = Answering("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10
        wbufsize = -1  # header and body go together, or each answer takes 40 ms

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            call = Call(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            server.calls.append(call)
            self._write(answer(call))

        def _write(self, given: Answer) -> None:
            self.send_response_only(given.status)
            usual = {"Date": self.date_time_string(), "Content-Length": str(len(given.body))}
            for name, value in {**usual, **given.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given.body[: given.cut])
            if given.cut is not None:
                self.wfile.flush()
                given.arrived.wait(10)
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.base_url = f"http://127.0.0.1:{http.server_port}"
    # it looks so often, in seconds, whether it is to stop
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
