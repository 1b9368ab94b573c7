"""A hub of models and tokenizers on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """A hub on this machine: files by path, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.command, handler.path, handler.headers["Authorization"]))
        body = self.files.get(handler.path.partition("?")[0])
        gated = (
            handler.path.startswith("/gated/")
            and handler.headers["Authorization"] != "Bearer hf-good"
        )
        handler.send_response(401 if gated else 404 if body is None else 200)
        if gated:
            handler.send_header("X-Error-Code", "GatedRepo")
        elif body is None:
            known = handler.path.startswith(
                ("/bare/", *(path.partition("/resolve/")[0] + "/" for path in self.files))
            )
            handler.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        handler.send_header("X-Repo-Commit", ("a" if "/main/" in handler.path else "b") * 40)
        handler.send_header("ETag", f'"{hash(body)}"')
        handler.send_header("Content-Length", "0" if gated else str(len(body or b"")))
        handler.end_headers()
        if handler.command == "GET" and not gated:
            handler.wfile.write(body or b"")


@contextmanager
def hub_here() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        do_GET = do_HEAD = lambda self: hub.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
