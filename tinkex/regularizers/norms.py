"""Penalties on large logprobs.

A logprob is 0 for a certain token and falls with its probability, so they favour confident
predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from tinkex.regularizers.terms import Reduction, Regularizer, check_choice, check_finite, counted
from tinkex.types import Datum


def l1(*, reduction: Reduction = "mean") -> Regularizer:
    """Returns `|logprob|` as a regularizer. `reduction` is `"mean"` or `"sum"`."""
    return _of_each(lambda values: values.abs(), reduction)


def l2(*, reduction: Reduction = "mean") -> Regularizer:
    """Returns `logprob²` as a regularizer: unlikely tokens weigh most."""
    return _of_each(lambda values: values.square(), reduction)


def elastic_net(l1_ratio: float = 0.5, *, reduction: Reduction = "mean") -> Regularizer:
    """Returns `l1_ratio · |logprob| + (1 - l1_ratio) · logprob²` as a regularizer.

    Args:
        l1_ratio: the share of `l1`, from 0 (`l2` alone) to 1 (`l1` alone).
        reduction: `"mean"` over the positions that count, or `"sum"`.
    """
    check_finite("l1_ratio", l1_ratio, low=0, high=1)
    return _of_each(
        lambda values: l1_ratio * values.abs() + (1 - l1_ratio) * values.square(), reduction
    )


def _of_each(term: Callable[[Tensor], Tensor], reduction: Reduction) -> Regularizer:
    check_choice("reduction", reduction, ("mean", "sum"))

    def regularizer(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
        counting = counted(data, logprobs)
        return counting.reduce(term(counting.values), reduction)

    return regularizer
