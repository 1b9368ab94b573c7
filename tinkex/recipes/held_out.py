"""Evaluation on held-out data: the loss per token, and the score of greedy answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from tinkex import (
    APIResponseValidationError,
    Datum,
    ForwardBackwardOutput,
    SamplingClient,
    Tokenizer,
    TrainingClient,
)
from tinkex.data import Example, PromptRow
from tinkex.recipes.scoring import Scorer, scored

T = TypeVar("T")
_BATCH = 16  # examples a request


def chunks(rows: Sequence[T], size: int = _BATCH) -> Iterator[Sequence[T]]:
    """Yields the rows in groups of `size`; the last one may be smaller."""
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def loss_per_token(data: Iterable[Datum], outputs: Iterable[ForwardBackwardOutput]) -> float:
    """Returns the cross entropy of the targets in nats per token, by their weights.

    It is computed from the logprobs, since servers differ in the metrics that they send.
    """
    total = weight = 0.0
    values = (values for output in outputs for values in output.loss_fn_outputs)
    for datum, found in zip(data, values, strict=True):
        if "logprobs" not in found:
            raise APIResponseValidationError("the server sent no logprobs of the targets")
        weights = np.asarray(datum.loss_fn_inputs["weights"].to_numpy(), np.float64)
        total -= float(weights @ np.asarray(found["logprobs"].to_numpy(), np.float64))
        weight += float(weights.sum())
    return total / weight


def trainer_loss(trainer: TrainingClient, examples: Sequence[Example]) -> float:
    """Returns the loss per token of a model in training."""
    data = [example.datum() for example in examples]
    passes = [trainer.forward(part, "cross_entropy") for part in chunks(data)]
    return loss_per_token(data, [each.result() for each in passes])


def sampler_loss(sampler: SamplingClient, examples: Sequence[Example]) -> float:
    """Returns the loss per token of weights for sampling, or of a base model."""
    scoring = [sampler.compute_logprobs(example.tokens) for example in examples]
    total = weight = 0.0
    for example, future in zip(examples, scoring, strict=True):
        logprobs = np.array(future.result()[1:], np.float64)
        weights = example.weights[1:].astype(np.float64)
        total -= float(weights @ logprobs)
        weight += float(weights.sum())
    return total / weight


def greedy_answers(
    sampler: SamplingClient,
    tokenizer: Tokenizer,
    prompts: Sequence[PromptRow],
    max_tokens: int,
    stop: Sequence[str],
) -> Iterator[tuple[PromptRow, str]]:
    """Yields each prompt with the likeliest answer of the model."""
    params = {"max_tokens": max_tokens, "temperature": 0.0, "stop": list(stop) or None}
    items = sampler.sample_many([prompt.tokens for prompt in prompts], 1, params)
    for prompt, item in zip(prompts, items, strict=True):
        yield prompt, tokenizer.decode(item.result().sequences[0].tokens_np)


def mean_score(
    scorer: Scorer,
    sampler: SamplingClient,
    tokenizer: Tokenizer,
    prompts: Sequence[PromptRow],
    max_tokens: int,
    stop: Sequence[str],
) -> float:
    """Returns the mean score of the likeliest answers."""
    answers = greedy_answers(sampler, tokenizer, prompts, max_tokens, stop)
    return sum(scored(scorer, prompt, answer) for prompt, answer in answers) / len(prompts)
