"""The result of a loss can be read whatever fields a server omits or adds: rule 17 of the servers'
differences.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tinkex.training.metrics import combine
from tinkex.wire.json import decode_forward_backward

TENSOR = {"data": [-1.5, -2.5], "dtype": "float32", "shape": [2]}


@pytest.mark.rule(17)
@pytest.mark.parametrize(
    ("tensor", "dtype", "expected"),
    [
        (TENSOR, "float32", [-1.5, -2.5]),
        ({"data": [-1.5, 0]}, "float32", [-1.5, 0.0]),
        ({"data": [0, 0], "dtype": None, "shape": None}, "float32", [0.0, 0.0]),
        ({"data": [1, 2, 3, 4], "dtype": "int32", "shape": [2, 2]}, "int64", [[1, 2], [3, 4]]),
        ({"data": [0.5], "dtype": "bfloat16", "shape": []}, "float32", [0.5]),
        ({"data": [2.0], "dtype": "float32", "shape": [2, 2],
          "sparse_crow_indices": [0, 0, 1], "sparse_col_indices": [1]},
         "float32", [[0.0, 0.0], [0.0, 2.0]]),
    ],
    ids=["whole", "bare", "nulls", "int32", "one value", "sparse"],
)  # fmt: skip
def test_a_tensor_may_lack_dtype_and_shape(
    tensor: dict[str, Any], dtype: str, expected: list[Any]
) -> None:
    [output] = decode_forward_backward({"loss_fn_outputs": [{"logprobs": tensor}]}).loss_fn_outputs
    assert (output["logprobs"].dtype, output["logprobs"].tolist()) == (dtype, expected)


@pytest.mark.rule(17)
def test_null_stands_for_nan() -> None:
    result = {
        "loss_fn_outputs": [{"logprobs": {**TENSOR, "data": [None, -2.5]}}],
        "metrics": {"loss:sum": None, "n": 3},
    }
    output = decode_forward_backward(result)
    np.testing.assert_array_equal(
        output.loss_fn_outputs[0]["logprobs"].to_numpy(), np.array([np.nan, -2.5], np.float32)
    )
    assert math.isnan(output.metrics["loss:sum"])
    assert output.metrics["n"] == 3


@pytest.mark.rule(17)
def test_outputs_beyond_logprobs_and_metrics_without_a_reduction_are_kept() -> None:
    loss = {"data": [4.0], "dtype": "float32", "shape": [1]}
    result = {
        "loss_fn_outputs": [{"logprobs": TENSOR, "elementwise_loss": TENSOR, "loss:sum": loss}],
        "metrics": {"loss:sum": 4.0, "step": 7, "skyrl.ai/grad_norm": 0.5},
        "type": "forward_backward",
    }
    output = decode_forward_backward(result)
    assert output.loss_fn_outputs[0].keys() == {"logprobs", "elementwise_loss", "loss:sum"}
    assert output.loss_fn_outputs[0]["loss:sum"].tolist() == [4.0]
    assert output.metrics == result["metrics"]
    assert output.additional_properties == {"type": "forward_backward"}
    assert combine([output, output]).additional_properties == {"type": "forward_backward"}


@pytest.mark.rule(17)
@pytest.mark.parametrize("metrics", [{}, {"metrics": None}, {"metrics": {}}])
def test_metrics_and_outputs_may_be_missing(metrics: dict[str, Any]) -> None:
    output = decode_forward_backward({"loss_fn_outputs": [], **metrics})
    assert (output.loss_fn_outputs, output.metrics, output.loss_fn_output_type) == ([], {}, "")


@pytest.mark.parametrize(
    "tensor",
    [
        {"data": [1.0, 2.0], "shape": [3]},
        {
            "data": [1.0],
            "shape": [2, 2],
            "sparse_crow_indices": [0, 0, 2],
            "sparse_col_indices": [0],
        },
        {"data": [1.0], "sparse_crow_indices": [0, 1], "sparse_col_indices": [0]},
        {"data": [[1.0], [2.0, 3.0]]},
    ],
)
def test_an_invalid_tensor_is_an_error(tensor: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_forward_backward({"loss_fn_outputs": [{"logprobs": tensor}]})
