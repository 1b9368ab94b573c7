"""How alike the datums' logprobs are, and how steep a loss is."""

# torch types some of its functions only in part
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
    """How far the datums' logprobs are from being at right angles, one row of numbers a datum,
    shorter ones filled up with 0.

    G holds the rows' products with each other. `"soft"` is the sum of the squares of G off its
    diagonal; `"hard"` that of G less the identity; `"spectral"` is soft, and the square of G's
    trace less the number of datums. What does not count is 0.

    Args:
        normalize: whether to bring each row to length 1 first.
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
    """`(‖∇ loss‖ - target_norm)²`, with the gradient of a loss by the logprobs and its L2 norm over
    the whole batch.

    It takes second derivatives, so `loss_fn` must not be linear in the logprobs for this to train
    anything: cross entropy is.

    Args:
        loss_fn: a custom loss in torch; which positions count is its own affair, and its metrics
            are left out.
        target_norm: 0 or more.
        reference: where given, the gradient is taken at a point drawn between the logprobs and
            these. See `Reference`.
        generator: draws that point; torch's own by default.
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
