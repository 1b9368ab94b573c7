"""Regularizers of the probabilities, alone or compared with others.

They sum over the targets, so they are exact if the targets are the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from tinkex.regularizers.terms import (
    Counted,
    Reduction,
    Reference,
    Regularizer,
    check_choice,
    counted,
    references,
)
from tinkex.types import Datum


def entropy(
    mode: Literal["minimize", "maximize"] = "minimize", *, reduction: Reduction = "mean"
) -> Regularizer:
    """Returns the targets' share of the entropy in nats, `-p · log p`, as a regularizer.

    With one target a position it is largest at p = 1/e, not at p = 1/vocabulary. Give the likeliest
    tokens as targets `(N, K)` for an approximation of the entropy.

    Args:
        mode: `"minimize"` lowers the entropy; `"maximize"` raises it, by the opposite sign.
        reduction: `"mean"` over the positions that count, or `"sum"`.
    """
    check_choice("mode", mode, ("minimize", "maximize"))
    check_choice("reduction", reduction, ("mean", "sum"))
    sign = 1.0 if mode == "maximize" else -1.0

    def regularizer(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
        counting = counted(data, logprobs)
        return counting.reduce(sign * counting.values.exp() * counting.values, reduction)

    return regularizer


def kl_divergence(
    reference: Reference,
    direction: Literal["forward", "reverse", "symmetric"] = "forward",
    *,
    reduction: Reduction = "mean",
) -> Regularizer:
    """Returns the divergence of the model's probabilities p from a reference's q, in nats.

    The terms are `p · log(p/q) - p + q`. Over a whole vocabulary, `-p + q` sums to 0. With fewer
    targets it keeps each term at 0 or above, and at 0 only for p = q, so that the model
    approaches the reference and does not go past it.

    Args:
        reference: the logprobs of q, of the targets' shape. See `Reference`.
        direction: `"forward"` for KL(p‖q), `"reverse"` for KL(q‖p), `"symmetric"` for the mean of
            both.
        reduction: `"mean"` over the positions that count, or `"sum"`.
    """
    check_choice("direction", direction, tuple(_DIVERGENCES))
    return _beside(reference, _DIVERGENCES[direction], reduction)


def consistency(
    reference: Reference = "original_logprobs",
    metric: Literal["mse", "l1", "kl", "cosine"] = "mse",
    *,
    reduction: Reduction = "mean",
) -> Regularizer:
    """Returns the distance between the logprobs and those of the same targets after another form of
    the prompt.

    Args:
        reference: the other logprobs, of the targets' shape. See `Reference`.
        metric: `"mse"` for the squared difference of each pair, `"l1"` for the absolute one, `"kl"`
            for the symmetric `kl_divergence`; or `"cosine"` for 1 minus the cosine similarity of
            all logprobs that count, for which `reduction` has no effect.
        reduction: `"mean"` over the positions that count, or `"sum"`.
    """
    check_choice("metric", metric, (*_DISTANCES, "cosine"))
    return (
        _beside(reference, _DISTANCES[metric], reduction)
        if metric in _DISTANCES
        else _beside_as_angle(reference)
    )


def _beside(
    reference: Reference, term: Callable[[Tensor, Tensor], Tensor], reduction: Reduction
) -> Regularizer:
    check_choice("reduction", reduction, ("mean", "sum"))

    def regularizer(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
        counting, others = _pair(data, logprobs, reference)
        return counting.reduce(term(counting.values, others), reduction)

    return regularizer


def _beside_as_angle(reference: Reference) -> Regularizer:
    def regularizer(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
        counting, others = _pair(data, logprobs, reference)
        return 1 - torch.cosine_similarity(counting.values, others, dim=0)

    return regularizer


def _pair(
    data: Sequence[Datum], logprobs: Sequence[Tensor], reference: Reference
) -> tuple[Counted, Tensor]:
    counting = counted(data, logprobs)
    return counting, counting.of(references(data, logprobs, reference))


def _forward(log_p: Tensor, log_q: Tensor) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    return p * (log_p - log_q) - p + q


def _reverse(log_p: Tensor, log_q: Tensor) -> Tensor:
    return _forward(log_q, log_p)


def _symmetric(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() - log_q.exp()) * (log_p - log_q) / 2


_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward": _forward,
    "reverse": _reverse,
    "symmetric": _symmetric,
}
_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda values, others: (values - others).square(),
    "l1": lambda values, others: (values - others).abs(),
    "kl": _symmetric,
}
