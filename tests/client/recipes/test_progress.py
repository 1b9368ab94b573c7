"""The display of a run: a bar on a terminal, plain lines elsewhere, and the cause of a wait."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.support.wait_until import wait_until
from tinkex import WaitFacts, events
from tinkex.display import due
from tinkex.recipes.activity import Activity
from tinkex.recipes.card import sparkline
from tinkex.recipes.progress import Bar, Lines, Pace, display_for


@pytest.fixture
def activity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Activity]:
    """An activity that is worth saying at once."""
    monkeypatch.setattr("tinkex.recipes.activity._WORTH_SAYING", 0.0)
    with Activity() as activity:
        yield activity


def queue(state: str | None, reason: str | None = None) -> None:
    events.publish(
        events.QueueStateChange(
            operation="forward_backward", request_id="r", queue_state=state, reason=reason
        )
    )


def test_it_says_whose_the_wait_is(activity: Activity) -> None:
    activity.now("training step 3 on the server")
    assert activity.describe() == "0 s training step 3 on the server"
    queue("paused_capacity", "all machines are busy")
    assert activity.describe() == (
        "0 s training step 3 on the server: the server's queue, paused_capacity (all machines are "
        "busy)"
    )
    queue("active")
    assert activity.describe().endswith(": the server computes")
    events.publish(events.Retry(operation="o", attempt=2, pause=1.0, reason="503"))
    assert activity.describe().endswith(": try 2 failed, 503")
    events.publish(events.Wait(facts=WaitFacts(operation="o", owner="network")))
    assert activity.describe().endswith(": the network, or a server that does not answer")
    activity.now("scoring 8 answers in this program")
    assert activity.describe() == "0 s scoring 8 answers in this program"


def test_a_short_wait_is_not_worth_a_word() -> None:
    with Activity() as activity:
        activity.now("sampling")
        assert activity.describe() == ""


def test_a_pipe_gets_a_line_for_each_tenth(activity: Activity) -> None:
    shown, pace = io.StringIO(), Pace(0, 200)
    display = display_for(Console(file=shown), activity, "loss", 0, 200)
    assert isinstance(display, Lines)
    activity.now("training")
    with display:
        for step in range(1, 201):
            pace.note(step, 10)
            display.step(pace, {"loss": 1 / step})
        display.note("a note")
    *lines, note = shown.getvalue().splitlines()
    assert len(lines) == 10
    assert note == "a note"
    form = r"step=(\d+)/200 loss=\S+ tok/s=\d+ eta=\d+s waiting=0 s training"
    assert [int(match[1]) for line in lines if (match := re.fullmatch(form, line))] == [
        *range(20, 201, 20)
    ]
    assert not {"\r", "\x1b"} & set(shown.getvalue())


def test_a_pipe_gets_a_line_when_nothing_happens(
    activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "LINE_SECONDS", 0.1)
    shown = io.StringIO()
    activity.now("sampling 8 answers on the server")
    queue("paused_rate_limit")
    with Lines(Console(file=shown), activity, "reward", 3, 9):
        wait_until(lambda: bool(shown.getvalue()))
    assert re.fullmatch(
        r"step=3/9 waiting=\d+ s sampling 8 answers on the server: the server's queue, "
        "paused_rate_limit",
        shown.getvalue().splitlines()[0],
    )


def test_a_terminal_gets_one_bar(activity: Activity) -> None:
    shown, pace = io.StringIO(), Pace(1, 4)
    console = Console(file=shown, force_terminal=True, force_interactive=True, width=120)
    display = display_for(console, activity, "loss", 1, 4)
    assert isinstance(display, Bar)
    with display:
        for step in (2, 3, 4):
            time.sleep(0.01)
            pace.note(step, 10)
            display.step(pace, {"loss": 0.5})
        display.note("a note")
    screen = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.getvalue())
    last = screen.split("\r")[-1]
    assert "step 4/4" in last
    assert "loss 0.5" in last
    assert re.search(r"[\d,]+ tokens/s  0:00 left", last)


def test_the_pace_counts_only_this_process() -> None:
    pace = Pace(50, 100)
    assert pace.seconds_left is None
    time.sleep(0.02)
    pace.note(51, 100)
    assert 0 < pace.tokens_per_second < 100 / 0.02
    assert pace.seconds_left is not None
    assert pace.seconds_left >= 0.02 * 49


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([3.0, 2.0, 1.0, 1.0], "█▅▁▁"),
        ([1.0], "▁"),
        ([float(n) for n in range(80)], f"▁▁▁{'▂' * 6}▃▃▃▃▃{'▄' * 6}{'▅' * 6}▆▆▆▆▆{'▇' * 6}███"),
    ],
)
def test_a_curve_fits_its_width(values: list[float], curve: str) -> None:
    assert sparkline(values) == curve
