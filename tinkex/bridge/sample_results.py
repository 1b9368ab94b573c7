"""Converts samples to the JSON in which the bridge keeps results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinkex.types import SampledSequence, SampleResponse, TensorData, TopkLogprobs
from tinkex_server.wire.json import encode as encode_json

_STOP_REASONS = ("stop", "length")


def encode(response: SampleResponse) -> bytes:
    """Returns the JSON of a response. Parts that the server did not send are left out."""
    fields: dict[str, Any] = {
        "type": "sample",
        "sequences": [_sequence(sequence) for sequence in response.sequences],
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
    }
    if response.prompt_logprobs_np is not None:
        fields["prompt_logprobs"] = _with_nulls(response.prompt_logprobs_np)
    if response.topk_prompt_logprobs_np is not None:
        fields["topk_prompt_logprobs"] = _rows(response.topk_prompt_logprobs_np)
    if response.target_prompt_logprobs is not None:
        fields["target_prompt_logprobs"] = _tensor(response.target_prompt_logprobs)
    if response.prompt_alt_tokens is not None:
        drawn = response.prompt_alt_tokens
        fields["prompt_alt_tokens"] = {
            "tokens": _tensor(drawn.tokens),
            "logprobs": _tensor(drawn.logprobs),
        }
    return encode_json(fields)


def _sequence(sequence: SampledSequence) -> Mapping[str, Any]:
    """Returns the fields of a sequence. A word that clients do not know as the reason of its end
    becomes "stop".
    """
    reason = sequence.stop_reason
    fields: dict[str, Any] = {
        "tokens": sequence.tokens_np,
        # the official client wants a logprob for each token, and takes null for NaN
        "logprobs": sequence.logprobs_np
        if sequence.logprobs_np is not None
        else [None] * len(sequence.tokens_np),
        "stop_reason": reason if reason in _STOP_REASONS else "stop",
    }
    if sequence.topk_logprobs_np is not None:
        fields["topk_sampled_logprobs"] = _rows(sequence.topk_logprobs_np)
    return fields


def _with_nulls(logprobs: NDArray[np.float32]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in logprobs.tolist()]


def _rows(table: TopkLogprobs) -> Any:
    return table.to_rows()


def _tensor(tensor: TensorData) -> Mapping[str, Any]:
    fields: dict[str, Any] = {
        "data": tensor.values.ravel(),
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
    }
    if tensor.csr is not None:
        _, fields["sparse_crow_indices"], fields["sparse_col_indices"] = tensor.csr
    return fields
