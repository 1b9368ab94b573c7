"""`SafeSteps`: the steps of an optimizer, none of which leaves a weight, or the optimizer's state,
NaN or infinite.

A copy of both to go back to takes several times as long as a step. So it is worked out beforehand
how large they can become; the copy is taken only for a step that could come near the largest float.
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
"""How far below the largest float the numbers stay: far more than what rounding adds to them."""
_LEAST_EPS = 1e-37  # as a float32, a smaller one may be 0, by which nothing is to be divided
# of a gradient in the running means; a smaller one may likewise be lost in a float32
_LEAST_SHARE = 1e-6


@frozen
class Magnitudes:
    """What the magnitudes of an optimizer's numbers do not exceed."""

    weight: float
    mean: float = 0.0
    square: float = 0.0
    intermediate: float = 0.0
    """Of what a step computes on the way."""

    @property
    def largest(self) -> float:
        return max(self.weight, self.mean, self.square, self.intermediate)

    def after(self, settings: OptimizerSettings, gradient: float) -> Magnitudes:
        """Returns what holds after a step by a gradient whose largest value is no larger than
        this.
        """
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
    """An optimizer, and how far its numbers reach, as far as that is known."""

    def __init__(self, optimizer: Optimizer) -> None:
        """From then on nobody else changes the weights, or the state."""
        self.optimizer = optimizer
        self._magnitudes: Magnitudes | None = None

    def take(self, settings: OptimizerSettings, norm: float) -> None:
        """Applies gradients of this norm. Raises `InvalidRequest`, with all as it was, for a step
        that leaves something not finite.
        """
        # the norm was rounded, and squares of small numbers are lost in it
        after = self._predict(settings, 2 * norm + 1e-15)
        optimizers.set_options(self.optimizer, settings)
        if after is None:
            with rolled_back_unless_finite(self.optimizer):
                self.optimizer.step()
        else:
            self.optimizer.step()
        self._magnitudes = after

    def _predict(self, settings: OptimizerSettings, gradient: float) -> Magnitudes | None:
        """Returns None for a step that could come near the largest float. It looks at the numbers
        only where what it knows says so.
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
    """Returns how far the numbers reach now; infinity where the state is none that steps make, such
    as one from a changed file.
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
    """Returns the largest magnitude; infinity where there is NaN."""
    norm = float(nn.utils.get_total_norm(tensors, math.inf)) if tensors else 0.0
    return math.inf if math.isnan(norm) else norm


def _none_negative(tensors: Sequence[Tensor]) -> bool:
    return not tensors or bool(torch.stack([tensor.min() for tensor in tensors]).min() >= 0)
