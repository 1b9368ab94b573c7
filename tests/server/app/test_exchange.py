"""Answers over sockets: each is sent in one piece, a stream as it comes, and in order."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from urllib.parse import urlsplit

import pytest
from starlette.types import Message, Receive, Scope, Send

from tinkex.local import Server
from tinkex_server.app.uvicorn_server import HttpServer


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers in the way that the path says."""
    match scope["path"]:
        case "/whole":
            await send(start((b"content-length", b"5")))
            await send(body(b"whole"))
        case "/slow":
            await asyncio.sleep(0.2)
            await send(start((b"content-length", b"4")))
            await send(body(b"slow"))
        case "/stream":
            await send(start())
            await asyncio.sleep(0.3)
            for piece in (b"one", b"", b"three"):
                await send(body(piece, more=True))
            await send(body(b""))
        case "/pieces":
            await send(start((b"content-length", b"6")))
            await send(body(b"abc", more=True))
            await send(body(b"def"))
        case "/empty":
            await send(start(status=204))
            await send(body(b""))
        case "/split":
            await send(start((b"content-length", b"0"), (b"x-a", b"1\r\nx-b: 2")))
            await send(body(b""))
        case "/short":
            await send(start((b"content-length", b"9")))
            await send(body(b"short"))
        case "/who":
            who = f"{scope['scheme']} {scope['client'][0]}".encode()
            await send(start((b"content-length", str(len(who)).encode())))
            await send(body(who))
        case _:
            raise AssertionError(scope["path"])


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    loop, started = asyncio.new_event_loop(), Future[None]()
    made = Future[HttpServer]()

    async def serve() -> None:
        server = HttpServer(app, started, access_log=False)
        made.set_result(server)
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.result(10)
    yield listener.getsockname()
    loop.call_soon_threadsafe(made.result().stop)
    thread.join()
    loop.close()


def ask(address: tuple[str, int], *requests: str, method: str = "GET") -> bytes:
    """Sends requests at once, the last of which closes the connection; returns all that comes."""
    with socket.create_connection(address, timeout=10) as peer:
        lines = [f"{method} {request} HTTP/1.1\r\nHost: a\r\n" for request in requests]
        peer.sendall("\r\n".join([*lines[:-1], f"{lines[-1]}Connection: close\r\n\r\n"]).encode())
        parts: list[bytes] = []
        while part := peer.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/whole", b"whole"),
        ("/pieces", b"abcdef"),
        ("/stream", b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"),
        ("/empty", b""),
    ],
)
def test_the_body_follows_the_head(address: tuple[str, int], path: str, content: bytes) -> None:
    head, _, rest = ask(address, path).partition(b"\r\n\r\n")
    assert rest == content
    assert (b"transfer-encoding: chunked" in head) == (path == "/stream")
    assert b"\r\nconnection: close" in head
    assert b"\r\ndate: " in head


@pytest.mark.parametrize("path", ["/whole", "/stream", "/empty"])
def test_the_answer_to_head_has_no_body(address: tuple[str, int], path: str) -> None:
    assert ask(address, path, method="HEAD").endswith(b"\r\n\r\n")


def test_requests_that_are_sent_at_once_are_answered_in_order(address: tuple[str, int]) -> None:
    answers = ask(address, "/slow", "/whole", "/slow", "/pieces")
    contents = [part[:4] for part in answers.split(b"\r\n\r\n")[1:]]
    assert contents == [b"slow", b"whol", b"slow", b"abcd"]


def test_the_head_of_a_stream_does_not_wait_for_its_first_piece(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as peer:
        peer.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        first = peer.recv(65536)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n")


def test_a_header_with_a_line_break_is_not_sent(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(address, "/split")
    assert b"x-b" not in answer
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "control character" in caplog.text


def test_a_body_of_another_length_than_declared_is_not_sent(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert b"short" not in ask(address, "/short")
    assert "another length" in caplog.text


@pytest.mark.parametrize(
    ("headers", "who"),
    [
        ("", b"http 127.0.0.1"),
        ("X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n", b"https 10.1.2.3"),
    ],
)
def test_a_proxy_on_this_machine_says_who_asks(
    address: tuple[str, int], headers: str, who: bytes
) -> None:
    with socket.create_connection(address, timeout=10) as peer:
        peer.sendall(f"GET /who HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
        assert peer.recv(65536).endswith(who)


def test_the_head_of_an_answer_comes_in_one_piece_with_its_body(server: Server) -> None:
    parts = urlsplit(server.base_url)
    assert parts.hostname
    assert parts.port
    pieces: list[bytes] = []
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        for _ in range(20):
            connection.sendall(
                b"GET /api/v1/healthz HTTP/1.1\r\nHost: %s\r\n\r\n" % parts.netloc.encode()
            )
            pieces.append(connection.recv(1 << 16))
    for piece in pieces:
        head, _, content = piece.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(content) == length > 0
