"""Penalties on similar datums, and on steep losses."""

# some functions of torch are only partly annotated
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from tinkex.errors import InvalidInputError
from tinkex.regularizers.terms import (
    Reference,
    Regularizer,
    check_choice,
    check_finite,
    positions_that_count,
    references,
)
from tinkex.types import Datum

if TYPE_CHECKING:
    from tinkex.losses.custom import TorchLoss


def orthogonality(
    mode: Literal["soft", "hard", "spectral"] = "soft", *, normalize: bool = True
) -> Regularizer:
    """Returns a penalty on datums whose logprobs are not orthogonal to each other.

    Each datum is a row of logprobs, padded with 0 to the longest one; logprobs that do not count
    are 0. G is the Gram matrix of the rows.

    Args:
        mode: `"soft"` for the sum of the squares of G off its diagonal; `"hard"` for that of G
            minus the identity; `"spectral"` for `"soft"` plus the square of (trace of G minus
            the number of datums).
        normalize: whether to scale each row to length 1 first.
    """
    check_choice("mode", mode, ("soft", "hard", "spectral"))

    def regularizer(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
        rows = _rows(data, logprobs)
        gram = _products(
            torch.nn.functional.normalize(rows, dim=1, eps=1e-8) if normalize else rows
        )
        diagonal = gram.diagonal()
        soft = (gram - diagonal.diag_embed()).square().sum()
        if mode == "soft":
            return soft
        excess = diagonal - 1
        return soft + (excess.square().sum() if mode == "hard" else excess.sum().square())

    return regularizer


def _rows(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
    masks = positions_that_count(data, logprobs)
    rows = [
        torch.where(mask, logprob, 0.0).flatten()
        for logprob, mask in zip(logprobs, masks, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _products(rows: Tensor) -> Tensor:
    return rows @ rows.T


def gradient_penalty(
    loss_fn: TorchLoss,
    target_norm: float = 1.0,
    *,
    reference: Reference | None = None,
    generator: torch.Generator | None = None,
) -> Regularizer:
    """Returns `(‖∇ loss‖ - target_norm)²` as a regularizer.

    The gradient is that of a loss with respect to the logprobs; its L2 norm is over the whole
    batch. Training needs second derivatives of the loss, so it has no effect with a loss that is
    linear in the logprobs, such as cross entropy.

    Args:
        loss_fn: a custom loss in torch. It decides itself which positions count; its metrics are
            ignored.
        target_norm: the norm at which the penalty is 0; 0 or more.
        reference: logprobs; if given, the gradient is taken at a random point between the model's
            logprobs and these. See `Reference`.
        generator: the random generator for that point; by default torch's global one.
    """
    check_finite("target_norm", target_norm, low=0)

    def regularizer(data: Sequence[Datum], logprobs: Sequence[Tensor]) -> Tensor:
        point = list(logprobs)
        if reference is not None:
            share = torch.rand((), generator=generator).item()
            point = [
                torch.lerp(o, x, share)
                for x, o in zip(logprobs, references(data, logprobs, reference), strict=True)
            ]
        loss, _ = loss_fn(list(data), point)
        return (_gradient_norm(loss, point) - target_norm).square()

    return regularizer


def _gradient_norm(loss: Tensor, point: Sequence[Tensor]) -> Tensor:
    if not loss.requires_grad:
        raise InvalidInputError("the loss of gradient_penalty does not depend on the logprobs")
    gradients = torch.autograd.grad(
        loss, point, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
