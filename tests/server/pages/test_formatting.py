"""Formats of numbers, and loss curves as SVG paths."""

from __future__ import annotations

import math

import pytest

from tinkex_server import formatting
from tinkex_server.pages.curve import draw
from tinkex_server.store import StepRow


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (490_123, "490 kB"),
        (999_600, "1.0 MB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert formatting.size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1.0, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")],
)
def test_spans(seconds: float, said: str) -> None:
    assert formatting.span(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0071234, "0.00712"), (12.345, "12.3"), (-3.0, "-3"), (123456.7, "123,457")],
)
def test_numbers(value: float, said: str) -> None:
    assert formatting.number(value) == said


def test_a_moment_is_in_utc() -> None:
    assert formatting.moment(0.0) == "1970-01-01 00:00:00"


class TestCurve:
    def steps(self, *losses: float | None) -> list[StepRow]:
        return [StepRow(number, loss, 0.0) for number, loss in enumerate(losses, 1)]

    def test_the_view_is_filled(self) -> None:
        curve = draw(self.steps(2.0, 1.0, 0.0))
        assert curve is not None
        assert curve.path == "M4,4L300,60L596,116"
        assert (curve.low, curve.high, curve.first, curve.last, curve.end) == (
            0.0,
            2.0,
            1,
            3,
            (596, 116),
        )

    def test_a_number_that_is_not_finite_breaks_the_curve(self) -> None:
        curve = draw(self.steps(2.0, None, 0.0, math.inf, 1.0))
        assert curve is not None
        assert curve.path == "M4,4M300,116M596,60"
        assert (curve.low, curve.high) == (0.0, 2.0)

    @pytest.mark.parametrize("losses", [(1.0,), (1.0, 1.0)])
    def test_a_level_curve_is_in_the_middle(self, losses: tuple[float, ...]) -> None:
        curve = draw(self.steps(*losses))
        assert curve is not None
        assert curve.end[1] == 60

    @pytest.mark.parametrize("losses", [(), (None,), (math.inf, math.nan)])
    def test_without_numbers_there_is_no_curve(self, losses: tuple[float | None, ...]) -> None:
        assert draw(self.steps(*losses)) is None
