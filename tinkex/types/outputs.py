"""The results of training and sampling, with numpy arrays; their plain lists are made on first
access.
"""

from __future__ import annotations

import html
import reprlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray
from tinkex_api.models import OptimStepResponse
from tinkex_api.types import html_table

from tinkex.types.as_dataclass import as_dataclass
from tinkex.types.tensor import TensorData
from tinkex.types.topk import TopkLogprobs, TopkRows

if TYPE_CHECKING:
    from tinkex.tokenizer import Tokenizer

LossFnOutput = Mapping[str, TensorData]
"""The arrays of one datum by name: usually `logprobs` `(N,)`, and with some loss functions
`elementwise_loss` `(N,)`.
"""


_SHOWN = 4
"""The most sequences in a repr."""
_EXTRAS = (
    *("prompt_logprobs_np", "topk_prompt_logprobs_np", "target_prompt_logprobs"),
    "prompt_alt_tokens",
)
"""The parts of a response that are only there on request."""


@as_dataclass
@frozen(repr=False)
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

    def __repr__(self) -> str:
        """Returns the metrics, and which arrays there are for how many datums."""
        names = sorted({name for output in self.loss_fn_outputs for name in output})
        count = len(self.loss_fn_outputs)
        arrays = f"{', '.join(names) or 'no arrays'} of {count} datum{'s'[: count != 1]}"
        return f"ForwardBackwardOutput(metrics={dict(self.metrics)}, loss_fn_outputs=<{arrays}>)"

    def _repr_html_(self) -> str:
        """Returns the metrics as a table of HTML, for notebooks."""
        count = len(self.loss_fn_outputs)
        caption = f"ForwardBackwardOutput of {count} datum{'s'[: count != 1]}"
        return html_table(("metric", "value"), list(self.metrics.items()), caption)


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
@frozen(eq=False, repr=False)
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

    def __repr__(self) -> str:
        return self.shown(None)

    def _repr_html_(self) -> str:
        """Returns the tokens on colors by their probability, for notebooks."""
        return f"<div>{self.shown_html(None)}</div>"

    def shown(self, tokenizer: Tokenizer | None) -> str:
        """Returns the repr, with the text if there is a tokenizer."""
        text = "" if tokenizer is None else f"text={reprlib.repr(tokenizer.decode(self.tokens))}, "
        tokens = reprlib.repr(self.tokens)
        return f"SampledSequence({text}tokens={tokens}, stop_reason={self.stop_reason!r})"

    def shown_html(self, tokenizer: Tokenizer | None) -> str:
        """Returns the tokens as HTML: their texts if there is a tokenizer, else their ids."""
        from tinkex.display.token_colors import tokens_as_html

        if tokenizer is None:
            texts = [f"{token} " for token in self.tokens]
        else:
            decoder = tokenizer.stream_decoder()
            texts = [decoder.push(token) for token in self.tokens]
        return f"{tokens_as_html(texts, self.logprobs)} <em>({html.escape(self.stop_reason)})</em>"

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
@frozen(eq=False, repr=False)
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
    base_model: str | None = field(init=False, default=None)
    """The name of the base model, if the sampling client knows it."""

    def __repr__(self) -> str:
        """Returns the sequences, with their texts if the tokenizer is loaded, and other parts."""
        tokenizer = self._tokenizer()
        shown = [one.shown(tokenizer) for one in self.sequences[:_SHOWN]]
        if len(self.sequences) > _SHOWN:
            shown.append(f"… {len(self.sequences) - _SHOWN} more")
        also = "".join(f", {name}=…" for name in _EXTRAS if getattr(self, name) is not None)
        return f"SampleResponse([{', '.join(shown)}]{also})"

    def _repr_html_(self) -> str:
        """Returns the sequences on colors by their tokens' probability, for notebooks. Texts are
        shown if the tokenizer is loaded.
        """
        tokenizer = self._tokenizer()
        return "".join(
            f"<div style='white-space:pre-wrap'>{one.shown_html(tokenizer)}</div>"
            for one in self.sequences
        )

    def _tokenizer(self) -> Tokenizer | None:
        if self.base_model is None:
            return None
        from tinkex.tokenizer import known_tokenizer  # here, for the import time of the types

        return known_tokenizer(self.base_model)

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
