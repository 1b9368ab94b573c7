"""`tinkex.plot.curves`: what is drawn of a run's metrics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinkex
from tinkex import InvalidInputError
from tinkex.plot import smoothed


def lines(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]


def test_a_file_of_metrics_is_drawn_with_a_panel_for_each(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "loss": 2.0, "note": "text"},
        {"step": 20, "loss": 1.0, "reward": -0.5},
        {"step": 30, "loss": 0.5, "reward": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    figure = tinkex.plot.curves(tmp_path, smooth=3, title="A run")
    loss, reward = figure.axes
    assert (loss.get_ylabel(), reward.get_ylabel()) == ("loss", "reward")
    assert lines(loss) == [
        ([10, 20, 30], [2.0, 1.0, 0.5]),
        ([10, 20, 30], [2.0, pytest.approx(3.5 / 3), 0.5]),
    ]
    assert lines(reward)[0] == ([20, 30], [-0.5, 0.5])
    assert (loss.get_title(), reward.get_xlabel()) == ("A run", "step")
    assert loss.get_ylim()[0] == 0
    assert reward.get_ylim()[0] < -0.5
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    shown: Any = figure
    assert shown._repr_png_().startswith(b"\x89PNG")


def test_steps_without_a_number_count_from_one_and_names_choose() -> None:
    figure = tinkex.plot.curves([{"a": 1.0, "b": 2.0}, {"a": 3.0}], ["a"], smooth=1)
    [axes] = figure.axes
    assert lines(axes) == [([1, 2], [1.0, 3.0])]


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(InvalidInputError, match="no metric c") as raised:
        tinkex.plot.curves([{"a": 1.0}], ["c"])
    assert raised.value.advice == "There are a."
    with pytest.raises(InvalidInputError, match="nothing to draw"):
        tinkex.plot.curves([])


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'tinkex\[plot\]'"):
        tinkex.plot.curves([{"a": 1.0}])


def test_a_gap_stays_a_gap() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0, 7.0, 9.0])
    drawn = smoothed(values, 3)
    assert np.isnan(drawn[1])
    assert drawn[-2:].tolist() == [7.0, 9.0]
    assert smoothed(np.arange(9.0), 5).tolist() == list(range(9))
