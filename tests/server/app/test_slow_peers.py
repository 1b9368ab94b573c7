"""Slow peers cannot hold connections, and secrets in URLs are not logged. The tests use sockets."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tinkex_proto import tinker_pb2 as pb

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api
from tinkex.local import Server, serve
from tinkex_server.access import tokens
from tinkex_server.access.signed_urls import Signer
from tinkex_server.app import slow_peers, uvicorn_server
from tinkex_server.wire.message_size import count_values
from tinkex_server.wire.protobuf import read_forward_backward

HEAD = f"POST {API}/create_session HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
HALF_A_BODY = HEAD + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    with serve(engine=RecordingEngine(), api_key="tml-k", access_log=True) as server:
        yield server


def connect(server: Server) -> socket.socket:
    parts = urlsplit(server.base_url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def answer(peer: socket.socket) -> bytes:
    """Returns everything until the server closes. It fails if the server does not."""
    parts: list[bytes] = []
    try:
        while part := peer.recv(65536):
            parts.append(part)
    except ConnectionResetError:  # it closed while more was on its way to it
        return b"".join(parts)
    return b"".join(parts)


@pytest.mark.parametrize(
    "piece", [b"X-A: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["many", "one without an end"]
)
def test_headers_are_bounded_before_the_key_is_asked_for(keyed: Server, piece: bytes) -> None:
    sent = 0
    with connect(keyed) as peer:
        peer.sendall(HEAD + b"X-Long: ")
        try:
            while sent < 20_000_000:
                peer.sendall(piece)
                sent += len(piece)
        except (ConnectionResetError, BrokenPipeError):
            pass  # which is what is asked for here
    assert sent < 10_000_000, "what the two sockets hold, and no more"


def test_headers_that_are_too_long_are_refused_with_a_reason(keyed: Server) -> None:
    with connect(keyed) as peer:
        peer.sendall(HEAD + b"X-Long: " + b"a" * (65 << 10))
        assert answer(peer).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("length", [b"Content-Length: 2", b"Transfer-Encoding: chunked"])
def test_a_body_after_an_offer_to_upgrade_is_refused_and_not_lost(
    server: Server, length: bytes
) -> None:
    """Java's HTTP client offers HTTP/2 in every request unless it is told not to."""
    offer = b"Host: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    with connect(server) as peer:
        peer.sendall(b"GET /api/v1/healthz HTTP/1.1\r\n" + offer + b"\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 200")
    with connect(server) as peer:
        head = b"POST /api/v1/create_session HTTP/1.1\r\n" + offer + length
        peer.sendall(head + b"\r\n\r\n{}")
        told = answer(peer)
        assert told.startswith(b"HTTP/1.1 400 ")
        assert b"send no Upgrade header with a body" in told


def test_headers_after_a_body_in_chunks_are_bounded(keyed: Server) -> None:
    head = HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = 0
    with connect(keyed) as peer:
        peer.sendall(head + b"2\r\n{}\r\n0\r\n")
        try:
            while sent < 20_000_000:
                peer.sendall(b"X-A: 1\r\n" * 50)
                sent += 400
        except (ConnectionResetError, BrokenPipeError):
            pass  # which is what is asked for here
    assert sent < 10_000_000, "what the two sockets hold, and no more"


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, HALF_A_BODY, b"\r\n"],
    ids=["nothing", "half the headers", "half a body", "a blank line"],
)
def test_a_peer_that_stops_sending_is_disconnected(
    keyed: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(slow_peers, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(slow_peers, "BODY_SECONDS", 0.3)
    began = time.monotonic()
    with connect(keyed) as peer:
        peer.sendall(sent)
        answer(peer)
    assert time.monotonic() - began < 8


def test_a_waiting_poll_has_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_peers, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(slow_peers, "BODY_SECONDS", 0.2)
    with (
        serve(engine=RecordingEngine(), hold=2.5) as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        api = Api(http, RecordingEngine())
        waits = api.step(api.model(), 7)
        began = time.monotonic()
        assert api.send("retrieve_future", request_id=waits["request_id"]).status_code in (200, 408)
        assert time.monotonic() - began > 2


def test_when_files_run_short_idle_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_server, "most_connections", lambda: 10)
    with serve(engine=RecordingEngine()) as server, ExitStack() as opened:
        idle = [opened.enter_context(connect(server)) for _ in range(30)]
        time.sleep(0.5)
        assert httpx.get(f"{server.base_url}{API}/healthz").status_code == 200
        closed = [b"503" in peer.recv(100) for peer in idle[:20]]
        assert all(closed)


def test_no_secret_of_a_url_is_logged(keyed: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "uvicorn.access"):
        httpx.get(f"{keyed.base_url}{API}/sessions?limit=3&signature=5ec2e7&token=hush")
    assert "limit=3&signature=***&token=***" in caplog.text
    assert "5ec2e7" not in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize("expires", ["abc", "", "1" * 5000, "\u0663"])
def test_a_signed_url_without_a_time_is_refused(keyed: Server, expires: str) -> None:
    path = f"{API}/checkpoints"
    signature = Signer(keyed._state.secret)._signature(path, expires)
    told = httpx.get(keyed.base_url + path, params={"expires": expires, "signature": signature})
    assert (told.status_code, "URL" in told.text) == (403, True)


def test_a_token_renews_itself_for_a_day_and_no_longer() -> None:
    now, token = 0.0, tokens.issue(b"s", tokens.Holder("7", 0.0), {}, 0.0)
    while holder := tokens.holder_of(b"s", token, now):
        token = tokens.issue(b"s", holder, {}, now)
        now += 1800
    assert now == 24 * 3600


@pytest.mark.parametrize("piece", [b"{}", b"[]", b'"ab"'])
def test_a_body_of_many_small_objects_is_refused_before_it_is_read(
    keyed: Server, piece: bytes
) -> None:
    body = b'{"tags": [' + b",".join([piece] * 1_200_000) + b"]}"
    headers = {"X-API-Key": "tml-k", "Content-Type": "application/json"}
    told = httpx.post(
        f"{keyed.base_url}{API}/create_session", content=body, headers=headers, timeout=30
    )
    assert (told.status_code, "send less at once" in told.text) == (413, True)


def many_datums() -> bytes:
    return pb.ForwardBackwardRequest(data=[pb.Datum()]).SerializeToString() * 600_000


def a_long_shape() -> bytes:
    tensor = pb.Tensor(shape=[1] * 3_000_000)
    datum = pb.Datum(loss_fn_inputs={"x": tensor})
    return pb.ForwardBackwardRequest(data=[datum]).SerializeToString()


def many_chunks() -> bytes:
    """Chunks of nothing, in datums."""
    return (b"\x1a" + b"\x80\x12" + b"\x0a\x00" * 0x480) * 600


@pytest.mark.parametrize("body", [many_datums, a_long_shape, many_chunks])
def test_a_message_of_many_small_ones_is_refused_before_it_is_read(
    keyed: Server, body: Callable[[], bytes]
) -> None:
    headers = {"X-API-Key": "tml-k", "Content-Type": "application/x-protobuf"}
    told = httpx.post(
        f"{keyed.base_url}{API}/forward_backward", content=body(), headers=headers, timeout=30
    )
    assert (told.status_code, "send less at once" in told.text) == (413, True)


@given(st.binary(max_size=60))
def test_invalid_messages_are_counted_too(raw: bytes) -> None:
    count = count_values(raw, pb.ForwardBackwardRequest.DESCRIPTOR, 1000)
    try:
        pb.ForwardBackwardRequest.FromString(raw)
    except DecodeError:
        return
    assert bool(count) == bool(raw)


def test_a_large_batch_of_messages_is_read() -> None:
    """8,192 datums of 64 tokens with four inputs each."""
    tokens_of = pb.Tensor(dtype=pb.DTYPE_INT64, dense=bytes(8 * 64), shape=[64])
    chunk = pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=bytes(4 * 64)))
    datum = pb.Datum(
        model_input=[chunk],
        loss_fn_inputs=dict.fromkeys(
            ["target_tokens", "weights", "logprobs", "advantages"], tokens_of
        ),
    )
    body = pb.ForwardBackwardRequest(
        model_id="m", seq_id=1, data=[datum] * 8192, loss_fn="ppo"
    ).SerializeToString()
    assert len(read_forward_backward(body)["forward_backward_input"]["data"]) == 8192


def test_a_large_batch_is_read(keyed: Server) -> None:
    """1,024 datums of 1,000 tokens: a datum has far fewer objects than tokens."""
    tokens_of = list(range(1000))
    datum = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens_of}]},
        "loss_fn_inputs": {"target_tokens": {"data": tokens_of, "dtype": "int64", "shape": [1000]}},
    }
    with httpx.Client(base_url=keyed.base_url, timeout=60, headers={"X-API-Key": "tml-k"}) as http:
        api = Api(http, RecordingEngine())
        batch = {"data": [datum] * 1024, "loss_fn": "cross_entropy"}
        told = api.send(
            "forward_backward", model_id=api.model(), seq_id=1, forward_backward_input=batch
        )
    assert told.status_code == 200, told.text
