"""What training and sampling give back: arrays as numpy, with plain-list views where the official SDK has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from tinkex_api.models import OptimStepResponse

from tinkex.types.tensor import TensorData

LossFnOutput = Mapping[str, TensorData]
"""Arrays by name for one datum: usually `logprobs` `(N,)`, maybe `elementwise_loss` `(N,)`."""


@frozen
class ForwardBackwardOutput:
    """The result of `forward` and `forward_backward`.

    `loss_fn_outputs` holds one mapping a datum, in the order given. `metrics` are named `name:reduction`, and are already
    reduced over the requests that a large batch was split into; `loss:sum` is the loss.
    """

    loss_fn_output_type: str
    loss_fn_outputs: Sequence[LossFnOutput]
    metrics: Mapping[str, float] = field(factory=dict[str, float])


@frozen
class TrainStepOutput:
    """The results of `train_step`: those of its `forward_backward` and of its `optim_step`."""

    forward_backward: ForwardBackwardOutput
    optim_step: OptimStepResponse


@frozen(eq=False)
class SampledSequence:
    """One sampled sequence of M tokens. `stop_reason` is `"stop"` or `"length"` on the servers that are known."""

    tokens_np: NDArray[np.int64]
    """`(M,)`"""
    stop_reason: str
    logprobs_np: NDArray[np.float32] | None = None
    """`(M,)`, or None where the server gives none."""
    sequence_id: str = ""

    @property
    def tokens(self) -> list[int]:
        return self.tokens_np.tolist()

    @property
    def logprobs(self) -> list[float] | None:
        return None if self.logprobs_np is None else self.logprobs_np.tolist()


@frozen
class SampleResponse:
    """The result of `sample`: `[num_samples]` sequences, and what was asked about the prompt of N tokens.

    `prompt_logprobs` is `(N,)`: None where there is no logprob, as for the first token. `topk_prompt_logprobs` is `(N,)` too,
    each item the `(token, logprob)` pairs of the likeliest tokens, best first.
    """

    sequences: Sequence[SampledSequence]
    prompt_logprobs: Sequence[float | None] | None = None
    topk_prompt_logprobs: Sequence[Sequence[tuple[int, float]] | None] | None = None
    prompt_cache_hit_tokens: int = 0
