"""`regularized`: a loss and its weighted regularizers as one custom loss."""

# torch types some of its functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

from tinkex.errors import InvalidInputError
from tinkex.regularizers.terms import Regularizer, check_finite
from tinkex.types import Datum

if TYPE_CHECKING:
    from tinkex.losses.custom import TorchLoss


@frozen
class Weighted:
    """A regularizer with its factor, and its name in the metrics.

    Args:
        regularizer: made by one of the functions here, or one of your own.
        weight: 0 or more.
        name: each of one loss has another.

    Raises:
        InvalidInputError: a weight that is negative or not finite, or an empty name.
    """

    regularizer: Regularizer
    weight: float
    name: str

    def __attrs_post_init__(self) -> None:
        if not self.name:
            raise InvalidInputError("a regularizer's name is empty")
        check_finite(f"the weight of {self.name!r}", self.weight, low=0)


def regularized(
    base_loss: TorchLoss, terms: Sequence[Weighted], *, track_grad_norms: bool = False
) -> TorchLoss:
    """The custom loss `base_loss + Σ weight · regularizer`.

    Its metrics are those of `base_loss`, and after them

    - `base_loss`, and `regularizer_total`, which is the sum of all contributions;
    - `regularizers/<name>/value`, `.../weight` and `.../contribution`, which is weight · value;
    - with `track_grad_norms`: `base_loss/grad_norm`, `total_grad_norm`,
      `regularizers/<name>/grad_norm` and
      `.../grad_norm_weighted`: L2 norms of the gradients with respect to all logprobs of the batch.
          Each takes a backward pass through what made the term, which the logprobs' own model is
          not part of.

    Raises:
        InvalidInputError: at once: a name that two have. In the loss: a term that is not a tensor
            of one value.
    """
    terms = tuple(terms)
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"two regularizers have one name: {', '.join(map(repr, names))}")

    def loss_fn(data: list[Datum], logprobs: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        base, own_metrics = base_loss(data, logprobs)
        base = _scalar("base_loss", base)
        values = [_scalar(term.name, term.regularizer(data, logprobs)) for term in terms]
        loss = base
        for term, value in zip(terms, values, strict=True):
            loss = loss + term.weight * value
        metrics = {**own_metrics, "base_loss": _number(base), **_value_metrics(terms, values)}
        if track_grad_norms:
            metrics |= {
                "base_loss/grad_norm": _grad_norm(base, logprobs),
                "total_grad_norm": _grad_norm(loss, logprobs),
            }
            metrics |= _norm_metrics(terms, values, logprobs)
        return loss, metrics

    return loss_fn


def _value_metrics(terms: Sequence[Weighted], values: Sequence[Tensor]) -> dict[str, float]:
    metrics = {
        "regularizer_total": sum(
            term.weight * _number(value) for term, value in zip(terms, values, strict=True)
        )
    }
    for term, value in zip(terms, values, strict=True):
        metrics[f"regularizers/{term.name}/value"] = _number(value)
        metrics[f"regularizers/{term.name}/weight"] = term.weight
        metrics[f"regularizers/{term.name}/contribution"] = term.weight * _number(value)
    return metrics


def _norm_metrics(
    terms: Sequence[Weighted], values: Sequence[Tensor], logprobs: Sequence[Tensor]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for term, value in zip(terms, values, strict=True):
        norm = _grad_norm(value, logprobs)
        metrics[f"regularizers/{term.name}/grad_norm"] = norm
        metrics[f"regularizers/{term.name}/grad_norm_weighted"] = term.weight * norm
    return metrics


def _grad_norm(value: Tensor, logprobs: Sequence[Tensor]) -> float:
    if not all(logprob.requires_grad for logprob in logprobs):
        raise InvalidInputError(
            "track_grad_norms needs logprobs that require gradients, as those of a custom loss do"
        )
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(
        value, logprobs, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return _number(
        torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
    )


def _scalar(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        form = (
            f"a tensor of shape {list(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise InvalidInputError(
            f"{name!r} must give a torch tensor of one value, not {form}",
            advice="Reduce it by .sum().",
        )
    return value.reshape(())


def _number(value: Tensor) -> float:
    return float(value.detach())
