"""The results of training and sampling, with numpy arrays; their plain lists are made on first
access.
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
"""The arrays of one datum by name: usually `logprobs` `(N,)`, and with some loss functions
`elementwise_loss` `(N,)`.
"""


@as_dataclass
@frozen
class ForwardBackwardOutput:
    """The result of `forward` and `forward_backward`.

    `loss_fn_outputs` has one mapping per datum, in the order of the data. The names of `metrics`
    have the form `name:reduction`; `loss:sum` is the loss. They are already reduced over the
    requests that a large batch was split into.

    Example:
        output = trainer.forward_backward(data, "cross_entropy").result()
        loss = output.metrics["loss:sum"]
        logprobs = output.loss_fn_outputs[0]["logprobs"].to_numpy()  # float32 (N,)
    """

    loss_fn_output_type: str
    loss_fn_outputs: Sequence[LossFnOutput]
    metrics: Mapping[str, float] = field(factory=dict[str, float])
    additional_properties: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields that only this server sends."""


@as_dataclass
@frozen
class TrainStepOutput:
    """The results of `train_step`: those of its `forward_backward` and of its `optim_step`.

    Example:
        step = trainer.train_step(data, "cross_entropy", AdamParams(learning_rate=1e-4))
        results = step.result()
        print(results.forward_backward.metrics["loss:sum"])
        print(results.optim_step.metrics)
    """

    forward_backward: ForwardBackwardOutput
    optim_step: OptimStepResponse


@as_dataclass
@frozen(eq=False)
class SampledSequence:
    """One sampled sequence of M tokens.

    `stop_reason` is `"stop"`, `"length"`, or another word that the server uses.

    Example:
        response = sampler.sample([1, 2, 3], sampling_params={"max_tokens": 8}).result()
        sequence = response.sequences[0]
        print(sequence.tokens_np, sequence.logprobs_np)  # int64 and float32, (M,)
        finished = sequence.stop_reason == "stop"
    """

    stop_reason: str
    sequence_id: str
    tokens_np: NDArray[np.int64]
    """The token ids, int64 `(M,)`."""
    logprobs_np: NDArray[np.float32] | None = None
    """The logprob of each token, float32 `(M,)`; None if the server sends none."""
    topk_logprobs_np: TopkLogprobs | None = None
    """The K likeliest tokens at each position `(M, K)`, if `topk_sample_logprobs` was requested."""
    additional_properties: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields that only this server sends."""

    @cached_property
    def tokens(self) -> list[int]:
        """The token ids as a list."""
        return self.tokens_np.tolist()

    @cached_property
    def logprobs(self) -> list[float] | None:
        """The logprob of each token as a list; None if the server sends none."""
        return None if self.logprobs_np is None else self.logprobs_np.tolist()

    @cached_property
    def topk_logprobs(self) -> TopkRows | None:
        """The likeliest `(token, logprob)` pairs at each position, likeliest first."""
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.to_rows()


@as_dataclass
@frozen(eq=False)
class PromptAltTokens:
    """Tokens that the model drew in place of the prompt's tokens, k for each position.

    They are drawn with replacement, at the request's temperature. Row i belongs to position i + 1
    of the prompt's N; the first position has none.

    Example:
        params = {"max_tokens": 1}
        response = sampler.sample([1, 2, 3], 1, params, prompt_alt_tokens_k=4).result()
        drawn = response.prompt_alt_tokens.tokens.to_numpy()  # int64 (2, 4)
    """

    tokens: TensorData
    """int64 `(N - 1, k)`"""
    logprobs: TensorData
    """float32 `(N - 1, k)`"""


@as_dataclass
@frozen(eq=False)
class SampleResponse:
    """The result of `sample`: `num_samples` sequences, and the requested logprobs of the prompt of
    N tokens.

    Example:
        response = sampler.sample([1, 2, 3], sampling_params={"max_tokens": 8}).result()
        for sequence in response.sequences:
            print(sequence.tokens, sequence.logprobs, sequence.stop_reason)
    """

    sequences: Sequence[SampledSequence]
    prompt_logprobs_np: NDArray[np.float32] | None = None
    """The logprob of each prompt token, float32 `(N,)`; NaN where there is none, as for the first
    token.
    """
    topk_prompt_logprobs_np: TopkLogprobs | None = None
    """The K likeliest tokens at each position of the prompt `(N, K)`."""
    target_prompt_logprobs: TensorData | None = None
    """The logprobs of the requested target tokens, float32 `(N - 1, K)`; sparse if the targets
    were, and 0 where there was no target.
    """
    prompt_cache_hit_tokens: int = 0
    """The number of prompt tokens that the server took from its cache."""
    prompt_alt_tokens: PromptAltTokens | None = None
    """Alternatives to the prompt's tokens, if they were requested."""
    additional_properties: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Fields that only this server sends."""

    @cached_property
    def prompt_logprobs(self) -> list[float | None] | None:
        """The logprob of each prompt token; None where there is none, as for the first token."""
        return None if self.prompt_logprobs_np is None else _none_for_nan(self.prompt_logprobs_np)

    @cached_property
    def topk_prompt_logprobs(self) -> TopkRows | None:
        """The `(token, logprob)` pairs of the likeliest tokens at each position of the prompt,
        likeliest first; None for the first position.
        """
        return (
            None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.to_rows()
        )


def _none_for_nan(values: NDArray[np.float32]) -> list[float | None]:
    numbers: list[float | None] = values.tolist()
    for index in np.flatnonzero(np.isnan(values)):
        numbers[index] = None
    return numbers
