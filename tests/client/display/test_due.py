"""`DueLines`: a line for each tenth, and one whenever ten seconds have passed without one."""

from __future__ import annotations

import io

import pytest

from tinkex.cli.output import Output
from tinkex.cli.progress import transfer
from tinkex.display import due
from tinkex.display.due import DueLines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose one entry is the time."""
    now = [100.0]
    monkeypatch.setattr(due.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("clock")
def test_each_tenth_has_one_line() -> None:
    lines = DueLines(25)
    assert [n for n in range(26) if lines.take(n)] == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]
    resumed = DueLines(25, done=12)
    assert [n for n in range(12, 26) if resumed.take(n)] == [13, 15, 18, 20, 23, 25]


@pytest.mark.usefixtures("clock")
def test_tenths_that_pass_at_once_share_a_line() -> None:
    lines = DueLines(100)
    assert [n for n in (5, 55, 59, 60) if lines.take(n)] == [55, 60]


def test_ten_seconds_without_a_line_make_one(clock: list[float]) -> None:
    lines = DueLines(1000)
    due_at = list[int]()
    for seconds in range(1, 36):
        clock[0] = 100.0 + seconds
        if lines.take(100 if seconds >= 15 else 1):
            due_at.append(seconds)
    assert due_at == [10, 15, 25, 35]


def test_of_an_unknown_whole_time_alone_counts(clock: list[float]) -> None:
    lines = DueLines(None)
    assert not lines.take(10**9)
    clock[0] += 10
    assert lines.take(10**9)


def test_a_quick_transfer_is_one_line(clock: list[float]) -> None:
    shown = io.StringIO()
    output = Output("plain", (), err=shown)
    with transfer(output, "Downloading") as progress:
        for done in range(0, 1001, 10):
            progress(done, 1000)
        clock[0] += 10
        progress(1000, 1000)
    assert len(shown.getvalue().splitlines()) == 2
