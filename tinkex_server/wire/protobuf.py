"""Converts protobuf bodies to the fields of JSON ones, and fields of results to protobuf, so that
the rest of the server knows only one form.

The messages are those of openapi/tinker.proto.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import orjson
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tinkex_proto import tinker_pb2 as pb

from tinkex_server.errors import Location, Refused, bad_request, malformed
from tinkex_server.wire.bodies import MAX_CONTAINERS, too_many
from tinkex_server.wire.message_size import VALUES_PER_MESSAGE, count_values

MEDIA_TYPE = "application/x-protobuf"

_MAX_VALUES = VALUES_PER_MESSAGE * MAX_CONTAINERS
_EMPTY_CELL = (0, -99999.0)  # of a top-k table
_DTYPES: dict[int, str] = {pb.DTYPE_FLOAT32: "float32", pb.DTYPE_INT64: "int64"}  # of requests


def read_forward_backward(raw: bytes) -> dict[str, Any]:
    """Returns the fields that the JSON body would have, with arrays in place of long lists, and
    `forward_only`. Raises `Refused` for bytes that are not such a message.
    """
    message = pb.ForwardBackwardRequest()
    if count_values(raw, message.DESCRIPTOR, _MAX_VALUES) > _MAX_VALUES:
        raise too_many(f"more than {MAX_CONTAINERS} objects, or {_MAX_VALUES} values")
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise bad_request(f"the body is not a ForwardBackwardRequest: {error}") from error
    named = {
        "model_id": message.model_id,
        "seq_id": message.seq_id,
        "forward_only": message.forward_only,
    }
    try:
        return {**named, "forward_backward_input": _batch(message)}
    except Refused as refusal:
        refusal.fields = named
        raise


def _batch(message: pb.ForwardBackwardRequest) -> dict[str, Any]:
    config = {
        name: getattr(value, value.WhichOneof("value") or "number")
        for name, value in message.loss_fn_config_v2.items()
    }
    return {
        "data": [_datum(index, datum) for index, datum in enumerate(message.data)],
        "loss_fn": message.loss_fn,
        "loss_fn_config": config or dict(message.loss_fn_config),
    }


def _datum(index: int, datum: pb.Datum) -> dict[str, Any]:
    inputs = {name: _tensor((index, name), tensor) for name, tensor in datum.loss_fn_inputs.items()}
    return {
        "model_input": {"chunks": [_chunk(chunk) for chunk in datum.model_input]},
        "loss_fn_inputs": inputs,
    }


def _chunk(chunk: pb.Chunk) -> dict[str, Any]:
    match chunk.WhichOneof("chunk"):
        case "encoded_text":
            tokens = _array(("model_input", "chunks"), chunk.encoded_text.tokens, np.dtype("<i4"))
            return {"type": "encoded_text", "tokens": tokens}
        case "image":
            image = chunk.image
            expected = image.expected_tokens if image.HasField("expected_tokens") else None
            return {
                "type": "image",
                "data": b64encode(image.data).decode(),
                "format": image.format,
                "expected_tokens": expected,
            }
        case "dmel":
            return {"type": "dmel", "dmel": b64encode(chunk.dmel.dmel).decode()}
        case other:
            return {"type": other or "nothing"}


def _tensor(at: Location, tensor: pb.Tensor) -> dict[str, Any]:
    encoding = tensor.WhichOneof("encoding")
    if tensor.dtype not in _DTYPES or encoding is None:
        raise malformed("data", *at, message="must be an array of float32 or int64")
    dtype = _DTYPES[tensor.dtype]
    layout = np.dtype(dtype).newbyteorder("<")
    if encoding == "dense":
        return {
            "data": _array(at, tensor.dense, layout),
            "dtype": dtype,
            "shape": list(tensor.shape),
        }
    return {
        "data": _array(at, tensor.sparse_csr.values, layout),
        "dtype": dtype,
        "shape": list(tensor.shape),
        "sparse_crow_indices": _array(at, tensor.sparse_csr.crow_indices, np.dtype("<i8")),
        "sparse_col_indices": _array(at, tensor.sparse_csr.col_indices, np.dtype("<i8")),
    }


def _array(at: Location, raw: bytes, layout: np.dtype[Any]) -> NDArray[Any]:
    """Returns a view of the bytes as numbers."""
    if len(raw) % layout.itemsize:
        raise malformed(
            "data",
            *at,
            message=f"has {len(raw)} bytes, which is not a multiple of {layout.itemsize}",
        )
    return np.frombuffer(raw, layout)


LOSSES = frozenset({"forward", "forward_backward"})
"""The kinds of requests whose results are stored as messages. All others are stored as JSON."""


def result_fields(kind: str, kept: bytes) -> dict[str, Any]:
    """Returns the fields of a stored result, with arrays in place of the long lists of losses."""
    return (
        _loss_fields(pb.ForwardBackwardOutput.FromString(kept))
        if kind in LOSSES
        else orjson.loads(kept)
    )


def write_result(kind: str, fields: Mapping[str, Any]) -> bytes | None:
    """Returns the result of a request as a message, or None if its kind has no message."""
    write = _WRITERS.get(kind)
    return write(fields).SerializeToString() if write else None


def write_loss(fields: Mapping[str, Any]) -> bytes:
    return _loss(fields).SerializeToString()


def _loss_fields(message: pb.ForwardBackwardOutput) -> dict[str, Any]:
    return {
        "loss_fn_output_type": message.loss_fn_output_type,
        "loss_fn_outputs": [
            output for record in message.loss_fn_outputs for output in _outputs(record)
        ],
        "metrics": dict(message.metrics),
    }


def _outputs(record: pb.ArrayRecord) -> list[dict[str, Any]]:
    columns = {name: _rows(column) for name, column in record.fields.items()}
    return [
        {name: rows[index] for name, rows in columns.items()} for index in range(record.num_datums)
    ]


def _rows(column: pb.BatchedTensor) -> list[dict[str, Any]]:
    values, offsets = np.frombuffer(column.data, "<f4"), np.frombuffer(column.offsets, "<i8")
    row_shape = list(column.trailing_shape)
    parts = np.split(values, offsets[1:-1] // values.itemsize)
    return [
        {"data": part, "dtype": "float32", "shape": [part.size // math.prod(row_shape), *row_shape]}
        for part in parts
    ]


def _loss(fields: Mapping[str, Any]) -> pb.ForwardBackwardOutput:
    outputs: Sequence[Mapping[str, Any]] = fields["loss_fn_outputs"]
    return pb.ForwardBackwardOutput(
        loss_fn_output_type=fields.get("loss_fn_output_type") or "",
        loss_fn_outputs=[_record(list(alike)) for _, alike in groupby(outputs, _row_shapes)],
        metrics={
            name: float("nan") if value is None else value
            for name, value in fields["metrics"].items()
        },
    )


def _row_shapes(output: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
    """Returns the shape of one row of each array. A record holds arrays of the same shapes."""
    return {name: tensor["shape"][1:] for name, tensor in output.items()}


def _record(outputs: Sequence[Mapping[str, Any]]) -> pb.ArrayRecord:
    record = pb.ArrayRecord(num_datums=len(outputs))
    for name, row_shape in _row_shapes(outputs[0]).items():
        parts = [_floats(output[name]["data"]) for output in outputs]
        record.fields[name].CopyFrom(
            pb.BatchedTensor(
                data=b"".join(parts),
                offsets=np.cumsum([0, *map(len, parts)]).astype("<i8").tobytes(),
                dtype=pb.DTYPE_FLOAT32,
                trailing_shape=row_shape,
            )
        )
    return record


def _sample(result: Mapping[str, Any]) -> pb.SampleResponse:
    message = pb.SampleResponse(prompt_cache_hit_tokens=result.get("prompt_cache_hit_tokens") or 0)
    for sequence in result["sequences"]:
        written = message.sequences.add(
            stop_reason=pb.STOP_REASON_LENGTH
            if sequence["stop_reason"] == "length"
            else pb.STOP_REASON_STOP,
            tokens=np.array(sequence["tokens"], "<i4").tobytes(),
            logprobs=_floats(sequence["logprobs"]),
        )
        if rows := sequence.get("topk_sampled_logprobs"):
            written.topk_sampled_logprobs.CopyFrom(_table(rows))
    if logprobs := result.get("prompt_logprobs"):
        message.prompt_logprobs = _floats(logprobs)
    if rows := result.get("topk_prompt_logprobs"):
        message.topk_prompt_logprobs.CopyFrom(_table(rows))
    if targets := result.get("target_prompt_logprobs"):
        message.target_prompt_logprobs.CopyFrom(_written(targets))
    if drawn := result.get("prompt_alt_tokens"):
        message.prompt_alt_tokens.tokens.CopyFrom(_written(drawn["tokens"]))
        message.prompt_alt_tokens.logprobs.CopyFrom(_written(drawn["logprobs"]))
    return message


def _written(tensor: Mapping[str, Any]) -> pb.Tensor:
    integers = tensor["dtype"] == "int64"
    raw = np.array(tensor["data"], "<i8" if integers else "<f4").tobytes()
    message = pb.Tensor(
        dtype=pb.DTYPE_INT64 if integers else pb.DTYPE_FLOAT32, shape=tensor["shape"]
    )
    if tensor.get("sparse_crow_indices") is None:
        message.dense = raw
        return message
    message.sparse_csr.values = raw
    message.sparse_csr.crow_indices = np.array(tensor["sparse_crow_indices"], "<i8").tobytes()
    message.sparse_csr.col_indices = np.array(tensor["sparse_col_indices"], "<i8").tobytes()
    return message


def _table(rows: Sequence[Sequence[Sequence[float]] | None]) -> pb.TopkLogprobs:
    width = max(1, *(len(row or ()) for row in rows))
    cells = np.array(
        [[*(row or ()), *[_EMPTY_CELL] * (width - len(row or ()))] for row in rows], np.float64
    )
    return pb.TopkLogprobs(
        token_ids=cells[..., 0].astype("<i4").tobytes(),
        logprobs=cells[..., 1].astype("<f4").tobytes(),
        k=width,
        length=len(rows),
    )


def _floats(values: Sequence[float | None] | NDArray[np.float32]) -> bytes:
    # None stands for NaN, and becomes it
    return np.asarray(values, dtype="<f4").tobytes()


_WRITERS: Mapping[
    str, Callable[[Mapping[str, Any]], pb.ForwardBackwardOutput | pb.SampleResponse]
] = {
    "forward": _loss,
    "forward_backward": _loss,
    "sample": _sample,
}
