"""`SafeSteps`: optimizer steps that never leave a weight, or the optimizer's state, NaN or
infinite.

A copy for rollback takes several times as long as a step. Upper bounds of the magnitudes after a
step are therefore computed beforehand, and a copy is made only for a step that could come near the
largest float.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.optim import Optimizer

from tinkex_server.engine.interface import (
    AdamSettings,
    DimuonSettings,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.engine.torch import optimizers
from tinkex_server.engine.torch.finite_checks import rolled_back_unless_finite, weights_of

_MARGIN = 1024.0
"""The factor that the bounds keep below the largest float, far more than rounding can add."""
_LEAST_EPS = 1e-37  # a smaller eps may be 0 as a float32, and cause a division by 0
# of a gradient in the running means; a smaller share may be lost in a float32
_LEAST_SHARE = 1e-6


@frozen
class Magnitudes:
    """Upper bounds of the magnitudes of an optimizer's numbers."""

    weight: float
    mean: float = 0.0
    square: float = 0.0
    intermediate: float = 0.0
    """The bound of intermediate results of a step."""

    @property
    def largest(self) -> float:
        return max(self.weight, self.mean, self.square, self.intermediate)

    def after(self, settings: OptimizerSettings, gradient: float) -> Magnitudes:
        """Returns the bounds after a step whose gradient has no value larger than `gradient`."""
        match settings:
            case AdamSettings():
                return self._after_adam(settings, gradient)
            case SgdSettings():
                return self._after_sgd(settings, gradient)
            case DimuonSettings():
                # it has several parts, of which one may fail alone
                return evolve(self, intermediate=math.inf)

    def _after_adam(self, settings: AdamSettings, gradient: float) -> Magnitudes:
        if settings.eps < _LEAST_EPS or min(1 - settings.beta1, 1 - settings.beta2) < _LEAST_SHARE:
            return evolve(self, intermediate=math.inf)
        mean, square = max(self.mean, gradient), max(self.square, gradient * gradient)
        rate = settings.learning_rate / (1 - settings.beta1)
        decayed = self.weight * (1 + settings.learning_rate * settings.weight_decay)
        update = mean / settings.eps
        intermediate = max(
            2 * mean, update, rate * mean, rate, settings.learning_rate * settings.weight_decay
        )
        return Magnitudes(decayed + rate * update, mean, square, intermediate)

    def _after_sgd(self, settings: SgdSettings, gradient: float) -> Magnitudes:
        slope = gradient + settings.weight_decay * self.weight
        mean = settings.momentum * self.mean + slope
        return Magnitudes(
            self.weight + settings.learning_rate * mean, max(self.mean, mean), intermediate=slope
        )


class SafeSteps:
    """An optimizer with bounds of its numbers, where known."""

    def __init__(self, optimizer: Optimizer) -> None:
        """Takes over the optimizer; nobody else may change its weights or its state afterwards."""
        self.optimizer = optimizer
        self._magnitudes: Magnitudes | None = None

    def take(self, settings: OptimizerSettings, norm: float) -> None:
        """Applies gradients of this norm. Raises `InvalidRequest`, with everything unchanged, for a
        step that would leave a number that is not finite.
        """
        # the norm is rounded, and squares of small numbers underflow in it
        after = self._predict(settings, 2 * norm + 1e-15)
        optimizers.set_options(self.optimizer, settings)
        if after is None:
            with rolled_back_unless_finite(self.optimizer):
                self.optimizer.step()
        else:
            self.optimizer.step()
        self._magnitudes = after

    def _predict(self, settings: OptimizerSettings, gradient: float) -> Magnitudes | None:
        """Returns the bounds after the step, or None if it could come near the largest float. The
        numbers are measured only if the known bounds are not enough.
        """
        largest = (
            min(torch.finfo(weight.dtype).max for weight in weights_of(self.optimizer)) / _MARGIN
        )
        if (
            self._magnitudes
            and (after := self._magnitudes.after(settings, gradient)).largest <= largest
        ):
            return after
        after = measure(self.optimizer).after(settings, gradient)
        return after if after.largest <= largest else None


def measure(optimizer: Optimizer) -> Magnitudes:
    """Returns the present bounds; infinity if no step can have made the state, as with a modified
    file.
    """
    states: Sequence[Mapping[str, Any]] = list(optimizer.state.values())

    def of(name: str) -> list[Tensor]:
        return [state[name] for state in states if isinstance(state.get(name), Tensor)]

    weight, squares, steps = _largest(weights_of(optimizer)), of("exp_avg_sq"), of("step")
    if not all(_none_negative(tensors) for tensors in (squares, steps)) or not math.isfinite(
        _largest(steps)
    ):
        return Magnitudes(math.inf)
    return Magnitudes(weight, _largest([*of("exp_avg"), *of("momentum_buffer")]), _largest(squares))


def _largest(tensors: Sequence[Tensor]) -> float:
    """Returns the largest magnitude; infinity if there is a NaN."""
    norm = float(nn.utils.get_total_norm(tensors, math.inf)) if tensors else 0.0
    return math.inf if math.isnan(norm) else norm


def _none_negative(tensors: Sequence[Tensor]) -> bool:
    return not tensors or bool(torch.stack([tensor.min() for tensor in tensors]).min() >= 0)
