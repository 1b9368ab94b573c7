"""Protobuf bodies and results: every value comes back, and agrees with JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import write_json
from tinkex_proto import tinker_pb2 as pb

from tinkex import (
    Datum,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    InvalidInputError,
    ModelInput,
)
from tinkex.wire import json, protobuf
from tinkex.wire.zstd_library import zstd

PROMISE = UntypedAPIFuture("r")
floats = st.floats(-(2.0**100), 2.0**100, width=32)
batches = st.lists(
    st.lists(
        st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), floats),
        min_size=1,
        max_size=8,
    ),
    min_size=1,
    max_size=5,
)


def make_batch(rows: Any) -> list[Datum]:
    return [
        Datum(
            model_input=ModelInput.from_ints([token for token, _, _ in row]),
            loss_fn_inputs={
                "target_tokens": [target for _, target, _ in row],
                "weights": np.array([w for _, _, w in row], np.float32),
            },
        )
        for row in rows
    ]


@pytest.mark.rule(4)
@given(batches, st.booleans())
def test_a_batch_says_the_same_in_protobuf_and_in_json(rows: Any, forward_only: bool) -> None:
    data, config = make_batch(rows), {"clip_low_threshold": 0.8, "mode": "strict"}
    message = pb.ForwardBackwardRequest.FromString(
        protobuf.encode_forward_backward("m", 7, data, "ppo", config, forward_only=forward_only)
    )
    without_data = write_json(json.batch_without_data("ppo", config).to_dict())
    body = orjson.loads(json.with_data(without_data, data))
    assert (message.model_id, message.seq_id, message.loss_fn, message.forward_only) == (
        "m",
        7,
        body["loss_fn"],
        forward_only,
    )
    assert dict(message.loss_fn_config) == {"clip_low_threshold": 0.8}
    assert {
        name: value.number or value.text for name, value in message.loss_fn_config_v2.items()
    } == body["loss_fn_config"]
    for datum, in_json in zip(message.data, body["data"], strict=True):
        [chunk], [json_chunk] = datum.model_input, in_json["model_input"]["chunks"]
        assert np.frombuffer(chunk.encoded_text.tokens, "<i4").tolist() == json_chunk["tokens"]
        assert datum.loss_fn_inputs.keys() == in_json["loss_fn_inputs"].keys()
        for name, tensor in datum.loss_fn_inputs.items():
            other = in_json["loss_fn_inputs"][name]
            dtype = {pb.DTYPE_FLOAT32: "<f4", pb.DTYPE_INT64: "<i8"}[tensor.dtype]
            assert (
                np.frombuffer(tensor.dense, dtype).tolist()
                == np.array(other["data"], dtype).tolist()
            )
            assert list(tensor.shape) == other["shape"]


@given(
    st.lists(
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=6),
            elements=floats,
        ),
        max_size=6,
    )
)
def test_loss_outputs_come_back_as_from_json(arrays: list[np.ndarray[Any, Any]]) -> None:
    record = pb.ArrayRecord(num_datums=len(arrays))
    record.fields["logprobs"].CopyFrom(batched(arrays, pb.DTYPE_FLOAT32, "<f4"))
    raw = pb.ForwardBackwardOutput(
        loss_fn_output_type="x:ArrayRecord",
        loss_fn_outputs=[record] if arrays else [],
        metrics={"loss:sum": 1.5},
    ).SerializeToString()
    in_json = {
        "loss_fn_output_type": "x:ArrayRecord",
        "loss_fn_outputs": [
            {"logprobs": {"data": array.tolist(), "dtype": "float32", "shape": [len(array)]}}
            for array in arrays
        ],
        "metrics": {"loss:sum": 1.5},
    }
    ours, theirs = protobuf.decode_forward_backward(raw), json.decode_forward_backward(in_json)
    assert (ours.loss_fn_output_type, ours.metrics) == (theirs.loss_fn_output_type, theirs.metrics)
    for left, right in zip(ours.loss_fn_outputs, theirs.loss_fn_outputs, strict=True):
        np.testing.assert_array_equal(left["logprobs"].to_numpy(), right["logprobs"].to_numpy())


def batched(
    arrays: list[Any], dtype: Any, numpy_dtype: str, trailing: tuple[int, ...] = ()
) -> pb.BatchedTensor:
    parts = [np.asarray(array).astype(numpy_dtype).tobytes() for array in arrays]
    offsets = np.cumsum([0, *map(len, parts)])
    return pb.BatchedTensor(
        data=b"".join(parts),
        offsets=offsets.astype("<i8").tobytes(),
        dtype=dtype,
        trailing_shape=trailing,
    )


def test_records_concatenate_and_keep_their_shapes_and_dtypes() -> None:
    first, second = pb.ArrayRecord(num_datums=1), pb.ArrayRecord(num_datums=1)
    first.fields["a"].CopyFrom(batched([[[1, 2], [3, 4]]], pb.DTYPE_INT32, "<i4", (2,)))
    bits = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    second.fields["a"].CopyFrom(batched([bits], pb.DTYPE_BFLOAT16, "<u2"))
    output = protobuf.decode_forward_backward(
        pb.ForwardBackwardOutput(loss_fn_outputs=[first, second]).SerializeToString()
    )
    one, two = (outputs["a"] for outputs in output.loss_fn_outputs)
    assert (one.tolist(), one.dtype, one.shape) == ([[1, 2], [3, 4]], "int64", [2, 2])
    assert (two.tolist(), two.dtype) == ([1.5, -2.0], "float32")
    assert output.loss_fn_output_type == "ArrayRecord"


def test_a_sample_comes_back_as_from_json() -> None:
    table = pb.TopkLogprobs(
        token_ids=np.array([0, 0, 105, 97, 7, 0], "<i4").tobytes(),
        logprobs=np.array([-99999, -99999, -0.25, -1.5, -0.5, -99999], "<f4").tobytes(),
        k=2,
        length=3,
    )
    sequence = pb.SampledSequence(
        stop_reason=pb.STOP_REASON_LENGTH,
        tokens=np.array([33, 10], "<i4").tobytes(),
        logprobs=np.array([-0.5, -0.25], "<f4").tobytes(),
    )
    raw = pb.SampleResponse(
        sequences=[sequence, pb.SampledSequence()],
        prompt_logprobs=np.array([np.nan, -2.5, -3.0], "<f4").tobytes(),
        topk_prompt_logprobs=table,
        prompt_cache_hit_tokens=2,
    ).SerializeToString()
    ours = protobuf.decode_sample(raw, UntypedAPIFuture("r", sample_sequence_ids=["a", "b"]), 3)
    theirs = json.decode_sample(
        {
            "sequences": [
                {"tokens": [33, 10], "logprobs": [-0.5, -0.25], "stop_reason": "length"},
                {"tokens": [], "stop_reason": "stop"},
            ],
            "prompt_logprobs": [None, -2.5, -3.0],
            "topk_prompt_logprobs": [None, [[105, -0.25], [97, -1.5]], [[7, -0.5]]],
            "prompt_cache_hit_tokens": 2,
        },
        UntypedAPIFuture("r", sample_sequence_ids=["a", "b"]),
        3,
    )
    for left, right in zip(ours.sequences, theirs.sequences, strict=True):
        assert (left.tokens, left.logprobs, left.stop_reason, left.sequence_id) == (
            right.tokens,
            right.logprobs,
            right.stop_reason,
            right.sequence_id,
        )
    assert ours.prompt_logprobs == theirs.prompt_logprobs
    assert ours.topk_prompt_logprobs == theirs.topk_prompt_logprobs
    assert ours.prompt_cache_hit_tokens == theirs.prompt_cache_hit_tokens


@pytest.mark.parametrize(
    "decode",
    [protobuf.decode_forward_backward, lambda raw: protobuf.decode_sample(raw, PROMISE, None)],
)
def test_invalid_bytes_are_an_error(decode: Any) -> None:
    with pytest.raises(ValueError, match="are not a valid "):
        decode(b"\xff\xff\xff")


def test_an_unknown_dtype_is_an_error_rather_than_a_guess() -> None:
    record = pb.ArrayRecord(num_datums=1)
    record.fields["a"].CopyFrom(batched([[1.0]], 9, "<f4"))
    with pytest.raises(ValueError, match="unknown dtype 9"):
        protobuf.decode_forward_backward(
            pb.ForwardBackwardOutput(loss_fn_outputs=[record]).SerializeToString()
        )


ONE_TO_FOUR = np.array([1, 2, 3, 4], "<f4").tobytes()


@pytest.mark.parametrize(
    ("data", "offsets", "trailing", "words"),
    [
        (ONE_TO_FOUR, [0, 8, 4000], (), "at most 16 bytes, in multiples"),  # past the end
        (ONE_TO_FOUR, [0, 16, 8], (), "must rise"),
        (ONE_TO_FOUR, [-8, 16], (), "must rise from 0"),
        (ONE_TO_FOUR, [0, 6, 16], (), "in multiples of 4"),  # inside a value
        (ONE_TO_FOUR, [0, 16, 16], (), r"2 arrays for 1 datums"),
        (ONE_TO_FOUR, [], (), r"0 arrays for 1 datums"),
        (ONE_TO_FOUR[:-1], [0, 15], (), r"'a'\] has 15 bytes"),
        (ONE_TO_FOUR, [0, 16], (3,), r"trailing_shape \[3\] does not fit"),
        (ONE_TO_FOUR, [0, 16], (-1,), "does not fit"),
        (ONE_TO_FOUR, [0, 16], (0,), "does not fit"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_arrays_that_do_not_fit_are_refused_rather_than_cut(
    data: bytes, offsets: list[int], trailing: Any, words: str
) -> None:
    record = pb.ArrayRecord(num_datums=1)
    tensor = pb.BatchedTensor(
        data=data,
        offsets=np.array(offsets, "<i8").tobytes(),
        dtype=pb.DTYPE_FLOAT32,
        trailing_shape=trailing,
    )
    record.fields["a"].CopyFrom(tensor)
    with pytest.raises(ValueError, match=words):
        protobuf.decode_forward_backward(
            pb.ForwardBackwardOutput(loss_fn_outputs=[record]).SerializeToString()
        )


def test_outputs_without_arrays_are_still_counted() -> None:
    def outputs(count: int) -> Any:
        raw = pb.ForwardBackwardOutput(
            loss_fn_outputs=[pb.ArrayRecord(num_datums=count)]
        ).SerializeToString()
        return protobuf.decode_forward_backward(raw).loss_fn_outputs

    assert outputs(2) == [{}, {}]
    with pytest.raises(ValueError, match="num_datums is -3"):
        outputs(-3)


def topk(tokens: list[int], logprobs: list[float], k: int, length: int) -> Any:
    table = pb.TopkLogprobs(
        token_ids=np.array(tokens, "<i4").tobytes(),
        logprobs=np.array(logprobs, "<f4").tobytes(),
        k=k,
        length=length,
    )
    return protobuf.decode_sample(
        pb.SampleResponse(topk_prompt_logprobs=table).SerializeToString(), PROMISE, None
    ).topk_prompt_logprobs


def test_only_cells_at_a_rows_end_are_left_out() -> None:
    none = -99999.0
    assert topk([4, 0, 5, 4, 0, 0], [-1, none, -2, -1, none, none], 3, 2) == [
        [(4, -1.0), (0, none), (5, -2.0)],
        [(4, -1.0)],
    ]
    assert topk([0, 5], [none, -1], 2, 1) == [None]
    assert topk([4, 0, 4, 7], [-1, -3, -1, none], 2, 2) == [
        [(4, -1.0), (0, -3.0)],
        [(4, -1.0), (7, none)],
    ]
    assert topk([], [], 2, 0) is None


def test_a_truncated_sample_names_the_field() -> None:
    with pytest.raises(ValueError, match="1 tokens and 1 logprobs for 1 x 2 cells"):
        topk([4], [-1.0], 2, 1)
    with pytest.raises(ValueError, match="prompt_logprobs has 3 bytes"):
        protobuf.decode_sample(
            pb.SampleResponse(prompt_logprobs=b"abc").SerializeToString(), PROMISE, None
        )
    with pytest.raises(ValueError, match="sequence's tokens has 5 bytes"):
        protobuf.decode_sample(
            pb.SampleResponse(sequences=[pb.SampledSequence(tokens=b"abcde")]).SerializeToString(),
            PROMISE,
            None,
        )


def test_images_are_encoded_but_asset_pointers_are_refused() -> None:
    text, image = EncodedTextChunk([1]), ImageChunk(b"png", "png", 4)
    message = pb.ForwardBackwardRequest.FromString(
        protobuf.encode_forward_backward(
            "m", 1, [Datum(model_input=ModelInput([text, image]))], "custom", None
        )
    )
    assert message.data[0].model_input[1].image == pb.ImageChunk(
        data=b"png", format="png", expected_tokens=4
    )
    pointer = Datum(model_input=ModelInput([ImageAssetPointerChunk("s3://x", "png", 4)]))
    with pytest.raises(InvalidInputError, match=r"data\[0\]"):
        protobuf.encode_forward_backward("m", 1, [pointer], "custom", None)


@pytest.mark.rule(4)
def test_a_compressed_body_is_zstd() -> None:
    assert zstd.decompress(protobuf.compress(b"a" * 100)) == b"a" * 100
