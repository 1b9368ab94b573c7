"""Samples as they come, through both facades."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.scripted_client import scripted_sampler
from tinkex import (
    APIConnectionError,
    AsyncSamplingClient,
    Config,
    InvalidInputError,
    RequestFailedError,
    SamplePiece,
    SamplingClient,
)
from tinkex.dialects.table import DIALECTS
from tinkex.errors import UnreadableAnswerError
from tinkex.local import Server
from tinkex.portal import portal
from tinkex.session.session import Session
from tinkex.transport.transport import Transport


def take(sampler: Any, *what: Any, count: int | None = None) -> list[SamplePiece]:
    """The first `count` pieces, in the manner of the facade."""
    if isinstance(sampler, SamplingClient):
        with closing(sampler.sample_stream(*what)) as pieces:  # type: ignore[type-var]
            return [piece for _, piece in zip(range(count or 10**6), pieces, strict=False)]
    return portal.shared().run(_taken, sampler.client, what, count)


async def _taken(sampler: Any, what: tuple[Any, ...], count: int | None) -> list[SamplePiece]:
    seen: list[SamplePiece] = []
    async with aclosing(sampler.sample_stream(*what)) as pieces:
        async for piece in pieces:
            seen.append(piece)
            if len(seen) == count:
                break
    return seen


@pytest.fixture
def sampler(service: Any) -> Any:
    return service.create_sampling_client(base_model="fake/base")


def test_the_pieces_are_what_sample_gives_for_the_same_seed(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    sampler = connect(torch_server.base_url).create_sampling_client(base_model="tinkex/tiny")
    params = {"max_tokens": 12, "seed": 3, "stop": []}
    pieces = take(sampler, "The ", params)
    sequence = sampler.sample("The ", 1, params).result().sequences[0]
    assert [piece.tokens for piece in pieces] == [*([token] for token in sequence.tokens), []]
    assert [logprob for piece in pieces for logprob in piece.logprobs or ()] == pytest.approx(
        sequence.logprobs, abs=1e-6
    )
    last = pieces[-1].sequence
    assert last is not None
    assert (last.tokens, last.stop_reason) == (sequence.tokens, sequence.stop_reason)
    assert all(piece.sequence is None for piece in pieces[:-1])


def test_leaving_early_stops_the_server(sampler: Any, server_engine: RecordingEngine) -> None:
    pieces = take(sampler, [95], {"max_tokens": 3}, count=4)
    assert [piece.tokens for piece in pieces] == [[95], [1], [1], [1]]
    assert server_engine.waiting.acquire(timeout=5), "the engine was told to stop"


def test_a_stream_that_fails_says_whose_fault_it_is(sampler: Any) -> None:
    with pytest.raises(RequestFailedError, match="99 is not a token") as caught:
        take(sampler, [99])
    assert caught.value.fault == "user"


def test_bad_input_is_refused_at_the_call(sampler: Any, server_engine: RecordingEngine) -> None:
    before = len(server_engine.calls)
    for what in ([[]], [[1], {"temprature": 1}], [""]):
        with pytest.raises(InvalidInputError):
            take(sampler, *what)
    assert len(server_engine.calls) == before


@pytest.mark.rule(1)
def test_a_server_that_does_not_stream_gives_one_piece(
    connect: Callable[..., Any], server: Server
) -> None:
    sampler = connect(
        server.base_url, config=Config(dialect="hosted", api_key="tml-test")
    ).create_sampling_client(base_model="fake/base")
    [piece] = take(sampler, [5, 6], {"max_tokens": 2})
    assert piece.tokens == [6, 1]
    assert piece.sequence is not None
    assert piece.sequence.stop_reason == "stop"


def test_a_broken_stream_is_an_error_and_a_missing_route_is_learned() -> None:
    """Faults that the embedded server does not have."""

    async def run() -> None:
        body = b'data: {"tokens": [5], "logprobs": [-1.0]}\n\n: waiting\n\n'
        sampler, script = scripted_sampler({"asample_stream": [(200, body)]}, DIALECTS["tinkex"])
        pieces = sampler.sample_stream([1])
        assert (await anext(pieces)).tokens == [5]
        with pytest.raises(APIConnectionError, match="ended before"):
            await anext(pieces)

        sampler, script = scripted_sampler(
            {
                "asample_stream": [(404, b"{}")],
                "asample": [(200, b'{"request_id": "1"}')] * 2,
                "retrieve_future": [
                    (200, b'{"sequences": [{"tokens": [7], "stop_reason": "length"}]}')
                ]
                * 2,
            },
            DIALECTS["tinkex"],
        )
        for _ in range(2):
            assert [piece.tokens async for piece in sampler.sample_stream([1])] == [[7]]
        assert script.calls.count("asample_stream") == 1

    asyncio.run(run())


def test_a_line_that_is_no_text_is_an_error_and_nothing_is_made_of_it() -> None:
    async def run() -> None:
        stream = (
            b'data: {"tokens": [1], "logprobs": [-1.0]}\n\ndata: {"tokens": [2], "stop_reason": '
            b'"st\xffp"}\n\n'
        )
        sampler, _ = scripted_sampler({"asample_stream": [(200, stream)]}, DIALECTS["tinkex"])
        pieces = sampler.sample_stream([1])
        assert (await anext(pieces)).tokens == [1]
        with pytest.raises(UnreadableAnswerError, match="not UTF-8"):
            await anext(pieces)

    asyncio.run(run())


def test_a_connection_that_breaks_is_an_error() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        event = b'data: {"tokens": [5], "logprobs": [-1.0]}\n\n'
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "
            b"chunked\r\n\r\n"
        )
        writer.write(head + b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = Transport(
            Config(base_url=f"http://127.0.0.1:{port}", api_key="tml-x", dialect="tinkex")
        )
        async with server:
            pieces = AsyncSamplingClient(
                Session(transport, "S1"), "S1:sample:0", base_model="base"
            ).sample_stream([1])
            assert (await anext(pieces)).tokens == [5]
            with pytest.raises(APIConnectionError, match="closed the connection"):
                await anext(pieces)
            await transport.aclose()

    asyncio.run(run())
