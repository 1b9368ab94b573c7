"""Measures the CPU time and memory of a sample with 100 to 100,000 samples at once, as a table and
a plot (docs/images/growth.svg). `python -m benchmarks growth`.
"""

# the types of matplotlib are incomplete
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.client_process import Task, measure
from benchmarks.prepared_answers import server
from benchmarks.report import show
from scripts.official_sdk import ROOT

_COUNTS = (100, 1_000, 10_000, 100_000)
_PLOT = ROOT / "docs" / "images" / "growth.svg"


@frozen
class Point:
    """The cost of a sample with so many at once."""

    count: int
    cpu: float  # milliseconds
    memory: float  # KiB


def points() -> Sequence[Point]:
    with server() as url:
        measured = {
            count: measure("tinkex", Task("", "sample", count=count), url) for count in _COUNTS
        }
    return [
        Point(count, 1e3 * figures["cpu"], figures["memory"] / 1024)
        for count, figures in measured.items()
    ]


def draw(costs: Sequence[Point]) -> None:
    """Draws both costs over the number of samples, from 0, so that a growth shows in its size."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    counts = [cost.count for cost in costs]
    panels = (
        ("CPU time a sample, ms", [cost.cpu for cost in costs]),
        ("memory a sample in flight, KiB", [cost.memory for cost in costs]),
    )
    for axes, (title, values) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(counts, values, marker="o", color="#08519c")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("samples at once")
        axes.grid(alpha=0.3)
    _PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(_PLOT, metadata={"Date": None})


def main() -> None:
    table = Table("samples at once", "CPU time of each, ms", "memory of each, KiB")
    for column in table.columns:
        column.justify = "right"
    costs = points()
    for cost in costs:
        table.add_row(f"{cost.count:,}", f"{cost.cpu:.2f}", f"{cost.memory:.1f}")
    show(table)
    draw(costs)


if __name__ == "__main__":
    main()
