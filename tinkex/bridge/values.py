"""Converts what clients of the bridge send to the types of this package, and its results back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tinkex_api import models as api

from tinkex.errors import InvalidInputError
from tinkex.types import (
    AdamParams,
    Datum,
    DimuonParams,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
    SgdParams,
    TensorData,
)
from tinkex.wire import json

_REDUCTIONS = frozenset({"mean", "sum", "min", "max", "slack", "hash2", "unique"})
"""The reductions that the official client knows. It fails at the name of a metric without exactly
one colon, and drops a metric with another reduction.
"""


def model_input(value: api.ModelInput) -> ModelInput:
    """Returns a prompt or a training text. Raises `InvalidInputError`."""
    return ModelInput([_chunk(chunk) for chunk in value.chunks])


def _chunk(chunk: api.ModelInputChunk) -> ModelInputChunk:
    match chunk.type:
        case "encoded_text":
            return EncodedTextChunk(_given(chunk.tokens, "tokens"))
        case "image":
            return ImageChunk(
                _given(chunk.data, "data"), _given(chunk.format, "format"), chunk.expected_tokens
            )
        case "image_asset_pointer":
            return ImageAssetPointerChunk(
                _given(chunk.location, "location"),
                _given(chunk.format, "format"),
                chunk.expected_tokens,
            )
        case "dmel":
            return DmelChunk(_given(chunk.dmel, "dmel"))
        case other:
            raise InvalidInputError(f"a chunk of the type {other!r} is not known here")


def _given(value: Any, field: str) -> Any:
    if value is None:
        raise InvalidInputError(f"a chunk lacks {field!r}")
    return value


def data(batch: api.ForwardBackwardInput) -> list[Datum]:
    """Returns the data of a batch. Raises `InvalidInputError`."""
    return [
        Datum(
            model_input(datum.model_input),
            {
                name: tensor(f"loss_fn_inputs[{name!r}]", value)
                for name, value in datum.loss_fn_inputs.items()
            },
        )
        for datum in batch.data
    ]


def tensor(field: str, value: api.TensorData) -> TensorData:
    """Returns the array of a field. Raises `InvalidInputError`."""
    try:
        return json.decode_tensor(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{field} is no array: {error}") from error


def loss_settings(batch: api.ForwardBackwardInput) -> Mapping[str, Any] | None:
    """Returns the settings of the loss, if there are any."""
    return dict(batch.loss_fn_config) if batch.loss_fn_config else None


def optimizer_settings(body: api.OptimStepRequest) -> AdamParams | DimuonParams | SgdParams:
    """Returns the settings of a step. Raises `InvalidInputError` unless there are those of one
    optimizer.
    """
    given = [
        params
        for params in (body.adam_params, body.optimizer_params, body.sgd_params)
        if params is not None
    ]
    if len(given) != 1:
        raise InvalidInputError(
            "exactly one of adam_params, optimizer_params and sgd_params is needed"
        )
    return given[0]


def token_count(data: Sequence[Datum]) -> int:
    """Returns the number of text tokens in a batch."""
    return sum(
        chunk.length
        for datum in data
        for chunk in datum.model_input.chunks
        if isinstance(chunk, EncodedTextChunk)
    )


def trained_count(data: Sequence[Datum]) -> int:
    """Returns the number of tokens that the loss is over: those with a weight other than 0, and all
    targets of data without weights.
    """
    return sum(_trained(datum.loss_fn_inputs) for datum in data)


def _trained(inputs: Mapping[str, TensorData]) -> int:
    weights = inputs.get("weights", inputs.get("target_tokens"))
    if weights is None:
        return 0
    return int(np.count_nonzero(weights.to_numpy()) if "weights" in inputs else weights.values.size)


def output_fields(output: ForwardBackwardOutput, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Returns the fields of a result of training, with arrays in place of long lists."""
    return {
        "loss_fn_output_type": output.loss_fn_output_type,
        "loss_fn_outputs": [
            {name: _array_fields(tensor) for name, tensor in outputs.items()}
            for outputs in output.loss_fn_outputs
        ],
        "metrics": {metric_name(name): value for name, value in metrics.items()},
    }


def _array_fields(tensor: TensorData) -> dict[str, Any]:
    array = tensor.to_numpy()
    return {"data": array.ravel(), "dtype": "float32", "shape": list(array.shape)}


def metric_name(name: str) -> str:
    """Returns the name of a metric in the form `name:reduction`, which the official client needs.

    Example:
        >>> metric_name("pg_loss:last")
        'pg_loss/last:mean'
    """
    rest, _, reduction = name.rpartition(":")
    if rest and ":" not in rest and reduction in _REDUCTIONS:
        return name
    return f"{name.replace(':', '/')}:mean"


def with_loss(
    batch: Sequence[Datum], loss_fn: str, output: ForwardBackwardOutput
) -> Mapping[str, float]:
    """Returns the metrics, with `loss:sum` of a cross-entropy where the server does not tell it:
    the sum of the weighted negative logprobs, in nats.
    """
    metrics = dict(output.metrics)
    if "loss:sum" in metrics or loss_fn != "cross_entropy":
        return metrics
    total = 0.0
    for datum, outputs in zip(batch, output.loss_fn_outputs, strict=False):
        if "logprobs" not in outputs:
            return metrics
        logprobs = np.asarray(outputs["logprobs"].to_numpy(), np.float64)
        if "weights" in datum.loss_fn_inputs:
            logprobs = logprobs * np.asarray(datum.loss_fn_inputs["weights"].to_numpy(), np.float64)
        total -= float(np.sum(logprobs))
    return {**metrics, "loss:sum": total} if math.isfinite(total) else metrics
