"""Conversions between the users' types and protobuf, where an array is one string of bytes.

openapi/tinker.proto describes the messages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tinkex_api.models import UntypedAPIFuture
from tinkex_proto import tinker_pb2 as pb

from tinkex.errors import InvalidInputError
from tinkex.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    LossFnOutput,
    ModelInputChunk,
    PromptAltTokens,
    PromptProvenanceSpan,
    ProvenanceSpan,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)
from tinkex.wire.sample_results import (
    logprobs_from_first_token,
    sequence_ids,
    topk_from_first_token,
)

_NUMPY: dict[int, np.dtype[Any]] = {
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_BFLOAT16: np.dtype("<u2"),  # numpy lacks bfloat16; these are its bits
}
_STOP_REASONS: dict[int, str] = {pb.STOP_REASON_STOP: "stop", pb.STOP_REASON_LENGTH: "length"}


# ---- requests ----


def encode_forward_backward(
    model_id: str,
    seq_id: int,
    data: Sequence[Datum],
    loss_fn: str,
    config: Mapping[str, float | str] | None,
    *,
    forward_only: bool = False,
) -> bytes:
    """Returns the body of a forward_backward request. Raises `InvalidInputError` for a chunk that
    has no protobuf form.
    """
    message = pb.ForwardBackwardRequest(
        model_id=model_id, seq_id=seq_id, loss_fn=loss_fn, forward_only=forward_only
    )
    for name, value in (config or {}).items():
        if isinstance(value, str):
            message.loss_fn_config_v2[name].text = value
        else:
            message.loss_fn_config_v2[name].number = value
            message.loss_fn_config[name] = value  # repeated for older servers
    # concatenated messages are read as one; between the pieces other threads can run, above all
    # that of the event loop. A buffer that grows in place needs no second copy of a large batch
    body = BytesIO()
    body.write(message.SerializeToString())
    for index, datum in enumerate(data):
        body.write(_encode_datum(index, datum))
    return body.getvalue()


def compress(raw: bytes) -> bytes:
    """Compresses a body with zstd, for servers that require it."""
    from tinkex.wire.zstd_library import zstd  # here, since few servers require it

    return zstd.compress(raw)


def _encode_datum(index: int, datum: Datum) -> bytes:
    """Returns a request with this datum alone."""
    request = pb.ForwardBackwardRequest()
    message = request.data.add(
        model_input=[
            _encode_chunk(index, chunk) for chunk in datum.model_input.with_texts_joined().chunks
        ]
    )
    for name, tensor in datum.loss_fn_inputs.items():
        _encode_tensor(message.loss_fn_inputs[name], tensor)
    message.model_input_spans.extend(map(_encode_span, datum.model_input_spans or ()))
    message.loss_fn_input_spans.extend(map(_encode_span, datum.loss_fn_input_spans or ()))
    return request.SerializeToString()


def _encode_span(span: ProvenanceSpan) -> pb.ProvenanceSpan:
    message = pb.ProvenanceSpan()
    part = (
        message.prompt_tokens if isinstance(span, PromptProvenanceSpan) else message.sampled_tokens
    )
    part.sequence_id, part.offset, part.length = span.sequence_id, span.offset, span.length
    return message


def _encode_tensor(message: pb.Tensor, tensor: TensorData) -> None:
    message.dtype = pb.DTYPE_INT64 if tensor.dtype == "int64" else pb.DTYPE_FLOAT32
    message.shape.extend(tensor.shape)
    raw = tensor.values.astype(_NUMPY[message.dtype], copy=False).tobytes()
    if tensor.csr is None:
        message.dense = raw
        return
    _, crow, col = tensor.csr
    message.sparse_csr.values = raw
    message.sparse_csr.crow_indices = crow.astype("<i8", copy=False).tobytes()
    message.sparse_csr.col_indices = col.astype("<i8", copy=False).tobytes()


def _encode_chunk(index: int, chunk: ModelInputChunk) -> pb.Chunk:
    match chunk:
        case EncodedTextChunk():
            return pb.Chunk(
                encoded_text=pb.EncodedTextChunk(
                    tokens=chunk.tokens_to_send.astype("<i4").tobytes()
                )
            )
        case ImageChunk(data, format, expected):
            return pb.Chunk(image=pb.ImageChunk(data=data, format=format, expected_tokens=expected))
        case DmelChunk(dmel):
            return pb.Chunk(dmel=pb.DmelChunk(dmel=dmel))
        case ImageAssetPointerChunk():
            raise InvalidInputError(
                f"data[{index}].model_input has an image pointer, which has no protobuf form, and "
                "this server accepts only protobuf",
                advice="Give the image itself, as an ImageChunk.",
            )


# ---- results ----


def decode_forward_backward(raw: bytes) -> ForwardBackwardOutput:
    """Parses the result of forward_backward. Raises `ValueError` for a damaged message."""
    message = _parse(pb.ForwardBackwardOutput(), raw)
    outputs = [output for record in message.loss_fn_outputs for output in _decode_record(record)]
    kind = message.loss_fn_output_type.rpartition(":")[2] or "ArrayRecord"
    return ForwardBackwardOutput(kind, outputs, dict(message.metrics))


def decode_sample(
    raw: bytes, promise: UntypedAPIFuture, prompt_length: int | None
) -> SampleResponse:
    """Parses the result of a sample request.

    Args:
        promise: the server's first answer to the request.
        prompt_length: the number of tokens in the prompt, if it is known.

    Raises:
        ValueError: the message is damaged.
    """
    message = _parse(pb.SampleResponse(), raw)
    ids = sequence_ids(promise, len(message.sequences))
    topk = _decode_topk(message.topk_prompt_logprobs, "topk_prompt_logprobs")
    return SampleResponse(
        sequences=[
            _decode_sequence(sequence, id_)
            for sequence, id_ in zip(message.sequences, ids, strict=True)
        ],
        prompt_logprobs_np=logprobs_from_first_token(
            _logprobs(message.prompt_logprobs, "prompt_logprobs"), prompt_length
        ),
        topk_prompt_logprobs_np=topk_from_first_token(topk, prompt_length),
        target_prompt_logprobs=_decode_tensor(
            message.target_prompt_logprobs, "target_prompt_logprobs"
        )
        if message.HasField("target_prompt_logprobs")
        else None,
        prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
        prompt_alt_tokens=_decode_alternatives(message.prompt_alt_tokens)
        if message.HasField("prompt_alt_tokens")
        else None,
    )


def _decode_alternatives(message: pb.PromptAltTokens) -> PromptAltTokens:
    return PromptAltTokens(
        _decode_tensor(message.tokens, "the tokens of prompt_alt_tokens"),
        _decode_tensor(message.logprobs, "the logprobs of prompt_alt_tokens"),
    )


def _parse(message: Any, raw: bytes) -> Any:
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise ValueError(
            f"these {len(raw)} bytes are not a valid {message.DESCRIPTOR.name}: {error}"
        ) from error
    return message


def _array(raw: bytes, dtype: int, name: str) -> NDArray[Any]:
    """Returns a flat, writable array. It widens int32 to int64, and bfloat16 to float32."""
    if dtype not in _NUMPY:
        raise ValueError(f"unknown dtype {dtype} of {name}")
    if len(raw) % _NUMPY[dtype].itemsize:
        raise ValueError(
            f"{name} has {len(raw)} bytes, which is not a multiple of {_NUMPY[dtype].itemsize}"
        )
    flat = np.frombuffer(raw, _NUMPY[dtype])
    if dtype == pb.DTYPE_BFLOAT16:
        return (flat.astype(np.uint32) << 16).view(np.float32)
    # a copy: bytes cannot be written to
    return flat.astype(np.float32 if dtype == pb.DTYPE_FLOAT32 else np.int64)


def _logprobs(raw: bytes, name: str) -> NDArray[np.float32] | None:
    """Returns the logprobs; None for an empty string of bytes."""
    return _array(raw, pb.DTYPE_FLOAT32, name) if raw else None


def _decode_tensor(tensor: pb.Tensor, name: str) -> TensorData:
    """Returns a tensor, which is sparse if the message is."""
    sparse = tensor.WhichOneof("encoding") == "sparse_csr"
    values = _array(tensor.sparse_csr.values if sparse else tensor.dense, tensor.dtype, name)
    dtype, shape = "int64" if values.dtype == np.int64 else "float32", tuple(tensor.shape)
    if sparse:
        crow = _array(tensor.sparse_csr.crow_indices, pb.DTYPE_INT64, f"the rows of {name}")
        col = _array(tensor.sparse_csr.col_indices, pb.DTYPE_INT64, f"the columns of {name}")
        return TensorData.received_sparse((values, crow, col), dtype, shape)
    if shape and math.prod(shape) != values.size:
        raise ValueError(f"{name} has {values.size} values, which shape {list(shape)} does not fit")
    return TensorData.received(values.reshape(shape) if shape else values, dtype)


def _decode_record(record: pb.ArrayRecord) -> list[LossFnOutput]:
    """Returns the outputs of a record, one for each datum."""
    columns = {
        name: _split(tensor, f"loss_fn_outputs[{name!r}]") for name, tensor in record.fields.items()
    }
    count = record.num_datums or max((len(column) for column in columns.values()), default=0)
    if count < 0:
        raise ValueError(f"num_datums is {count}")
    if wrong := [name for name, column in columns.items() if len(column) != count]:
        raise ValueError(
            f"loss_fn_outputs[{wrong[0]!r}] has {len(columns[wrong[0]])} arrays for {count} datums"
        )
    return [{name: column[index] for name, column in columns.items()} for index in range(count)]


def _split(tensor: pb.BatchedTensor, name: str) -> list[TensorData]:
    """Returns one tensor for each datum. They are views of disjoint parts of one array."""
    values = _array(tensor.data, tensor.dtype, name)
    borders = _borders(tensor, name)
    dtype = "int64" if values.dtype == np.int64 else "float32"
    return [
        TensorData.received(_shaped(values[begin:end], tuple(tensor.trailing_shape), name), dtype)
        for begin, end in itertools.pairwise(borders)
    ]


def _borders(tensor: pb.BatchedTensor, name: str) -> list[int]:
    """Returns the indices at which the datums begin and end, in values.

    Raises `ValueError` for a wrong offset, for which slicing would not fail.
    """
    width = _NUMPY[tensor.dtype].itemsize
    offsets = _array(tensor.offsets, pb.DTYPE_INT64, f"the offsets of {name}")
    bounds = np.concatenate([[0], offsets, [len(tensor.data)]])
    if (np.diff(bounds) < 0).any() or (offsets % width).any():
        raise ValueError(
            f"the offsets of {name} must rise from 0 to at most {len(tensor.data)} bytes, in "
            f"multiples of {width}; they are {np.array2string(offsets, threshold=6)}"
        )
    return (offsets // width).tolist()


def _shaped(flat: NDArray[Any], trailing: tuple[int, ...], name: str) -> NDArray[Any]:
    """Returns the array in the shape `(rows, *trailing)`."""
    row = math.prod(trailing)
    rows = flat.size // row if row > 0 else 0
    if min(trailing, default=0) < 0 or rows * row != flat.size:
        raise ValueError(
            f"{name} has {flat.size} values for a datum, which trailing_shape {list(trailing)} "
            "does not fit"
        )
    return flat.reshape(rows, *trailing)


def _decode_sequence(sequence: pb.SampledSequence, sequence_id: str) -> SampledSequence:
    return SampledSequence(
        stop_reason=_STOP_REASONS.get(sequence.stop_reason, f"unknown_{sequence.stop_reason}"),
        sequence_id=sequence_id,
        tokens_np=_array(sequence.tokens, pb.DTYPE_INT32, "a sequence's tokens"),
        logprobs_np=_logprobs(sequence.logprobs, "a sequence's logprobs"),
        topk_logprobs_np=_decode_topk(sequence.topk_sampled_logprobs, "topk_sampled_logprobs"),
    )


def _decode_topk(table: pb.TopkLogprobs, name: str) -> TopkLogprobs | None:
    if not (table.k and table.length):
        return None
    tokens = _array(table.token_ids, pb.DTYPE_INT32, f"the tokens of {name}")
    logprobs = _array(table.logprobs, pb.DTYPE_FLOAT32, f"the logprobs of {name}")
    if not tokens.size == logprobs.size == table.length * table.k:
        raise ValueError(
            f"{name} has {tokens.size} tokens and {logprobs.size} logprobs for {table.length} x "
            f"{table.k} cells"
        )
    return TopkLogprobs(
        tokens.reshape(table.length, table.k), logprobs.reshape(table.length, table.k)
    )
