"""No answer is larger than the bound of its call, and one whose bytes cannot be read is an error by
name; over real sockets.
"""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.answering_server import Answer, answering
from tinkex import (
    AnswerTooLargeError,
    APITimeoutError,
    AsyncRestClient,
    AsyncSamplingClient,
    CheckpointDownloadError,
    Config,
    Dialect,
    HttpLimits,
    InternalServerError,
    NotFoundError,
    PollSettings,
    RetrySettings,
    UnreadableAnswerError,
    WaitTimeoutError,
)
from tinkex.session.session import Session
from tinkex.transport import response_body
from tinkex.transport.transport import Transport
from tinkex.wire.zstd_library import zstd

GOOD = (
    b'{"training_run_id": "r", "base_model": "m", "model_owner": "o", "is_lora": true, '
    b'"corrupted": false, '
)
GOOD += b'"last_request_time": "2026-01-01T00:00:00Z"}'
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}
SMALL = 1 << 20
QUICK = RetrySettings(max_attempts=1)
ENOUGH = 15.0  # seconds that a busy machine needs for what is bounded by its size, not by time


def of(body: bytes, encoding: str, status: int = 200) -> Answer:
    return Answer(status, body, {"Content-Type": "application/json", "Content-Encoding": encoding})


def run_of(connect_rest: Callable[..., Any], answer: Answer, **settings: Any) -> Any:
    with answering(lambda call: answer) as server:
        given = {"retry": QUICK, "dialect": Dialect(), **settings}
        return connect_rest(server.base_url, **given).get_training_run("r")


@pytest.mark.parametrize("encoding", ENCODE)
def test_an_encoded_answer_is_read(connect_rest: Callable[..., Any], encoding: str) -> None:
    assert run_of(connect_rest, of(ENCODE[encoding](GOOD), encoding)).base_model == "m"


def test_deflate_without_its_header_is_read(connect_rest: Callable[..., Any]) -> None:
    assert run_of(connect_rest, of(zlib.compress(GOOD)[2:-4], "deflate")).base_model == "m"


@pytest.mark.parametrize("encoding", ENCODE)
def test_an_answer_that_expands_beyond_its_bound_is_refused(
    connect_rest: Callable[..., Any], encoding: str
) -> None:
    bomb = ENCODE[encoding](b" " * (3 * SMALL) + GOOD)
    assert len(bomb) < SMALL // 10
    with pytest.raises(AnswerTooLargeError, match="1,048,576 bytes") as caught:
        run_of(connect_rest, of(bomb, encoding), http_limits=HttpLimits(max_answer_bytes=SMALL))
    assert (caught.value.operation, caught.value.fault, caught.value.retryable) == (
        "get_training_run",
        "server",
        False,
    )
    assert caught.value.bound == SMALL
    assert "max_answer_bytes" in str(caught.value)


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_is_sent_without_end_is_left(chunked: bool) -> None:
    """It says no length, or one that nobody would believe."""
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 99999999999"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + how + b"\r\n\r\n")
        piece = b" " * (1 << 16)
        while not writer.is_closing():
            writer.write(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
            sent += len(piece)
            try:
                await writer.drain()
            except ConnectionError:
                break

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        config = Config(base_url=f"http://127.0.0.1:{port}", retry=QUICK, dialect=Dialect())
        async with server, AsyncRestClient(config) as rest:
            with pytest.raises(AnswerTooLargeError):
                await rest.get_training_run("r")

    asyncio.run(run())
    assert sent < response_body.ANSWER_BYTES + (32 << 20)


@pytest.mark.parametrize("encoding", ENCODE)
@pytest.mark.parametrize("damage", ["false", "cut", "goes on"])
def test_an_answer_that_is_not_in_its_encoding_is_an_error_by_name(
    connect_rest: Callable[..., Any], encoding: str, damage: str
) -> None:
    good = ENCODE[encoding](GOOD)
    body = {"false": b"\x00not at all" * 5, "cut": good[:-9], "goes on": good + b"more"}[damage]
    with pytest.raises(UnreadableAnswerError, match=encoding) as caught:
        run_of(connect_rest, of(body, encoding))
    assert caught.value.operation == "get_training_run"
    assert caught.value.retryable


def test_an_encoding_that_the_client_did_not_accept_is_an_error(
    connect_rest: Callable[..., Any],
) -> None:
    with pytest.raises(UnreadableAnswerError, match="'br', which the client did not accept"):
        run_of(connect_rest, of(GOOD, "br"))


def test_a_transport_of_the_users_own_that_cannot_read_an_answer() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b"no gzip")

    async def run() -> None:
        config = Config(
            base_url="http://server",
            dialect=Dialect(),
            retry=QUICK,
            http_transport=httpx.MockTransport(answer),
        )
        async with AsyncRestClient(config) as rest:
            with pytest.raises(UnreadableAnswerError):
                await rest.get_training_run("r")

    asyncio.run(run())


@pytest.mark.parametrize(
    "make",
    [lambda: b"no gzip", lambda: gzip.compress(b'{"detail": "' + b"x" * (80 << 20) + b'"}')],
    ids=["false", "bomb"],
)
def test_the_status_of_a_refusal_counts_whatever_its_body_is(
    connect_rest: Callable[..., Any], make: Callable[[], bytes]
) -> None:
    body = make()
    with pytest.raises(NotFoundError) as caught:
        run_of(connect_rest, of(body, "gzip", 404))
    assert len(str(caught.value)) < 10_000
    with pytest.raises(InternalServerError):
        run_of(connect_rest, of(body, "gzip", 500))


def test_the_message_of_a_refusal_is_of_bounded_length(connect_rest: Callable[..., Any]) -> None:
    with pytest.raises(NotFoundError) as caught:
        run_of(connect_rest, Answer(404, b'{"detail": "' + b"x" * 900_000 + b'"}'))
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize("encoding", ENCODE)
def test_decompression_does_not_block_the_event_loop(encoding: str) -> None:
    bomb = ENCODE[encoding](bytes(200 << 20))
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()  # what other processes take does not count
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    async def run() -> int:
        ticking = asyncio.ensure_future(tick())
        size = 0
        async for piece in response_body.decompress(bomb, encoding):
            size += len(piece)
        ticking.cancel()
        return size

    assert asyncio.run(run()) == 200 << 20
    assert longest < 0.1


@given(st.binary(max_size=200_000), st.sampled_from(sorted(ENCODE)), st.integers(1, 40))
def test_decoding_restores_what_was_encoded(data: bytes, encoding: str, times: int) -> None:
    data *= times

    async def run() -> bytes:
        return b"".join(
            [piece async for piece in response_body.decompress(ENCODE[encoding](data), encoding)]
        )

    assert asyncio.run(run()) == data


def test_results_may_be_larger_than_other_answers() -> None:
    most = HttpLimits().max_answer_bytes
    assert (
        response_body.bound_of("retrieve_future", most).bytes
        == most
        > response_body.bound_of("get_training_run", most).bytes
    )
    assert response_body.bound_of("get_training_run", 5).bytes == 5


def test_a_large_valid_answer_is_read_completely(connect_rest: Callable[..., Any]) -> None:
    padded = GOOD[:-1] + b', "unknown": "' + b"x" * (12 << 20) + b'"}'
    assert (
        run_of(connect_rest, Answer(200, padded, {"Content-Type": "application/json"})).base_model
        == "m"
    )


async def to_endless(kind: str, piece: bytes, pause: float, use: Callable[[str], Any]) -> None:
    """Runs `use` with the URL of a server whose answers go on with `piece` for ever."""

    over, handlers = asyncio.Event(), set[Any]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: "
            + kind.encode()
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while not (writer.is_closing() or over.is_set()):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(pause)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        await use(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        over.set()
        await asyncio.wait(handlers)


@pytest.mark.parametrize(
    ("piece", "pause", "max_wait", "error"),
    [
        (b"\n", 0.05, 0.5, WaitTimeoutError),
        (b": waiting\n", 0.05, 0.5, WaitTimeoutError),
        (b"a" * (1 << 20), 0.0, ENOUGH, AnswerTooLargeError),
        (b"data: [half\n", 0.05, ENOUGH, UnreadableAnswerError),
    ],
    ids=["drips", "comments", "a line without end", "not of the contract"],
)
def test_a_stream_is_bounded_as_a_whole(
    piece: bytes, pause: float, max_wait: float, error: type[Exception]
) -> None:
    async def use(url: str) -> None:
        transport = Transport(
            Config(
                base_url=url, dialect="tinkex", retry=QUICK, poll=PollSettings(max_wait=max_wait)
            )
        )
        sampler = AsyncSamplingClient(Session(transport, "S1"), "S1:sample:0", base_model="base")
        with pytest.raises(error):
            await anext(sampler.sample_stream([1]))
        await transport.aclose()

    asyncio.run(to_endless("text/event-stream", piece, pause, use))


@pytest.mark.parametrize(
    ("piece", "pause", "settings", "error"),
    [
        (b"\0", 0.05, {"timeout": 0.3}, APITimeoutError),
        (b"\0", 0.05, {"http_limits": HttpLimits(max_download_seconds=0.5)}, WaitTimeoutError),
        (
            b"\0" * (1 << 20),
            0.0,
            {"http_limits": HttpLimits(max_download_bytes=8 << 20)},
            CheckpointDownloadError,
        ),
    ],
    ids=["drips", "takes too long", "has no end"],
)
def test_a_download_is_bounded_as_a_whole(
    tmp_path: Path, piece: bytes, pause: float, settings: dict[str, Any], error: type[Exception]
) -> None:
    retry = RetrySettings(max_attempts=2, base_delay=0.0)

    async def use(url: str) -> None:
        async with AsyncRestClient(
            Config(base_url=url, dialect=Dialect(), retry=retry, **settings)
        ) as rest:
            with pytest.raises(error):
                await rest.download_checkpoint("tinker://a/weights/b", output_dir=tmp_path)

    asyncio.run(to_endless("application/x-tar", piece, pause, use))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [3 << 20, 9 << 20])
def test_a_body_of_many_pieces_is_read_whole_below_its_bound(size: int):
    whole = bytes(range(256)) * (size >> 8)
    bound = response_body.SizeBound(size, "")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 100_000):
            yield whole[start : start + 100_000]

    assert asyncio.run(response_body.read_all(pieces(), bound)) == whole
    with pytest.raises(AnswerTooLargeError):
        asyncio.run(response_body.read_all(pieces(), response_body.SizeBound(size - 1, "")))
