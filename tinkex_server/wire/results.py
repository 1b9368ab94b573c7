"""Results of training and sampling, from the engine's types to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray
from tinkex_api import models as api

from tinkex_server.engine.interface import LossResult, SampledTokens, SampleResult
from tinkex_server.wire.json import encode
from tinkex_server.wire.tensors import csr_cells, tensor_data


def loss_fields(result: LossResult) -> dict[str, Any]:
    """Returns the fields of a ForwardBackwardOutput, with arrays in place of its long lists."""
    output = api.ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord",
        loss_fn_outputs=[_outputs(arrays) for arrays in result.loss_fn_outputs],
        metrics=api.Metrics.from_dict(result.metrics),
    )
    return output.to_dict()


def _outputs(arrays: Mapping[str, NDArray[np.float32]]) -> api.LossFnInputs:
    outputs = api.LossFnInputs()
    for name, array in arrays.items():
        outputs[name] = tensor_data(array, "float32")
    return outputs


def encode_sample(result: SampleResult, targets: api.TensorData | None) -> bytes:
    """Returns the JSON of a SampleResponse.

    `targets` are the tokens whose logprobs the request asked for. Their logprobs get the same
    layout, dense or sparse.
    """
    response = api.SampleResponse(
        [_sequence(sequence) for sequence in result.sequences],
        prompt_cache_hit_tokens=result.prompt_cache_hit_tokens,
    )
    if result.prompt_logprobs is not None:
        response.prompt_logprobs = list(result.prompt_logprobs)
    response.topk_prompt_logprobs = _pairs(result.topk_prompt_logprobs)
    if result.target_prompt_logprobs is not None:
        response.target_prompt_logprobs = _laid_out_as(targets, result.target_prompt_logprobs)
    if result.prompt_alt_tokens is not None:
        alternatives, logprobs = result.prompt_alt_tokens
        response.prompt_alt_tokens = api.PromptAltTokens(
            tensor_data(alternatives, "int64"), tensor_data(logprobs, "float32")
        )
    return encode(response.to_dict())


def _sequence(sequence: SampledTokens) -> api.SampledSequence:
    top = _pairs(sequence.topk_logprobs)
    return api.SampledSequence(
        list(sequence.tokens),
        list(sequence.logprobs),
        sequence.stop_reason,
        topk_sampled_logprobs=top,
    )


def _pairs(
    rows: Sequence[Sequence[tuple[int, float]] | None] | None,
) -> list[list[list[float]] | None] | None:
    if rows is None:
        return None
    return [None if row is None else [[token, logprob] for token, logprob in row] for row in rows]


def _laid_out_as(targets: api.TensorData | None, logprobs: NDArray[np.float32]) -> api.TensorData:
    """Returns the logprobs as a tensor of the same layout as `targets`."""
    if targets is None or targets.sparse_crow_indices is None:
        return tensor_data(logprobs, "float32")
    cells = logprobs[csr_cells(len(targets.data), targets, ("target_prompt_logprobs",))]
    return evolve(targets, data=np.ascontiguousarray(cells, np.float32), dtype="float32")
