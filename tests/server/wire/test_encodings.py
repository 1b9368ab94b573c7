"""The server reads what a client wrote, and a client reads what the server wrote, in both
encodings.
"""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tinkex_api import models as api
from tinkex_api.types import write_json
from tinkex_proto import tinker_pb2 as pb

from tinkex import Datum, TensorData
from tinkex.wire import json, protobuf
from tinkex_server.engine.interface import LossResult, SampledTokens, SampleResult
from tinkex_server.errors import Reason, Refused
from tinkex_server.wire.bodies import read
from tinkex_server.wire.json import encode
from tinkex_server.wire.protobuf import (
    read_forward_backward,
    result_fields,
    write_loss,
    write_result,
)
from tinkex_server.wire.results import encode_sample, loss_fields
from tinkex_server.wire.training_requests import examples

logprobs = st.floats(-100, 0, width=32)
tokens = st.integers(0, 2**31 - 1)


@st.composite
def batches(draw: st.DrawFn) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Draws loss inputs, many of which are mostly zeros."""
    shape = st.tuples(st.integers(1, 6), st.integers(1, 12))
    targets = hnp.arrays(np.int64, shape, elements=tokens, fill=st.just(0))
    weights = hnp.arrays(np.float32, shape, elements=st.floats(-9, 9, width=32), fill=st.just(0))
    count = draw(st.integers(1, 3))
    return [{"target_tokens": draw(targets), "weights": draw(weights)} for _ in range(count)]


@given(batches())
def test_a_sparse_batch_arrives_in_both_encodings(
    batch: list[dict[str, np.ndarray[Any, Any]]],
) -> None:
    data = [
        Datum([1] * 6, {name: _of_length_6(array) for name, array in inputs.items()})
        for inputs in batch
    ]
    in_json = json.with_data(write_json(json.batch_without_data("x", None).to_dict()), data)
    fields = read_forward_backward(protobuf.encode_forward_backward("m", 1, data, "x", None))[
        "forward_backward_input"
    ]
    for received in (orjson.loads(in_json), fields):
        for example, inputs in zip(
            examples(read(api.ForwardBackwardInput, received), ("data",)), batch, strict=True
        ):
            assert example.tokens.tolist() == [1] * 6
            for name, array in inputs.items():
                assert example.loss_inputs[name].dtype == array.dtype
                np.testing.assert_array_equal(example.loss_inputs[name], _of_length_6(array))


def _of_length_6(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([array, np.zeros((6 - len(array), array.shape[1]), array.dtype)])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": [4]}, "shape"),
        ({"shape": None}, "shape"),
        ({"shape": [2, -1]}, "shape"),
        ({"sparse_crow_indices": [0, 1]}, "sparse_crow_indices"),
        ({"sparse_crow_indices": None}, "sparse_crow_indices"),
        ({"sparse_crow_indices": [0, 2, 1]}, "sparse_crow_indices"),
        ({"sparse_col_indices": [0, 2]}, "sparse_col_indices"),
        ({"sparse_col_indices": [0]}, "sparse_col_indices"),
        ({"dtype": None}, "dtype"),
    ],
)
def test_a_malformed_sparse_tensor_is_422_and_names_the_field(
    change: dict[str, Any], field: str
) -> None:
    tensor = {
        "data": [1.0, 2.0],
        "dtype": "float32",
        "shape": [2, 2],
        "sparse_crow_indices": [0, 1, 2],
        "sparse_col_indices": [0, 1],
    }
    body = {
        "data": [
            {"model_input": {"chunks": []}, "loss_fn_inputs": {"weights": {**tensor, **change}}}
        ],
        "loss_fn": "cross_entropy",
    }
    with pytest.raises(Refused) as caught:
        examples(read(api.ForwardBackwardInput, body), ())
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.detail[0]["loc"][-1] == field


def test_the_sparse_tensors_of_a_batch_are_bounded_together() -> None:
    """Otherwise a megabyte of them could take all of the machine's memory."""
    wide = {
        "data": [],
        "dtype": "int64",
        "shape": [1, 2**24],
        "sparse_crow_indices": [0, 0],
        "sparse_col_indices": [],
    }
    datum = {"model_input": {"chunks": []}, "loss_fn_inputs": {"target_tokens": wide}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="more than 67108864 cells") as caught:
        examples(
            read(api.ForwardBackwardInput, {"data": [datum] * 1000, "loss_fn": "cross_entropy"}), ()
        )
    assert caught.value.detail[0]["loc"] == [
        "body",
        "data",
        4,
        "loss_fn_inputs",
        "target_tokens",
        "shape",
    ]
    # kB: none was made
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_truncated_tensor_in_protobuf_is_422() -> None:
    message = pb.ForwardBackwardRequest(data=[pb.Datum()])
    message.data[0].loss_fn_inputs["weights"].dense = b"12345"
    message.data[0].loss_fn_inputs["weights"].dtype = pb.DTYPE_FLOAT32
    with pytest.raises(Refused, match="5 bytes"):
        read_forward_backward(message.SerializeToString())


@st.composite
def results(draw: st.DrawFn) -> SampleResult:
    rows = st.lists(st.tuples(tokens, logprobs), min_size=1, max_size=3)
    sampled = draw(st.lists(tokens, min_size=1, max_size=4))
    count = len(sampled)
    sequence = SampledTokens(
        sampled,
        draw(st.lists(logprobs, min_size=count, max_size=count)),
        draw(st.sampled_from(["stop", "length"])),
        draw(st.none() | st.lists(rows, min_size=count, max_size=count)),
    )
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 9)))
    numbers = hnp.arrays(np.float32, shape, elements=logprobs)
    return SampleResult(
        [sequence] * draw(st.integers(1, 2)),
        draw(st.none() | st.lists(st.none() | logprobs, min_size=2, max_size=2)),
        draw(st.none() | st.just([None, [(7, -0.5)]])),
        draw(st.none() | numbers),
        draw(st.none() | st.tuples(hnp.arrays(np.int64, shape, elements=tokens), numbers)),
        draw(st.integers(0, 1 << 20)),
    )


@given(results())
def test_a_sample_is_read_as_the_engine_gave_it(result: SampleResult) -> None:
    raw = encode_sample(result, None)
    promise = api.UntypedAPIFuture("r")
    in_protobuf = write_result("sample", orjson.loads(raw))
    assert in_protobuf is not None
    for response in (
        json.decode_sample(orjson.loads(raw), promise, 2),
        protobuf.decode_sample(in_protobuf, promise, 2),
    ):
        for ours, theirs in zip(response.sequences, result.sequences, strict=True):
            assert (ours.tokens, ours.logprobs, ours.stop_reason) == (
                theirs.tokens,
                theirs.logprobs,
                theirs.stop_reason,
            )
            assert ours.topk_logprobs == theirs.topk_logprobs
        assert response.prompt_logprobs == result.prompt_logprobs
        assert response.topk_prompt_logprobs == result.topk_prompt_logprobs
        assert response.prompt_cache_hit_tokens == result.prompt_cache_hit_tokens
        _assert_same(response.target_prompt_logprobs, result.target_prompt_logprobs)
        drawn = response.prompt_alt_tokens
        _assert_same(
            drawn and drawn.tokens, result.prompt_alt_tokens and result.prompt_alt_tokens[0]
        )
        _assert_same(
            drawn and drawn.logprobs, result.prompt_alt_tokens and result.prompt_alt_tokens[1]
        )


def test_logprobs_of_any_shape_are_read_as_the_engine_gave_them() -> None:
    """The message has a record for each run of arrays of one shape. A client reads one list."""
    shapes = [(2,), (3,), (3, 2), (1, 2), (1, 3), (4,)]
    arrays = [np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for shape in shapes]
    in_protobuf = write_loss(
        loss_fields(LossResult([{"logprobs": array} for array in arrays], {"loss:sum": 1.0}))
    )
    raw = encode(result_fields("forward_backward", in_protobuf))
    assert len(pb.ForwardBackwardOutput.FromString(in_protobuf).loss_fn_outputs) == 4
    for output in (
        json.decode_forward_backward(orjson.loads(raw)),
        protobuf.decode_forward_backward(in_protobuf),
    ):
        assert output.metrics == {"loss:sum": 1.0}
        for ours, array in zip(output.loss_fn_outputs, arrays, strict=True):
            _assert_same(ours["logprobs"], array)


def _assert_same(tensor: TensorData | None, array: np.ndarray[Any, Any] | None) -> None:
    assert (tensor is None) == (array is None)
    if tensor is not None and array is not None:
        assert tensor.to_numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.to_numpy(), array)


def test_logprobs_of_sparse_targets_are_as_sparse() -> None:
    asked = api.TensorData([5, 6], "int64", [3, 4], [0, 1, 1, 2], [3, 0])
    target_logprobs = np.zeros((3, 4), np.float32)
    target_logprobs[0, 3], target_logprobs[2, 0] = -1.5, -2.5
    raw = encode_sample(
        SampleResult([SampledTokens([1], [-1.0], "stop")], target_prompt_logprobs=target_logprobs),
        asked,
    )
    in_protobuf, promise = write_result("sample", orjson.loads(raw)), api.UntypedAPIFuture("r")
    assert in_protobuf is not None
    for response in (
        json.decode_sample(orjson.loads(raw), promise, 4),
        protobuf.decode_sample(in_protobuf, promise, 4),
    ):
        tensor = response.target_prompt_logprobs
        assert tensor is not None
        assert tensor.csr is not None
        assert (tensor.data, tensor.dtype) == ([-1.5, -2.5], "float32")
        np.testing.assert_array_equal(tensor.to_numpy(), target_logprobs)
