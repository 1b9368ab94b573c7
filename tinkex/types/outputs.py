"""What training and sampling give back: arrays as numpy, with plain-list views, made when they are
first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from tinkex_api.models import OptimStepResponse

from tinkex.types.as_dataclass import as_dataclass
from tinkex.types.tensor import TensorData
from tinkex.types.topk import TopkLogprobs, TopkRows

LossFnOutput = Mapping[str, TensorData]
"""Arrays by name for one datum: usually `logprobs` `(N,)`, maybe `elementwise_loss` `(N,)`."""


@as_dataclass
@frozen
class ForwardBackwardOutput:
    """The result of `forward` and `forward_backward`.

    `loss_fn_outputs` holds one mapping a datum, in the order given. `metrics` are named
    `name:reduction`, and are already reduced over the requests that a large batch was split into;
    `loss:sum` is the loss.
    """

    loss_fn_output_type: str
    loss_fn_outputs: Sequence[LossFnOutput]
    metrics: Mapping[str, float] = field(factory=dict[str, float])
    additional_properties: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields of the server's own."""


@as_dataclass
@frozen
class TrainStepOutput:
    """The results of `train_step`: those of its `forward_backward` and of its `optim_step`."""

    forward_backward: ForwardBackwardOutput
    optim_step: OptimStepResponse


@as_dataclass
@frozen(eq=False)
class SampledSequence:
    """One sampled sequence of M tokens. `stop_reason` is `"stop"` or `"length"`, or another word of
    the server's.
    """

    stop_reason: str
    sequence_id: str
    tokens_np: NDArray[np.int64]
    """`(M,)`"""
    logprobs_np: NDArray[np.float32] | None = None
    """`(M,)`, or None where the server gives none."""
    topk_logprobs_np: TopkLogprobs | None = None
    """`(M, K)`, where `topk_sample_logprobs` was asked for."""
    additional_properties: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields of the server's own."""

    @cached_property
    def tokens(self) -> list[int]:
        """`(M,)`"""
        return self.tokens_np.tolist()

    @cached_property
    def logprobs(self) -> list[float] | None:
        """`(M,)`"""
        return None if self.logprobs_np is None else self.logprobs_np.tolist()

    @cached_property
    def topk_logprobs(self) -> TopkRows | None:
        """For each token the `(token, logprob)` pairs of the likeliest ones, best first."""
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.to_rows()


@as_dataclass
@frozen(eq=False)
class PromptAltTokens:
    """Tokens drawn at the prompt's positions but the first, with replacement and at the request's
    temperature.

    Row i stands for position i + 1 of the prompt's N.
    """

    tokens: TensorData
    """int64 `(N - 1, k)`"""
    logprobs: TensorData
    """float32 `(N - 1, k)`"""


@as_dataclass
@frozen(eq=False)
class SampleResponse:
    """The result of `sample`: `[num_samples]` sequences, and what was asked about the prompt of N
    tokens.
    """

    sequences: Sequence[SampledSequence]
    prompt_logprobs_np: NDArray[np.float32] | None = None
    """`(N,)`: NaN where there is no logprob, as for the first token."""
    topk_prompt_logprobs_np: TopkLogprobs | None = None
    """`(N, K)`"""
    target_prompt_logprobs: TensorData | None = None
    """The logprobs of the target tokens asked about, float32 `(N - 1, K)`, sparse where those were;
    0 where there was none.
    """
    prompt_cache_hit_tokens: int = 0
    """Tokens of the prompt that were not computed anew."""
    prompt_alt_tokens: PromptAltTokens | None = None
    additional_properties: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields of the server's own."""

    @cached_property
    def prompt_logprobs(self) -> list[float | None] | None:
        """`(N,)`: None where there is no logprob, as for the first token."""
        return None if self.prompt_logprobs_np is None else _none_for_nan(self.prompt_logprobs_np)

    @cached_property
    def topk_prompt_logprobs(self) -> TopkRows | None:
        """`(N,)`: for each token the `(token, logprob)` pairs of the likeliest ones, best first;
        None for the first token.
        """
        return (
            None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.to_rows()
        )


def _none_for_nan(values: NDArray[np.float32]) -> list[float | None]:
    numbers: list[float | None] = values.tolist()
    for index in np.flatnonzero(np.isnan(values)):
        numbers[index] = None
    return numbers
