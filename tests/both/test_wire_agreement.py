"""Answers of a server, and requests of a client, read the same in JSON and in protobuf."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import write_json
from tinkex_proto import tinker_pb2 as pb

from tinkex import (
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageChunk,
    ModelInput,
    SampleResponse,
    TensorData,
)
from tinkex.types import DmelChunk, ModelInputChunk, PromptAltTokens, SampledSequence, TopkLogprobs
from tinkex.wire import json, protobuf

logprobs = st.floats(-(2.0**60), 0, width=32)
tokens = st.integers(0, 2**31 - 1)
names = st.text("abc_", min_size=1, max_size=4)
_DTYPES = {"float32": (pb.DTYPE_FLOAT32, "<f4"), "int64": (pb.DTYPE_INT64, "<i8")}


def over_json(value: object) -> Any:
    """Returns a value as the other side reads it. JSON has no NaN: it becomes null."""
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


# ---- batches ----

arrays = st.one_of(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, max_side=4),
        elements=st.floats(-100, 100, width=32),
    ),
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=4)),
)
chunks = st.one_of(
    st.lists(tokens, max_size=6).map(EncodedTextChunk),
    st.builds(
        ImageChunk,
        st.binary(max_size=9),
        st.sampled_from(["png", "jpeg"]),
        st.none() | st.integers(1, 9),
    ),
    # with a tensor's header
    st.binary(max_size=9).map(lambda values: DmelChunk(bytes([0, 1, len(values)]) + values)),
)
mostly_zero = st.sampled_from([np.float32, np.int64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.tuples(st.integers(1, 6), st.integers(1, 9)),
        elements=st.integers(-9, 9),
        fill=st.just(0),
    )
)
inputs = arrays | mostly_zero.map(TensorData.from_torch_sparse)
datums = st.builds(
    Datum,
    st.lists(chunks, max_size=3).map(ModelInput),
    st.dictionaries(names.map("x_{}".format), inputs, max_size=3),
)


def chunk_from_json(chunk: Mapping[str, Any]) -> ModelInputChunk:
    match chunk["type"]:
        case "encoded_text":
            return EncodedTextChunk(chunk["tokens"])
        case "image":
            return ImageChunk(
                base64.b64decode(chunk["data"]), chunk["format"], chunk.get("expected_tokens")
            )
        case other:
            assert other == "dmel"
            return DmelChunk(base64.b64decode(chunk["dmel"]))


def chunk_from_protobuf(chunk: pb.Chunk) -> ModelInputChunk:
    match chunk.WhichOneof("chunk"):
        case "encoded_text":
            return EncodedTextChunk(np.frombuffer(chunk.encoded_text.tokens, "<i4"))
        case "image":
            expected = (
                chunk.image.expected_tokens if chunk.image.HasField("expected_tokens") else None
            )
            # a message holds any text
            return ImageChunk(chunk.image.data, chunk.image.format, expected)  # type: ignore[arg-type]
        case other:
            assert other == "dmel"
            return DmelChunk(chunk.dmel.dmel)


def tensor_from_protobuf(tensor: pb.Tensor) -> TensorData:
    dtype, layout = next(
        (dtype, layout) for dtype, (number, layout) in _DTYPES.items() if number == tensor.dtype
    )
    if tensor.WhichOneof("encoding") == "dense":
        # a repeated field is a sequence, though it is not declared as one
        return TensorData(np.frombuffer(tensor.dense, layout), dtype, tensor.shape)  # type: ignore[arg-type]
    sparse = tensor.sparse_csr
    indices = (np.frombuffer(raw, "<i8") for raw in (sparse.crow_indices, sparse.col_indices))
    # as above
    return TensorData(np.frombuffer(sparse.values, layout), dtype, tensor.shape, *indices)  # type: ignore[arg-type]


def batch_from_json(fields: Mapping[str, Any]) -> list[Datum]:
    return [
        Datum(
            ModelInput(map(chunk_from_json, datum["model_input"]["chunks"])),
            {name: TensorData(**tensor) for name, tensor in datum["loss_fn_inputs"].items()},
        )
        for datum in fields["data"]
    ]


def batch_from_protobuf(message: pb.ForwardBackwardRequest) -> list[Datum]:
    return [
        Datum(
            ModelInput(map(chunk_from_protobuf, datum.model_input)),
            {name: tensor_from_protobuf(tensor) for name, tensor in datum.loss_fn_inputs.items()},
        )
        for datum in message.data
    ]


def layouts(data: Sequence[Datum]) -> Any:
    """Returns, for each tensor of each datum, whether it is sparse."""
    return [
        {name: tensor.csr is not None for name, tensor in datum.loss_fn_inputs.items()}
        for datum in data
    ]


@pytest.mark.rule(4)
@given(
    st.lists(datums, max_size=3),
    st.dictionaries(names, st.floats(-9, 9) | st.text("xyz", max_size=4), max_size=3),
)
def test_a_batch_arrives_as_it_was(data: list[Datum], config: dict[str, float | str]) -> None:
    raw = protobuf.encode_forward_backward("m", 1, data, "ppo", config)
    message = pb.ForwardBackwardRequest.FromString(raw)
    without_data = write_json(json.batch_without_data("ppo", config).to_dict())
    fields = orjson.loads(json.with_data(without_data, data))
    ours, theirs = batch_from_protobuf(message), batch_from_json(fields)
    assert (
        ours
        == theirs
        == [evolve(datum, model_input=datum.model_input.with_texts_joined()) for datum in data]
    )
    assert layouts(ours) == layouts(theirs) == layouts(data)
    sent = {
        name: getattr(value, value.WhichOneof("value") or "")
        for name, value in message.loss_fn_config_v2.items()
    }
    assert sent == (fields.get("loss_fn_config") or {}) == config
    assert dict(message.loss_fn_config) == {
        name: value for name, value in config.items() if not isinstance(value, str)
    }


# ---- loss outputs ----


@st.composite
def columns_of_arrays(draw: st.DrawFn) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Arrays by name, one for each datum; those of a name differ in their first size alone."""
    count = draw(st.integers(1, 4))
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        trailing = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
        dtype, elements = draw(
            st.sampled_from(
                [
                    (np.float32, logprobs | st.just(np.nan)),
                    (np.int64, st.integers(-(2**63), 2**63 - 1)),
                ]
            )
        )
        rows = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
        columns[name] = [
            draw(hnp.arrays(dtype, (length, *trailing), elements=elements)) for length in rows
        ]
    return columns


def record_of(
    columns: Mapping[str, Sequence[np.ndarray[Any, Any]]], *, says_count: bool
) -> pb.ArrayRecord:
    record = pb.ArrayRecord(num_datums=len(next(iter(columns.values()))) if says_count else 0)
    for name, column in columns.items():
        number, layout = _DTYPES[column[0].dtype.name]
        parts = [array.astype(layout).tobytes() for array in column]
        tensor = record.fields[name]
        tensor.data, tensor.dtype = b"".join(parts), number
        tensor.offsets = np.cumsum([0, *map(len, parts)]).astype("<i8").tobytes()
        tensor.trailing_shape.extend(column[0].shape[1:])
    return record


def outputs_for_json(
    records: Iterable[Mapping[str, Sequence[np.ndarray[Any, Any]]]],
) -> list[dict[str, Any]]:
    return [
        {
            name: {"data": array.ravel(), "dtype": array.dtype.name, "shape": array.shape}
            for name, array in zip(columns, row, strict=True)
        }
        for columns in records
        for row in zip(*columns.values(), strict=True)
    ]


def assert_same_losses(left: ForwardBackwardOutput, right: ForwardBackwardOutput) -> None:
    assert (left.loss_fn_output_type, left.metrics) == (right.loss_fn_output_type, right.metrics)
    for ours, theirs in zip(left.loss_fn_outputs, right.loss_fn_outputs, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
            assert ours[name].to_numpy().dtype == theirs[name].to_numpy().dtype
            np.testing.assert_array_equal(ours[name].to_numpy(), theirs[name].to_numpy())
            assert ours[name].to_numpy().flags.writeable
            assert theirs[name].to_numpy().flags.writeable


@pytest.mark.rule(6)
@given(
    st.lists(columns_of_arrays(), min_size=1, max_size=3),
    st.booleans(),
    st.dictionaries(names, st.floats(-9, 9), max_size=3),
)
def test_losses_come_back_the_same(
    records: list[Any], says_count: bool, metrics: dict[str, float]
) -> None:
    message = pb.ForwardBackwardOutput(
        loss_fn_output_type="losses:ArrayRecord",
        loss_fn_outputs=[record_of(columns, says_count=says_count) for columns in records],
        metrics=metrics,
    )
    in_json = {
        "loss_fn_output_type": "losses:ArrayRecord",
        "loss_fn_outputs": outputs_for_json(records),
        "metrics": metrics,
    }
    assert_same_losses(
        protobuf.decode_forward_backward(message.SerializeToString()),
        json.decode_forward_backward(over_json(in_json)),
    )


# ---- samples ----


def logprob_arrays(
    count: int, elements: st.SearchStrategy[float] = logprobs
) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.float32, count, elements=elements)


topk_rows = st.none() | st.lists(st.tuples(tokens, logprobs), min_size=1, max_size=4)


@st.composite
def sequences(draw: st.DrawFn) -> SampledSequence:
    sampled = np.array(draw(st.lists(tokens, max_size=6)), np.int64)
    return SampledSequence(
        draw(st.sampled_from(["stop", "length"])),
        "",
        sampled,
        draw(st.none() | logprob_arrays(len(sampled))) if len(sampled) else None,
        draw(tables(len(sampled))) if len(sampled) else None,
    )


def tables(count: int) -> st.SearchStrategy[TopkLogprobs | None]:
    return st.none() | st.lists(topk_rows, min_size=count, max_size=count).map(
        TopkLogprobs.from_rows
    )


@st.composite
def matrices(
    draw: st.DrawFn, dtype: Any, shape: tuple[int, int], elements: st.SearchStrategy[Any]
) -> TensorData:
    """Dense, or sparse where it is mostly zeros."""
    matrix = draw(hnp.arrays(dtype, shape, elements=elements, fill=st.just(0)))
    return TensorData.from_torch_sparse(matrix) if draw(st.booleans()) else TensorData(matrix)


@st.composite
def samples(draw: st.DrawFn) -> SampleResponse:
    count, width = draw(st.integers(2, 6)), draw(st.integers(1, 9))
    shape = (count - 1, width)
    drawn = st.builds(
        PromptAltTokens, matrices(np.int64, shape, tokens), matrices(np.float32, shape, logprobs)
    )
    return SampleResponse(
        draw(st.lists(sequences(), max_size=3)),
        draw(st.none() | logprob_arrays(count, logprobs | st.just(np.nan))),
        draw(tables(count)),
        draw(st.none() | matrices(np.float32, shape, logprobs)),
        draw(st.integers(0, 2**31 - 1)),
        draw(st.none() | drawn),
    )


def tensor_as_json(tensor: TensorData | None) -> Any:
    return tensor and json.encode_tensor(tensor).to_dict()


def sample_as_json(sample: SampleResponse) -> Any:
    drawn = sample.prompt_alt_tokens
    return over_json(
        {
            "sequences": [
                {
                    "tokens": s.tokens_np,
                    "logprobs": s.logprobs_np,
                    "stop_reason": s.stop_reason,
                    "topk_sampled_logprobs": s.topk_logprobs,
                }
                for s in sample.sequences
            ],
            "prompt_logprobs": sample.prompt_logprobs,
            "topk_prompt_logprobs": sample.topk_prompt_logprobs,
            "target_prompt_logprobs": tensor_as_json(sample.target_prompt_logprobs),
            "prompt_alt_tokens": drawn
            and {
                "tokens": tensor_as_json(drawn.tokens),
                "logprobs": tensor_as_json(drawn.logprobs),
            },
            "prompt_cache_hit_tokens": sample.prompt_cache_hit_tokens,
        }
    )


def sample_as_protobuf(sample: SampleResponse) -> bytes:
    message = pb.SampleResponse(prompt_cache_hit_tokens=sample.prompt_cache_hit_tokens)
    for sequence in sample.sequences:
        stop_reason = (
            pb.STOP_REASON_STOP if sequence.stop_reason == "stop" else pb.STOP_REASON_LENGTH
        )
        written = message.sequences.add(
            stop_reason=stop_reason, tokens=sequence.tokens_np.astype("<i4").tobytes()
        )
        if sequence.logprobs_np is not None:
            written.logprobs = sequence.logprobs_np.astype("<f4").tobytes()
        if sequence.topk_logprobs_np is not None:
            written.topk_sampled_logprobs.CopyFrom(table_message(sequence.topk_logprobs_np))
    if sample.prompt_logprobs_np is not None:
        message.prompt_logprobs = sample.prompt_logprobs_np.astype("<f4").tobytes()
    if sample.topk_prompt_logprobs_np is not None:
        message.topk_prompt_logprobs.CopyFrom(table_message(sample.topk_prompt_logprobs_np))
    if sample.target_prompt_logprobs is not None:
        message.target_prompt_logprobs.CopyFrom(tensor_message(sample.target_prompt_logprobs))
    if sample.prompt_alt_tokens is not None:
        message.prompt_alt_tokens.tokens.CopyFrom(tensor_message(sample.prompt_alt_tokens.tokens))
        message.prompt_alt_tokens.logprobs.CopyFrom(
            tensor_message(sample.prompt_alt_tokens.logprobs)
        )
    return message.SerializeToString()


def table_message(table: TopkLogprobs) -> pb.TopkLogprobs:
    length, width = table.token_ids.shape
    ids, values = table.token_ids.astype("<i4"), table.logprobs.astype("<f4")
    return pb.TopkLogprobs(
        token_ids=ids.tobytes(), logprobs=values.tobytes(), k=width, length=length
    )


def tensor_message(tensor: TensorData) -> pb.Tensor:
    number, layout = _DTYPES[tensor.dtype]
    message = pb.Tensor(dtype=number, shape=tensor.shape)
    raw = tensor.values.astype(layout).tobytes()
    if tensor.csr is None:
        message.dense = raw
    else:
        _, crow, col = tensor.csr
        message.sparse_csr.CopyFrom(
            pb.SparseCsr(
                values=raw,
                crow_indices=crow.astype("<i8").tobytes(),
                col_indices=col.astype("<i8").tobytes(),
            )
        )
    return message


def plain(sample: SampleResponse) -> Any:
    """Returns the parts of a sample that tests compare, since `==` on arrays gives an array."""
    drawn = sample.prompt_alt_tokens
    return (
        [
            (s.tokens, s.tokens_np.dtype, s.logprobs, s.topk_logprobs, s.stop_reason, s.sequence_id)
            for s in sample.sequences
        ],
        sample.prompt_logprobs,
        sample.topk_prompt_logprobs,
        sample.target_prompt_logprobs,
        sample.target_prompt_logprobs and sample.target_prompt_logprobs.csr is None,
        sample.prompt_cache_hit_tokens,
        drawn and (drawn.tokens, drawn.logprobs),
    )


@pytest.mark.rule(6)
@given(samples(), st.lists(st.text("xyz", max_size=3), max_size=4))
def test_a_sample_comes_back_the_same(sample: SampleResponse, ids: list[str]) -> None:
    promise = UntypedAPIFuture("r", sample_sequence_ids=ids)
    from_protobuf = protobuf.decode_sample(sample_as_protobuf(sample), promise, None)
    named = [*ids, *(f"r:{index}" for index in range(len(ids), 3))]
    expected = evolve(
        sample,
        sequences=[
            evolve(s, sequence_id=name) for s, name in zip(sample.sequences, named, strict=False)
        ],
    )
    assert (
        plain(from_protobuf)
        == plain(json.decode_sample(sample_as_json(sample), promise, None))
        == plain(expected)
    )
    assert all(sequence.tokens_np.flags.writeable for sequence in from_protobuf.sequences)
