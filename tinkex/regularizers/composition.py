"""`regularized`: joins a loss and its weighted regularizers into one custom loss."""

# some functions of torch are only partly annotated
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
    """A regularizer with its weight in the loss, and its name in the metrics.

    Args:
        regularizer: one made by the functions of this package, or your own.
        weight: the factor of its value, 0 or more.
        name: a name that is unique within the loss.

    Raises:
        InvalidInputError: the weight is negative or not finite, or the name is empty.
    """

    regularizer: Regularizer
    weight: float
    name: str

    def __attrs_post_init__(self) -> None:
        if not self.name:
            raise InvalidInputError("the name of a regularizer is empty")
        check_finite(f"the weight of {self.name!r}", self.weight, low=0)


def regularized(
    base_loss: TorchLoss, terms: Sequence[Weighted], *, track_grad_norms: bool = False
) -> TorchLoss:
    """Returns the custom loss `base_loss + Σ weight · regularizer`.

    Its metrics are those of `base_loss`, followed by

    - `base_loss`, and `regularizer_total`, the sum of all contributions;
    - `regularizers/<name>/value`, `.../weight` and `.../contribution`, which is weight · value;
    - with `track_grad_norms`: `base_loss/grad_norm`, `total_grad_norm`,
      `regularizers/<name>/grad_norm` and `.../grad_norm_weighted`, L2 norms of the gradients with
      respect to all logprobs of the batch.

    Args:
        base_loss: a custom loss in torch.
        terms: the regularizers with their weights.
        track_grad_norms: whether to compute the norms. Each takes a backward pass from the term to
            the logprobs, not through the model.

    Raises:
        InvalidInputError: at the call: two terms have the same name; when the loss is computed: a
            term is not a tensor with one value.
    """
    terms = tuple(terms)
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise InvalidInputError(
            f"two regularizers have the same name: {', '.join(map(repr, names))}"
        )

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
            "track_grad_norms needs logprobs that require gradients, as in a custom loss"
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
            f"{name!r} must return a torch tensor with one value, not {form}",
            advice="Reduce it with .sum().",
        )
    return value.reshape(())


def _number(value: Tensor) -> float:
    return float(value.detach())
