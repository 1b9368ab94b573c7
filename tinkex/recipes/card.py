"""The card at the end of a run: its curve, its numbers, and where to go from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tinkex.recipes.loop import Goal, Result

_WIDTH = 40  # characters of a curve
_HEIGHTS = "▁▂▃▄▅▆▇█"
_ASCII_HEIGHTS = "_.-=+*%#"


def card(result: Result, *, ascii_only: bool = False) -> str:
    """Returns what a person wants to see of a run that has ended.

    Args:
        result: the run.
        ascii_only: whether the curve must be drawn without block characters.
    """
    return "\n".join(_lines(result, _ASCII_HEIGHTS if ascii_only else _HEIGHTS))


def _lines(result: Result, heights: str) -> Iterator[str]:
    tokens = sum(step["tokens"] for step in result.metrics)
    state = "interrupted after" if result.interrupted else "ended after"
    yield (
        f"{result.recipe} {state} {result.state.step} of {result.total} steps, {tokens:,.0f} tokens"
    )
    for name in _shown(result):
        values = series(result.metrics, name)
        if values:
            lower = result.goal.lower_is_better if name.endswith(result.goal.metric) else True
            facts = described(values, Goal(name, lower))
            yield f"  {name:<10} {sparkline([value for _, value in values], heights)}  {facts}"
    if result.state.sampler_path:
        yield f"  {'weights':<10} {result.state.sampler_path}"
    yield f"  {'state':<10} {result.state.path}"
    yield f"  {'metrics':<10} {result.folder.metrics_path}"


def _shown(result: Result) -> Sequence[str]:
    return [result.goal.metric, f"eval_{result.goal.metric}"]


def series(metrics: Sequence[Mapping[str, float]], name: str) -> Sequence[tuple[int, float]]:
    """Returns the steps that have a metric, each with its value."""
    return [(int(step["step"]), step[name]) for step in metrics if name in step]


def described(values: Sequence[tuple[int, float]], goal: Goal) -> str:
    """Returns the first, the best and the last value of a metric in words."""
    step, best = best_of(values, goal)
    return f"first {values[0][1]:.4g}, best {best:.4g} (step {step}), last {values[-1][1]:.4g}"


def best_of(values: Sequence[tuple[int, float]], goal: Goal) -> tuple[int, float]:
    """Returns the step with the best value, and that value."""
    choose = min if goal.lower_is_better else max
    return choose(values, key=lambda each: each[1])


def sparkline(values: Sequence[float], heights: str = _HEIGHTS, width: int = _WIDTH) -> str:
    """Returns a curve in one line, of at most `width` characters. Each is the mean of its part.

    Example:
        >>> sparkline([3.0, 2.0, 1.0, 1.0])
        '█▅▁▁'
    """
    edges = [round(at * len(values) / min(width, len(values))) for at in range(width + 1)]
    parts = [values[begin:end] for begin, end in pairwise(edges) if values[begin:end]]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    top = len(heights) - 1
    return "".join(heights[round((mean - low) / (high - low or 1) * top)] for mean in means)
