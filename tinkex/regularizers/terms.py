"""Helpers of the regularizers: which positions count, references, and reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from attrs import frozen
from torch import Tensor

from tinkex.errors import InvalidInputError
from tinkex.types import Datum
from tinkex.types.arrays import ArrayLike, to_numpy

Regularizer: TypeAlias = Callable[[Sequence[Datum], Sequence[Tensor]], Tensor]
"""A function `regularizer(data, logprobs) -> value`.

It gets the logprobs as a custom loss does, and returns a tensor with one value.
"""

Reference: TypeAlias = str | Sequence[ArrayLike] | Callable[[Sequence[Datum]], Sequence[ArrayLike]]
"""Logprobs to compare with: the name of a loss input of each datum, a list with an array per datum,
or a function of the data that returns such a list.
"""

Reduction = Literal["mean", "sum"]


@frozen(eq=False)
class Counted:
    """The values that count in a batch, as one tensor `(C,)`, and the number of their positions."""

    values: Tensor
    positions: int
    masks: Sequence[Tensor]

    def of(self, others: Sequence[Tensor]) -> Tensor:
        """Returns the values of other tensors of the same shapes at the same places, `(C,)`."""
        return select(others, self.masks)

    def reduce(self, terms: Tensor, reduction: Reduction) -> Tensor:
        """Returns the sum of the terms, or their mean by position; 0 if no position counts."""
        return terms.sum() if reduction == "sum" else terms.sum() / max(self.positions, 1)


def counted(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Counted:
    masks = positions_that_count(data, logprobs)
    positions = sum(int((mask if mask.ndim < 2 else mask.any(-1)).sum()) for mask in masks)
    return Counted(select(logprobs, masks), positions, masks)


def select(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    # selected before any computation, so that a NaN elsewhere affects neither value nor gradient
    return torch.cat([tensor[mask] for tensor, mask in zip(tensors, masks, strict=True)])


def positions_that_count(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> list[Tensor]:
    """Returns a mask for each datum, of its logprobs' shape: True where the weights are not 0."""
    return [
        _mask(index, datum, logprob)
        for index, (datum, logprob) in enumerate(zip(data, logprobs, strict=True))
    ]


def _mask(index: int, datum: Datum, logprobs: Tensor) -> Tensor:
    weights = datum.loss_fn_inputs.get("weights")
    if weights is None:
        return torch.ones_like(logprobs, dtype=torch.bool)
    if weights.shape != list(logprobs.shape):
        raise InvalidInputError(
            f"data[{index}] has weights of shape {list(weights.shape)}, but logprobs of shape "
            f"{list(logprobs.shape)}"
        )
    return torch.tensor(weights.to_numpy() != 0, device=logprobs.device)


def references(
    data: Sequence[Datum], logprobs: Sequence[Tensor], reference: Reference
) -> list[Tensor]:
    """Returns the reference's logprobs, with the shape, dtype and device of the model's.

    Raises `InvalidInputError`, naming the datum, if a shape differs.
    """
    if isinstance(reference, str):
        arrays: Sequence[ArrayLike] = [
            _input(index, datum, reference) for index, datum in enumerate(data)
        ]
    else:
        arrays = reference(data) if callable(reference) else reference
    if len(arrays) != len(logprobs):
        raise InvalidInputError(
            f"there are {len(arrays)} reference logprobs for {len(logprobs)} datums"
        )
    return [
        _like(index, array, logprob)
        for index, (array, logprob) in enumerate(zip(arrays, logprobs, strict=True))
    ]


def _input(index: int, datum: Datum, name: str) -> ArrayLike:
    if name not in datum.loss_fn_inputs:
        raise InvalidInputError(
            f"data[{index}].loss_fn_inputs lacks {name!r}, the reference logprobs"
        )
    return datum.loss_fn_inputs[name].to_numpy()


def _like(index: int, value: ArrayLike, logprobs: Tensor) -> Tensor:
    array = to_numpy(value, f"the reference for data[{index}]")
    if array.shape != tuple(logprobs.shape):
        raise InvalidInputError(
            f"the reference for data[{index}] has the shape {list(array.shape)}, but the logprobs "
            f"have {list(logprobs.shape)}"
        )
    return torch.tensor(array, dtype=logprobs.dtype, device=logprobs.device)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises `InvalidInputError` for a value that is not one of the choices."""
    if value not in choices:
        raise InvalidInputError(
            f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
        )


def check_finite(
    name: str, value: Any, *, low: float = float("-inf"), high: float = float("inf")
) -> None:
    """Raises `InvalidInputError` for a number that is NaN, infinite, or outside the bounds."""
    if not (low <= value <= high) or abs(value) == float("inf"):
        bounds = (
            f" from {low:g} to {high:g}"
            if high < float("inf")
            else f" of {low:g} or more"
            if low > float("-inf")
            else ""
        )
        raise InvalidInputError(f"{name} must be a finite number{bounds}, not {value}")
