"""Curves of a run's metrics, drawn by matplotlib, which the extra `plot` installs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinkex.errors import InvalidInputError
from tinkex.watching.files import numbers_of, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 8.0, 3.4  # inches, of one curve
_PALE, _STRONG = "#9ecae1", "#08519c"


def curves(
    metrics: str | Path | Iterable[Mapping[str, Any]],
    names: Sequence[str] | None = None,
    *,
    smooth: int = 21,
    title: str | None = None,
) -> Figure:
    """Draws each metric of a run over its steps, with a smoothed line.

    Args:
        metrics: the folder of a run, its file of metrics, or mappings of names to numbers, one for
            each step. Their entry `step` numbers the steps; without it they count from 1.
        names: the metrics to draw; by default all.
        smooth: the number of steps that a point of the smoothed line averages; 1 for no such line.
        title: the title of the figure.

    Returns:
        a figure of matplotlib. A notebook shows it, and `figure.savefig("loss.png")` stores it.

    Raises:
        ImportError: matplotlib is not installed.
        InvalidInputError: there is nothing to draw, or not what `names` asks for.
        OSError: the file cannot be read.

    Example:
        losses = [3.2, 1.4, 0.8]
        figure = tinkex.plot.curves([{"loss": loss} for loss in losses], title="Numbers")
        figure.savefig("loss.png")
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "curves are drawn by matplotlib, which is not installed: pip install 'tinkex[plot]'"
        ) from error
    rows = read_metrics(metrics) if isinstance(metrics, (str, Path)) else metrics
    series = _series([numbers_of(row) for row in rows], names)
    figure = _for_notebooks(Figure)(figsize=(_WIDTH, _HEIGHT * len(series)), layout="constrained")
    panels: Any = figure.subplots(len(series), squeeze=False)
    for axes, (name, (steps, values)) in zip(panels[:, 0], series.items(), strict=True):
        _draw(axes, name, np.array(steps), np.array(values), smooth)
    panels[-1, 0].set_xlabel("step")
    if title:
        panels[0, 0].set_title(title, fontsize=11)
    return figure


@cache
def _for_notebooks(figure_class: Any) -> type[Figure]:
    """Returns a class of figures that notebooks show, also without a backend of matplotlib."""

    class ShownFigure(figure_class):
        """A figure that is a picture in notebooks."""

        def _repr_png_(self) -> bytes:
            picture = BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    return ShownFigure


Series = tuple[list[float], list[float]]
"""The steps and the values of one metric."""


def _series(
    rows: Sequence[Mapping[str, float]], names: Sequence[str] | None
) -> Mapping[str, Series]:
    """Returns each metric's steps and values; a step may lack a metric."""
    found: dict[str, Series] = {}
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if name != "step":
                steps, values = found.setdefault(name, ([], []))
                steps.append(row.get("step", number))
                values.append(value)
    if absent := [name for name in names or () if name not in found]:
        raise InvalidInputError(
            f"there is no metric {', '.join(absent)}", advice=f"There are {', '.join(found)}."
        )
    if not found:
        raise InvalidInputError("there is nothing to draw: no step has a metric that is a number")
    return {name: found[name] for name in names or found}


def _draw(
    axes: Any, name: str, steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any], smooth: int
) -> None:
    axes.plot(steps, values, color=_PALE, linewidth=0.8, label="each step")
    if smooth > 1:
        axes.plot(
            steps,
            smoothed(values, smooth),
            color=_STRONG,
            linewidth=2.2,
            label=f"mean of {smooth} steps",
        )
    axes.set_ylabel(name)
    if not (values < 0).any():
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def smoothed(values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Returns the mean of the values around each one: of `width` of them, and of fewer at the ends,
    where as many are taken from each side. A value that is not finite is left out, and is NaN.
    """
    finite = np.isfinite(values)
    at = np.arange(len(values))
    reach = np.minimum(np.minimum(at, len(values) - 1 - at), width // 2)

    def around(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sums = np.concatenate([[0.0], np.cumsum(numbers)])
        return sums[at + reach + 1] - sums[at - reach]

    means = around(np.where(finite, values, 0.0)) / np.maximum(1, around(finite))
    return np.where(finite, means, np.nan)
