"""Charts of metrics: their axes, lines, and what stands for them in words."""

from __future__ import annotations

import json
import math

import pytest

from tinkex_server.pages.chart import Chart, Curve, Earlier, draw
from tinkex_server.pages.scale import step_scale, value_scale


def chart(*values: float | None) -> Chart:
    drawn = draw(list(enumerate(values, 1)))
    assert drawn is not None
    return drawn


def labels(*values: float) -> list[str]:
    scale = value_scale(values)
    return [scale.label(tick) for tick in scale.ticks]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((2.3, 0.4), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]),  # from zero
        ((0.262, 0.258), ["0.22", "0.24", "0.26", "0.28", "0.30"]),  # a small change
        ((2.4, 1.8), ["1.8", "2.0", "2.2", "2.4"]),  # zero would cost most of the axis
        ((-1.0, 3.0), ["-1", "0", "1", "2", "3"]),
        ((-0.9, -0.1), ["-1.0", "-0.8", "-0.6", "-0.4", "-0.2", "0.0"]),
        ((0.0, 0.0), ["-0.6", "-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6"]),
        ((0.0, 52_000.0), ["0", "20,000", "40,000", "60,000"]),
        ((1e-5, 1e-5), ["9e-06", "9.5e-06", "1e-05", "1.05e-05", "1.1e-05"]),
        ((0.0, 11.0), ["0.0", "2.5", "5.0", "7.5", "10.0", "12.5"]),
    ],
)
def test_the_value_axis_has_round_ends(values: tuple[float, ...], ticks: list[str]) -> None:
    assert labels(*values) == ticks


def test_a_small_change_looks_small() -> None:
    tops = [top for _, _, _, top in json.loads(chart(0.262, 0.260, 0.258).points)]
    assert abs(tops[-1] - tops[0]) < 10  # percent of the height
    assert chart(0.262, 0.258).note == "axis from 0.22"
    assert chart(2.0, 0.1).note == ""


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [(1, 3, [1, 2, 3]), (1, 100, [20, 40, 60, 80, 100]), (7, 7, [7]), (1, 20, [5, 10, 15, 20])],
)
def test_the_axis_of_steps_has_whole_numbers(first: int, last: int, ticks: list[float]) -> None:
    assert step_scale(first, last).ticks == ticks


def test_a_line_ends_where_a_value_is_not_a_number_and_a_lone_value_is_a_dot() -> None:
    drawn = chart(2.0, 1.0, None, 1.0, math.inf, 0.0, 2.0)
    assert drawn.curve.path == "M0,0L166.7,150M500,150M833.3,300L1000,0"
    assert drawn.curve.dots == [(500.0, 150.0)]
    assert chart(5.0).curve.dots == [(500.0, 150.0)]  # one step is no empty box


@pytest.mark.parametrize("values", [(), (None,), (math.inf, math.nan)])
def test_without_numbers_there_is_no_chart(values: tuple[float | None, ...]) -> None:
    assert draw(list(enumerate(values, 1))) is None


def test_words_and_a_table_stand_for_the_chart() -> None:
    drawn = chart(*(100.0 / step for step in range(1, 101)))
    assert drawn.summary == (
        "From 100 at step 1 to 1 at step 100; the lowest value is 1, the highest 100."
    )
    assert (drawn.rows[0], drawn.rows[-1]) == ((1, 100.0), (100, 1.0))
    assert len(drawn.rows) <= 13
    assert chart(3.0).summary == "3 at step 1."


def test_earlier_runs_are_lines_of_their_own_with_a_mark_where_each_is_continued() -> None:
    earlier = [Earlier(2, "first"), Earlier(4, "second")]
    drawn = draw([(step, 7.0 - step) for step in range(1, 7)], earlier)
    assert drawn is not None
    assert drawn.earlier_curve.path == "M0,0L200,50M400,100L600,150"
    assert drawn.curve == Curve("M800,200L1000,250", [])
    assert drawn.joints == "M200,0V300M600,0V300"
    assert drawn.summary.startswith("From 6 at step 1 to 1 at step 6")
    assert drawn.about_earlier == "Up to step 2: first, up to step 4: second."
    assert [drawn.earlier_run(step) for step in (2, 3, 5)] == ["first", "second", ""]
    assert json.loads(drawn.earlier_runs) == [[2, "first"], [4, "second"]]


def test_a_metric_shows_the_earlier_runs_that_have_it() -> None:
    earlier = [Earlier(2, "first"), Earlier(4, "second")]
    later = draw([(5, 1.0), (6, 0.0)], earlier)
    assert later is not None
    assert (later.earlier, later.about_earlier, later.joints) == ([], "", "")
    assert later.curve.path.startswith("M0,")
    gone = draw([(1, 1.0), (2, 0.0)], earlier)
    assert gone is not None
    assert (gone.curve.path, gone.joints) == ("", "M1000,0V300")
    assert gone.earlier_curve.path.startswith("M0,")


def test_many_earlier_runs_are_counted_and_not_named() -> None:
    earlier = [Earlier(number, f"run {number}") for number in range(1, 10)]
    drawn = draw([(step, 1.0) for step in range(1, 11)], earlier)
    assert drawn is not None
    assert drawn.about_earlier == "Up to step 9: 9 earlier runs."
