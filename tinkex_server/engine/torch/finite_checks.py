"""Checks that keep NaN and infinity out of a model's gradients, its weights and its optimizer's
state.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tinkex_server.engine.interface import InvalidRequest


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Returns whether no value is NaN or infinite; integers never are."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return math.isfinite(float(nn.utils.get_total_norm(floats, math.inf)))


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises `InvalidRequest`, naming the first tensor that holds NaN or infinity."""
    if all_finite(tensors.values()):
        return
    name = next(name for name, tensor in tensors.items() if not all_finite([tensor]))
    raise InvalidRequest(f"{where}: {name} contains NaN or infinity")


def check_losses(
    indices: Sequence[int], losses: Sequence[Tensor], gradients: Sequence[Tensor]
) -> float:
    """Returns the sum of the losses. Raises `InvalidRequest`, naming the datum, for a loss or a
    gradient that is not finite.

    `gradients` are those of the losses by the logprobs, empty where none is wanted.
    """
    sums = [row.detach().sum() for row in losses]
    sums += [row.abs().sum() for row in gradients]
    values: list[float] = torch.stack([total.float() for total in sums]).tolist()
    for place, index in enumerate(indices):
        if not math.isfinite(values[place]):
            raise InvalidRequest(
                f"the loss of data[{index}] is "
                f"{values[place]}{_NOTHING_ADDED if gradients else _ADVICE}"
            )
        if gradients and not math.isfinite(values[len(indices) + place]):
            text = (
                f"the gradient of the loss of data[{index}] with respect to its logprobs is "
                "not finite"
            )
            raise InvalidRequest(text + _NOTHING_ADDED)
    return math.fsum(values[: len(indices)])


_ADVICE = ". Check its logprobs and advantages, or leave the datum out"
_NOTHING_ADDED = f": no gradient of this batch was added to the model's{_ADVICE}"


def check_gradients(parameters: Iterable[nn.Parameter], indices: Sequence[int]) -> None:
    """Raises `InvalidRequest` if the backward pass through the network made a gradient that is not
    finite from these data.
    """
    if not all_finite(weight.grad for weight in parameters if weight.grad is not None):
        data = ", ".join(f"data[{index}]" for index in sorted(indices))
        raise InvalidRequest(
            f"the gradient of {data} is not finite inside the network{_NOTHING_ADDED}"
        )


def weights_of(optimizer: Optimizer) -> list[Tensor]:
    """Returns the weights that an optimizer trains."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


@contextmanager
def rolled_back_unless_finite(optimizer: Optimizer) -> Generator[None, None, None]:
    """Restores the weights and the optimizer's state if the block fails or leaves a number that is
    not finite.

    Raises `InvalidRequest` in the latter case. A copy of both is kept during the block.
    """
    weights = weights_of(optimizer)
    before = [weight.detach().clone() for weight in weights]
    states: Mapping[Tensor, Mapping[str, Any]] = optimizer.state
    state_before = {weight: _copied(state) for weight, state in states.items()}
    try:
        yield
        if not all_finite([*weights, *_tensors(optimizer)]):
            raise InvalidRequest(
                "the step would make weights or the optimizer's state infinite or NaN, so it "
                "was not applied, and the gradients were dropped: the learning rate or the "
                "gradients are too large. The weights and the optimizer's state are unchanged"
            )
    except BaseException:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
        optimizer.state.clear()
        optimizer.state.update(state_before)
        raise


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()
    }


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    states = cast("Iterable[Mapping[str, Any]]", optimizer.state.values())
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]
