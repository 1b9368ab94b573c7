"""The connections of the pool, over real sockets: where a failure happened, where a body ends, and
which connections are used again.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import pytest

from tinkex import ClientClosedError
from tinkex.config import HttpLimits
from tinkex.transport.connection import ConnectionPool
from tinkex.transport.port import Answer, ExchangeFailed, Message
from tinkex.transport.response_body import raw_pieces
from tinkex.transport.unreachable import TOO_MANY_FILES

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """Serves each connection by a function, and ends when all of them are closed."""
    tasks = set[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        if tasks:
            await asyncio.wait(tasks, timeout=5)


async def heard(reader: asyncio.StreamReader) -> bytes:
    """Reads one request; its body has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def writing(*pieces: bytes) -> Serve:
    """Answers one request with pieces that come apart, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    return serve


def message(url: str, **changes: object) -> Message:
    made = Message("POST", url, {"X-Name": "value"}, b"body", 0.5)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


async def whole(answer: Answer) -> bytes:
    return b"".join([piece async for piece in raw_pieces(answer)])


def ask(serve: Serve, **changes: object) -> tuple[Answer, bytes]:
    async def main() -> tuple[Answer, bytes]:
        pool = ConnectionPool()
        async with serving(serve) as url:
            try:
                answer = await pool.exchange(message(url, **changes))
                return answer, await whole(answer)
            finally:
                await pool.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([OK], b"ok"),
        ([OK[:10], OK[10:30], OK[30:]], b"ok"),
        ([b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"its end"], b"until its end"),
        (
            [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                b"2\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
            ],
            b"abcde",
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK], b"ok"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
    ],
)
def test_a_body_ends_where_the_server_says(
    pieces: list[bytes], body: bytes, streamed: bool
) -> None:
    answer, found = ask(writing(*pieces), streamed=streamed)
    assert found == body
    assert answer.is_success
    assert not answer.headers.keys() & {"link", "trailer"}


@pytest.mark.parametrize(
    ("pieces", "point", "late"),
    [
        ([], "unanswered", False),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], "unanswered", False),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], "unanswered", False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"], "answered", False),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab"], "answered", False),
        ([b"no HTTP at all\r\n\r\n"], "unanswered", False),
        ([b"\x15\x03\x01\x00\x02\x02\x46"], "unanswered", False),
        ([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000], "unanswered", False),
    ],
)
def test_a_failure_has_its_place(pieces: list[bytes], point: str, late: bool) -> None:
    with pytest.raises(ExchangeFailed) as caught:
        ask(writing(*pieces))
    assert (caught.value.failure_point, caught.value.late) == (point, late)
    assert (caught.value.reason is not None) == (pieces[:1] == [b"\x15\x03\x01\x00\x02\x02\x46"])


@pytest.mark.parametrize(
    ("begun", "point"),
    [(b"", "unanswered"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "answered")],
)
def test_a_server_that_hangs_is_late(begun: bytes, point: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(begun)
        await reader.read()

    with pytest.raises(ExchangeFailed) as caught:
        ask(serve, timeout=0.2)
    assert (caught.value.failure_point, caught.value.late) == (point, True)


def test_each_piece_has_the_whole_time() -> None:
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", *[b"12345"] * 4]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        for piece in pieces:
            await asyncio.sleep(0.3)
            writer.write(piece)

    assert ask(serve, timeout=0.8)[1] == b"12345" * 4


def test_no_connection_is_a_failure_to_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def main() -> None:
        await ConnectionPool().exchange(message(f"http://127.0.0.1:{port}/"))

    with pytest.raises(ExchangeFailed, match="refused") as caught:
        asyncio.run(main())
    assert caught.value.failure_point == "connecting"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_too_many_open_files_are_not_blamed_on_the_server() -> None:
    import resource

    async def connect() -> None:
        connections = ConnectionPool()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with closing(socket.socket()) as highest:  # the lowest number that is free
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), hard))
            try:
                await connections.exchange(message("http://127.0.0.1:1/"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await connections.aclose()

    with pytest.raises(ExchangeFailed) as caught:
        asyncio.run(connect())
    failed = caught.value
    assert (failed.failure_point, failed.reason) == ("connecting", TOO_MANY_FILES)


def test_a_large_body_is_sent_without_a_copy_of_it() -> None:
    body = bytes(range(256)) * 80_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = len(body)
        while left:
            left -= len(await reader.read(1 << 16))
        writer.write(OK)

    tracemalloc.start()
    try:
        assert ask(serve, content=body, timeout=20.0)[1] == b"ok"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(body) / 2


def test_a_large_body_is_sent_in_pieces_while_other_tasks_run() -> None:
    body, received = bytes(range(256)) * 80_000, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = len((await heard(reader)).partition(b"\r\n\r\n")[2])
        writer.write(OK)

    turns = 0

    async def main() -> bytes:
        pool = ConnectionPool()

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with serving(serve) as url:
            counting = asyncio.ensure_future(count())
            answer = await pool.exchange(message(url, content=body, timeout=20.0))
            counting.cancel()
            await pool.aclose()
        return answer.content

    assert asyncio.run(main()) == b"ok"
    assert received == len(body)
    assert turns > len(body) / (1 << 20)


def test_an_answer_before_the_end_of_the_body_is_taken() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(0.3)  # without reading the rest

    answer, body = ask(serve, content=bytes(50 << 20), timeout=10.0)
    assert (answer.status_code, body) == (413, b"big")


def connections_for(
    answers: int, *, pause: float = 0.0, limits: HttpLimits | None = None, at_once: bool = False
) -> int:
    """Returns the number of connections that some requests open."""
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while True:
            await heard(reader)
            if at_once:
                await asyncio.sleep(0.05)
            writer.write(OK)

    async def main() -> None:
        pool = ConnectionPool(limits)
        async with serving(serve) as url:
            if at_once:
                await asyncio.gather(
                    *(pool.exchange(message(url, timeout=5.0)) for _ in range(answers))
                )
            else:
                for _ in range(answers):
                    await pool.exchange(message(url))
                    await asyncio.sleep(pause)
            await pool.aclose()

    asyncio.run(main())
    return opened


def test_a_connection_is_used_again() -> None:
    assert connections_for(5) == 1


def test_a_connection_is_not_used_again_after_it_was_idle_for_long() -> None:
    assert connections_for(3, pause=0.3, limits=HttpLimits(keepalive=0.1)) == 3


@pytest.mark.parametrize(("most", "opened"), [(None, 12), (1, 1), (3, 3)])
def test_the_number_of_connections_has_a_limit(most: int | None, opened: int) -> None:
    limits = HttpLimits(max_connections=most)
    assert connections_for(12, limits=limits, at_once=True) == opened


def test_a_wait_for_a_connection_ends() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> list[object]:
        pool = ConnectionPool(HttpLimits(max_connections=1))
        async with serving(serve) as url:
            outcomes = await asyncio.gather(
                pool.exchange(message(url, timeout=1.0)),
                pool.exchange(message(url, timeout=0.2)),
                return_exceptions=True,
            )
            await pool.aclose()
        return list(outcomes)

    points = [
        (outcome.failure_point, outcome.late)
        for outcome in asyncio.run(main())
        if isinstance(outcome, ExchangeFailed)
    ]
    assert points == [("unanswered", True), ("connecting", True)]


def test_a_cancelled_exchange_closes_its_connection_and_frees_its_place() -> None:
    closed = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        await heard(reader)
        if closed:
            writer.write(OK)
        await reader.read()
        closed += 1

    async def main() -> bytes:
        pool = ConnectionPool(HttpLimits(max_connections=1))
        async with serving(serve) as url:
            first = asyncio.ensure_future(pool.exchange(message(url, timeout=5.0)))
            await asyncio.sleep(0.1)
            first.cancel()
            await asyncio.wait([first])
            await asyncio.sleep(0.1)
            answer = await pool.exchange(message(url, timeout=5.0))
            await pool.aclose()
        return answer.content

    assert asyncio.run(main()) == b"ok"
    assert closed == 2


def test_a_connection_on_which_the_server_speaks_unasked_is_not_used_again() -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await heard(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 3\r\n\r\nbye")
        await reader.read()

    async def main() -> None:
        pool = ConnectionPool()
        async with serving(serve) as url:
            assert (await pool.exchange(message(url))).status_code == 200
            await asyncio.sleep(0.15)
            with pytest.raises(ExchangeFailed, match="unasked") as caught:
                await pool.exchange(message(url))
            assert caught.value.failure_point == "unsent"
            assert (await pool.exchange(message(url))).status_code == 200
            await pool.aclose()

    asyncio.run(main())
    assert opened == 2


def test_a_header_cannot_hold_another_one() -> None:
    with pytest.raises(ValueError, match="header injection"):
        ask(writing(OK), headers={"X-Name": "value\r\nX-Other: value"})


def test_a_slow_reader_of_a_large_body_holds_the_server_back() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(64):
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1

    async def main() -> tuple[int, int]:
        pool = ConnectionPool()
        async with serving(serve) as url:
            answer = await pool.exchange(message(url, streamed=True, timeout=10.0))
            await asyncio.sleep(0.5)
            before = sent
            size = len(await whole(answer))
            await pool.aclose()
        return before, size

    before, size = asyncio.run(main())
    assert before < 32
    assert size == 64 << 20


def test_a_message_to_a_closed_pool_is_not_sent_and_says_so() -> None:
    async def run() -> None:
        async with serving(writing(OK)) as url:
            pool = ConnectionPool(HttpLimits())
            await whole(await pool.exchange(message(url)))
            await pool.aclose()
            with pytest.raises(ClientClosedError, match="closed meanwhile"):
                await pool.exchange(message(url))

    asyncio.run(run())
