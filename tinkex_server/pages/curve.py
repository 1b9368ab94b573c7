"""`draw`: turns the losses of a run into an SVG path. Plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

from tinkex_server.store import StepRow

WIDTH, HEIGHT = 600, 120
_MARGIN = 4  # so that the ends of the line are not cut off


@frozen
class Curve:
    """A loss curve with its labels."""

    path: str
    """The attribute `d` of an SVG path in a view of WIDTH by HEIGHT."""
    end: tuple[float, float]
    """The point of the newest loss."""
    low: float
    high: float
    first: int
    last: int


def draw(steps: Sequence[StepRow]) -> Curve | None:
    """Returns the curve of these steps, or None if no loss is finite. A loss that is not finite
    interrupts the line.
    """
    losses = [
        step.loss if step.loss is not None and math.isfinite(step.loss) else None for step in steps
    ]
    seen = [loss for loss in losses if loss is not None]
    if not seen:
        return None
    low, high, first, last = min(seen), max(seen), steps[0].number, steps[-1].number
    points = [
        None
        if loss is None
        else (_along(step.number, first, last, WIDTH), _along(loss, high, low, HEIGHT))
        for step, loss in zip(steps, losses, strict=True)
    ]
    end = next(point for point in reversed(points) if point)
    return Curve(_path(points), end, low, high, first, last)


def _along(value: float, start: float, stop: float, length: int) -> float:
    """Returns the position of a value on an axis from `start` to `stop`; the middle if both are
    equal.
    """
    part = (value - start) / (stop - start) if start != stop else 0.5
    return round(_MARGIN + part * (length - 2 * _MARGIN), 1)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    drawn = [
        f"{'L' if before else 'M'}{point[0]:g},{point[1]:g}"
        for before, point in pairwise([None, *points])
        if point
    ]
    return "".join(drawn)
