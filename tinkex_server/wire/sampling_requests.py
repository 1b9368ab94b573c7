"""Requests to sample, from the contract's types to the engine's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tinkex_api import models as api

from tinkex_server.engine.interface import SampleSpec
from tinkex_server.errors import bad_request, malformed
from tinkex_server.wire.tensors import to_array, tokens

_GREEDY_BELOW = 1e-30
"""The temperature at and below which sampling is greedy. Engines divide by the temperature in
32-bit floats, where a smaller one is soon 0.
"""


_NOT_STREAMED = (
    *("prompt_logprobs", "topk_prompt_logprobs", "topk_sample_logprobs"),
    *("target_prompt_logprobs", "prompt_alt_tokens_k", "prompt_logprobs_last_n"),
)


def sample_spec(request: api.SampleRequest) -> SampleSpec:
    """Returns what the engine is to sample. Raises `Refused` for values out of range."""
    params = request.sampling_params
    _check_sample(request)
    strings, stop_tokens = _stops(params.stop)
    prompt = cast("list[int]", tokens(request.prompt, ("prompt",)).tolist())
    return SampleSpec(
        prompt=prompt,
        num_samples=request.num_samples,
        max_tokens=params.max_tokens if isinstance(params.max_tokens, int) else None,
        temperature=params.temperature if params.temperature > _GREEDY_BELOW else 0.0,
        top_k=params.top_k,
        top_p=params.top_p,
        seed=params.seed if isinstance(params.seed, int) else None,
        stop_strings=strings,
        stop_tokens=stop_tokens,
        prompt_logprobs=request.prompt_logprobs,
        topk_prompt_logprobs=request.topk_prompt_logprobs,
        topk_sample_logprobs=_count(request.topk_sample_logprobs, "topk_sample_logprobs"),
        target_prompt_tokens=_targets(request.target_prompt_logprobs, len(prompt)),
        prompt_alt_tokens_k=_count(request.prompt_alt_tokens_k, "prompt_alt_tokens_k"),
        prompt_logprobs_last_n=_last_n(request, len(prompt)),
    )


def check_streamed(request: api.SampleRequest) -> None:
    """Raises `Refused` for what a stream cannot hold: several samples, and scores of the prompt."""
    if request.num_samples != 1:
        raise malformed("num_samples", message="must be 1 for a stream")
    for name in _NOT_STREAMED:
        if getattr(request, name):
            raise bad_request(f"{name} cannot be set for a stream")


def _count(value: int | None, field: str) -> int:
    if (value or 0) < 0:
        raise malformed(field, message="must be 0 or more")
    return value or 0


def _last_n(request: api.SampleRequest, prompt_length: int) -> int | None:
    count = request.prompt_logprobs_last_n
    if count is None:
        return None
    if not 1 <= count < prompt_length or not request.prompt_logprobs:
        raise malformed(
            "prompt_logprobs_last_n",
            message=f"must be 1 to {prompt_length - 1}, and needs prompt_logprobs",
        )
    return count


def _targets(tensor: api.TensorData | None, prompt_length: int) -> NDArray[np.int64] | None:
    """Returns the tokens whose logprobs are asked for at each position of the prompt but the first,
    shape `(prompt_length - 1, K)`. -1 stands for no token.
    """
    if tensor is None:
        return None
    at = ("target_prompt_logprobs",)
    targets = to_array(tensor, at, pad=-1)
    if targets.dtype != np.int64 or targets.ndim != 2 or len(targets) != prompt_length - 1:
        raise malformed(
            *at,
            message=(
                f"must be int64 of shape [{prompt_length - 1}, K]: one row for each token of the "
                "prompt but the first"
            ),
        )
    return targets.astype(np.int64, copy=False)


def _check_sample(request: api.SampleRequest) -> None:
    params = request.sampling_params
    if request.num_samples < 1:
        raise malformed("num_samples", message="must be 1 or more")
    if isinstance(params.max_tokens, int) and params.max_tokens < 1:
        raise malformed("sampling_params", "max_tokens", message="must be 1 or more")
    if not 0 <= params.temperature < math.inf:
        raise malformed("sampling_params", "temperature", message="must be 0 or more, and finite")
    if params.top_k < -1:
        raise malformed(
            "sampling_params", "top_k", message="must be -1 or more; -1 and 0 turn it off"
        )
    if not 0 < params.top_p <= 1:
        raise malformed("sampling_params", "top_p", message="must be above 0, and at most 1")
    _count(request.topk_prompt_logprobs, "topk_prompt_logprobs")


def _stops(stop: Any) -> tuple[Sequence[str] | None, Sequence[int] | None]:
    """Returns the stop strings and the stop tokens.

    Both are None if there is no `stop`, so that the model's own stop token is used. An empty list
    turns that off.
    """
    if stop is None:
        return None, None
    values = cast("list[Any]", stop) if isinstance(stop, list) else [stop]
    if all(isinstance(value, str) and value for value in values):
        return values, []
    if all(type(value) is int for value in values):
        return [], values
    raise malformed(
        "sampling_params",
        "stop",
        message="must be a string, a list of strings, or a list of token ids",
    )
