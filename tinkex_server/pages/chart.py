"""`draw`: turns one metric of a run into the parts of a chart. Plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import orjson
from attrs import frozen

from tinkex_server.formatting import number
from tinkex_server.pages.scale import Scale, step_scale, value_scale

WIDTH, HEIGHT = 1000, 300
"""The size of the view in which a path is drawn; it is stretched to the place that there is."""
_WORDS = 12
"""The rows of the table that stands for a chart."""
_MOST_NAMED = 3
"""The most earlier runs that are named in the words that stand for a chart."""


@frozen
class Tick:
    """A mark on an axis: its place in percent from the left or the top, and its text."""

    at: float
    label: str
    anchor: str = "middle"


@frozen
class Earlier:
    """A run before the one of a chart, which continues it: its steps up to `last`."""

    last: int
    title: str


@frozen
class Curve:
    """Values as a line."""

    path: str
    """The attribute `d` of an SVG path in a view of WIDTH by HEIGHT."""
    dots: Sequence[tuple[float, float]]
    """Values with no neighbour to draw a line to."""


@frozen
class Chart:
    """The curve of a run, after those of the runs that it continues, with their axes."""

    curve: Curve
    earlier_curve: Curve
    """The values of the runs before."""
    joints: str
    """The path of the lines at which a run is continued by the next one."""
    earlier: Sequence[Earlier]
    grid: str
    """The path of the lines at the ticks of the value axis."""
    value_ticks: Sequence[Tick]
    step_ticks: Sequence[Tick]
    points: str
    """The JSON of `[step, value, left, top]` of each value, the place in percent."""
    summary: str
    """A sentence that stands for the chart."""
    rows: Sequence[tuple[int, float]]
    """Some of the values, from the first to the newest, with their steps."""
    newest: float
    note: str
    """A text that says where the value axis begins, if that is not at zero."""

    @property
    def earlier_runs(self) -> str:
        """The JSON of `[last step, title]` of each run before."""
        return orjson.dumps([(run.last, run.title) for run in self.earlier]).decode()

    @property
    def about_earlier(self) -> str:
        """A sentence on the runs before; empty without any."""
        if not self.earlier:
            return ""
        if len(self.earlier) > _MOST_NAMED:
            return f"Up to step {self.earlier[-1].last}: {len(self.earlier)} earlier runs."
        named = ", ".join(f"up to step {run.last}: {run.title}" for run in self.earlier)
        return f"U{named[1:]}."

    def earlier_run(self, step: int) -> str:
        """Returns the title of the run before that took a step; none for a step of the run."""
        return next((run.title for run in self.earlier if step <= run.last), "")


def draw(
    values: Sequence[tuple[int, float | None]], earlier: Sequence[Earlier] = ()
) -> Chart | None:
    """Returns the chart of values by step, or None if none is finite. A value that is not finite
    interrupts the line.

    Args:
        earlier: the runs before, in order, whose steps are among these.
    """
    points = [(step, v if v is not None and math.isfinite(v) else None) for step, v in values]
    seen = [(step, value) for step, value in points if value is not None]
    if not seen:
        return None
    across, up = step_scale(points[0][0], points[-1][0]), value_scale([v for _, v in seen])
    place = _placer(across, up)
    earlier = [run for run in earlier if run.last >= points[0][0]]
    ends = [run.last for run in earlier]
    runs = [
        [point for point in points if after < point[0] <= last]
        for after, last in pairwise([0, *ends, points[-1][0]])
    ]
    return Chart(
        curve=_curve(runs[-1:], place),
        earlier_curve=_curve(runs[:-1], place),
        joints="".join(
            f"M{place(last, up.low)[0]:g},0V{HEIGHT}" for last in ends if last <= points[-1][0]
        ),
        earlier=earlier,
        grid="".join(f"M0,{place(0, tick)[1]:g}H{WIDTH}" for tick in up.ticks),
        value_ticks=[Tick(round(100 * (1 - up.place(t)), 2), up.label(t)) for t in up.ticks],
        step_ticks=[_step_tick(across, tick) for tick in across.ticks],
        points=_json(seen, place),
        summary=_summary(seen),
        rows=_some(seen, _WORDS),
        newest=seen[-1][1],
        note="" if up.low <= 0 <= up.high else f"axis from {up.label(up.low)}",
    )


_Place = Callable[[float, float], tuple[float, float]]


def _placer(across: Scale, up: Scale) -> _Place:
    def place(step: float, value: float) -> tuple[float, float]:
        left, top = across.place(step), 1 - up.place(value)
        return round(left * WIDTH, 1), round(top * HEIGHT, 1)

    return place


def _curve(runs: Sequence[Sequence[tuple[int, float | None]]], place: _Place) -> Curve:
    """Returns the lines through neighbouring values of each run, and the values without any."""
    path, dots = "", list[tuple[float, float]]()
    for points in runs:
        placed = [None if value is None else place(step, value) for step, value in points]
        path += "".join(
            f"{'L' if before else 'M'}{here[0]:g},{here[1]:g}"
            for before, here in pairwise([None, *placed])
            if here
        )
        dots += [
            here
            for before, here, after in zip(
                [None, *placed], placed, [*placed[1:], None], strict=False
            )
            if here and not before and not after
        ]
    return Curve(path, dots)


def _step_tick(across: Scale, tick: float) -> Tick:
    at = 100 * across.place(tick)
    anchor = "start" if at < 3 else "end" if at > 97 else "middle"
    return Tick(round(at, 2), f"{tick:,.0f}", anchor)


def _json(seen: Sequence[tuple[int, float]], place: _Place) -> str:
    rows: list[tuple[int, str, float, float]] = []
    for step, value in seen:
        left, top = place(step, value)
        rows.append(
            (step, number(value), round(left / WIDTH * 100, 2), round(top / HEIGHT * 100, 2))
        )
    return orjson.dumps(rows).decode()


def _summary(seen: Sequence[tuple[int, float]]) -> str:
    (first, begin), (last, end) = seen[0], seen[-1]
    if first == last:
        return f"{number(end)} at step {last}."
    low, high = min(v for _, v in seen), max(v for _, v in seen)
    return (
        f"From {number(begin)} at step {first} to {number(end)} at step {last}; "
        f"the lowest value is {number(low)}, the highest {number(high)}."
    )


def _some(seen: Sequence[tuple[int, float]], most: int) -> Sequence[tuple[int, float]]:
    apart = max(1, math.ceil(len(seen) / most))
    chosen = list(seen[::apart])
    return chosen if chosen[-1] == seen[-1] else [*chosen, seen[-1]]
