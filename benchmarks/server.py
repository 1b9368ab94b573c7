"""A server that answers at once with answers made beforehand, so that nothing but the client is
measured.

`python -m benchmarks.server` prints its URL and runs until its standard input is closed. Below
/json it takes training batches as JSON and answers all in JSON; below /protobuf it refuses JSON
ones, as the hosted service does; below /large its results are those of a larger batch, and below
/slow a sample takes a while.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import orjson
from tinkex_proto import tinker_pb2 as pb

from benchmarks.workload import (
    DATUMS,
    LARGE_DATUMS,
    LARGE_TOKENS,
    SAMPLE_SECONDS,
    SAMPLED_TOKENS,
    TRAINED_TOKENS,
)

_JSON, _PROTOBUF = "application/json", "application/x-protobuf"
_WHOLE_BATCH = 1 << 30  # bytes: a batch goes in one request, the largest that is measured


def _answer(status: str, content_type: str, body: bytes) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: "
        f"{len(body)}\r\n\r\n".encode()
        + body
    )


def _json(fields: object, status: str = "200 OK") -> bytes:
    return _answer(status, _JSON, orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY))


_TOKENS = np.arange(SAMPLED_TOKENS)


def _protobuf_sample() -> bytes:
    tokens, logprobs = _TOKENS.astype("<i4"), np.full(SAMPLED_TOKENS, -0.5, "<f4")
    sequence = pb.SampledSequence(
        stop_reason=pb.STOP_REASON_LENGTH, tokens=tokens.tobytes(), logprobs=logprobs.tobytes()
    )
    return pb.SampleResponse(sequences=[sequence]).SerializeToString()


def _json_sample() -> dict[str, object]:
    sequence = {
        "stop_reason": "length",
        "tokens": _TOKENS,
        "logprobs": np.full(SAMPLED_TOKENS, -0.5, "<f4"),
    }
    return {"sequences": [sequence], "type": "sample"}


def _protobuf_batch(logprobs: np.ndarray) -> bytes:
    datums, tokens = logprobs.shape
    record = pb.ArrayRecord(type_tag="ArrayRecord", num_datums=datums)
    column = record.fields["logprobs"]
    column.data = logprobs.astype("<f4").tobytes()
    column.offsets = (np.arange(datums + 1, dtype="<i8") * 4 * tokens).tobytes()
    column.dtype = pb.DTYPE_FLOAT32
    return pb.ForwardBackwardOutput(
        loss_fn_outputs=[record], metrics={"loss:sum": 1.0}
    ).SerializeToString()


def _json_batch(logprobs: np.ndarray) -> dict[str, object]:
    outputs = [
        {"logprobs": {"data": row, "dtype": "float32", "shape": [TRAINED_TOKENS]}}
        for row in logprobs
    ]
    return {
        "loss_fn_output_type": "ArrayRecord",
        "loss_fn_outputs": outputs,
        "metrics": {"loss:sum": 1.0},
    }


def _large_batch() -> bytes:
    logprobs = np.full((LARGE_DATUMS, LARGE_TOKENS), -0.5, np.float32)
    return _answer("200 OK", _PROTOBUF, _protobuf_batch(logprobs))


_LOGPROBS = np.random.default_rng(0).normal(-1.0, 0.3, (DATUMS, TRAINED_TOKENS)).astype(np.float32)
RESULTS = {
    "create_model": _json({"model_id": "session:train:0"}),
    "asample": _answer("200 OK", _PROTOBUF, _protobuf_sample()),
    "asample of JSON": _json(_json_sample()),
    "forward_backward": _answer("200 OK", _PROTOBUF, _protobuf_batch(_LOGPROBS)),
    "forward_backward of JSON": _json(_json_batch(_LOGPROBS)),
    "forward_backward, large": b"",  # made when it is asked for
    "optim_step": _json({"metrics": {}}),
}
_ANSWERS = {
    "client/config": _json({"fwdbwd_max_chunk_bytes_count": _WHOLE_BATCH}),
    "client/dynamic_config": _json({}),
    "create_session": _json({"session_id": "session"}),
    "create_sampling_session": _json({"sampling_session_id": "session:sample:0"}),
    "get_info": _json({"model_id": "session:train:0", "model_data": {"model_name": "tinkex/tiny"}}),
    "telemetry": _json({"status": "accepted"}),
    **{name: _json({"request_id": name, "sample_sequence_ids": ["sequence"]}) for name in RESULTS},
}
_EMPTY = _json({})
_REFUSED = _json({"detail": "send protobuf"}, "415 Unsupported Media Type")


def answer(path: str, content_type: str, body: bytes) -> bytes:
    """Returns the whole HTTP answer to a POST."""
    prefix, _, call = path.partition("/api/v1/")
    if call == "retrieve_future":
        return _result(orjson.loads(body)["request_id"])
    if call == "forward_backward" and prefix == "/large":
        return _ANSWERS["forward_backward, large"]
    if call == "forward_backward" and content_type != _PROTOBUF:
        return _REFUSED if prefix != "/json" else _ANSWERS["forward_backward of JSON"]
    if call == "asample" and prefix == "/json":
        return _ANSWERS["asample of JSON"]
    return _ANSWERS.get(call, _EMPTY)


def _result(request_id: str) -> bytes:
    if request_id == "forward_backward, large" and not RESULTS[request_id]:
        RESULTS[request_id] = _large_batch()
    return RESULTS[request_id]


def seconds_of(path: str, body: bytes) -> float:
    """Returns how long the server takes over an answer."""
    is_slow = path.startswith("/slow/") and path.endswith("/retrieve_future")
    return SAMPLE_SECONDS if is_slow and b"asample" in body else 0.0


class _Connection(asyncio.Protocol):
    """The part of HTTP/1.1 that both clients speak: bodies with a length, one request after
    another.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()
        self._needed = 0  # bytes until it is worth looking again

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (
            len(self._received) >= self._needed and (end := self._received.find(b"\r\n\r\n")) >= 0
        ):
            first, *lines = self._received[:end].decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            self._needed = end + 4 + int(headers.get("content-length", 0))
            if len(self._received) < self._needed:
                return
            body = bytes(self._received[end + 4 : self._needed])
            del self._received[: self._needed]
            self._needed = 0
            path = first.split(" ")[1]
            answered = answer(path, headers.get("content-type", ""), body)
            if seconds := seconds_of(path, body):
                asyncio.get_running_loop().call_later(seconds, self._transport.write, answered)
            else:
                self._transport.write(answered)


async def serve() -> None:
    """Waits until standard input is closed: the parent process ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
