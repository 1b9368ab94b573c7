"""`Scale`: an axis with round ends and ticks, on which a small change looks small. Plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import frozen

_LEAST_SPAN = 0.2
"""The least length of a value axis, as a part of its largest value. Without it the axis of a loss
that fell from 0.262 to 0.258 would begin and end there, and the curve look like a collapse.
"""
_ZERO_PART = 0.5
"""The part of the largest value below which the smallest must lie for the axis to begin at zero."""
_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@frozen
class Scale:
    """An axis from `low` to `high`, with ticks."""

    low: float
    high: float
    ticks: Sequence[float]
    step: float
    """The distance of two ticks."""

    def place(self, value: float) -> float:
        """Returns where a value lies on the axis, as a part of its length."""
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        """Returns a tick as text, with as many digits as tell it from its neighbours."""
        largest = max(abs(self.low), abs(self.high))
        if largest and not 1e-4 <= largest < 1e6:
            return f"{tick:.3g}"
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if self.step * 10**digits % 1 > 1e-6:  # 2.5 and its like
            digits += 1
        return f"{tick:,.{digits}f}"


def value_scale(values: Sequence[float], ticks: int = 5) -> Scale:
    """Returns an axis for values: from zero if that costs less than half of it, and otherwise with
    ends that leave small changes small.
    """
    low, high = _wide_enough(*_to_zero(min(values), max(values)))
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, [n * step for n in range(first, last + 1)], step)


def step_scale(first: int, last: int, ticks: int = 8) -> Scale:
    """Returns an axis for the numbers of steps, which begins and ends at them."""
    step = max(1.0, _round_step((last - first) / ticks))
    if step == 2.5:
        step = 5.0
    inner = range(math.ceil(first / step), math.floor(last / step) + 1)
    marks = [number * step for number in inner]
    if last == first:
        return Scale(first - 0.5, first + 0.5, [first], 1.0)
    return Scale(first, last, marks, step)


def _to_zero(low: float, high: float) -> tuple[float, float]:
    if 0 <= low < _ZERO_PART * high:
        return 0.0, high
    if _ZERO_PART * low < high <= 0:
        return low, 0.0
    return low, high


def _wide_enough(low: float, high: float) -> tuple[float, float]:
    largest = max(abs(low), abs(high))
    missing = (_LEAST_SPAN * largest or 1.0) - (high - low)
    return (low - missing / 2, high + missing / 2) if missing > 0 else (low, high)


def _round_step(least: float) -> float:
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(part * power for part in _ROUND if part * power >= least * (1 - 1e-9))
