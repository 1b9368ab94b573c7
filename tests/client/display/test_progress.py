"""`tinkex.progress` in a terminal, in a pipe and in a notebook."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import types

import pytest
from rich.console import Console

import tinkex
from tinkex.display import progress as progress_module


def lines_in_a_pipe(total: int | None, items: int) -> list[str]:
    """Loops with a console that is no terminal; returns the lines that were written."""
    console = Console(file=io.StringIO())
    steps = tinkex.progress(iter(range(items)), total=total, console=console)
    for item in steps:
        steps.show(loss=1 / (item + 1), lr=0.001)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_in_a_pipe_there_is_a_line_for_each_tenth() -> None:
    lines = lines_in_a_pipe(200, 200)
    assert [line.split()[0] for line in lines] == [f"step={n}/200" for n in range(20, 201, 20)]
    assert re.fullmatch(r"step=20/200 loss=0\.05 lr=0\.001 eta=\d+s", lines[0])
    assert lines[-1] == "step=200/200 loss=0.005 lr=0.001"


def test_without_a_total_the_count_is_shown_at_the_end() -> None:
    assert lines_in_a_pipe(None, 7) == ["step=7 loss=0.1429 lr=0.001"]
    assert lines_in_a_pipe(None, 0) == []


def test_time_makes_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 6))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(seconds)))
    assert len(lines_in_a_pipe(None, 6)) > 2


def test_the_items_are_those_of_the_iterable_and_errors_pass() -> None:
    steps = tinkex.progress([3, 1, 2], console=Console(file=io.StringIO()))
    assert (len(steps), list(steps), list(steps)) == (3, [3, 1, 2], [3, 1, 2])
    with pytest.raises(TypeError, match="not known"):
        len(tinkex.progress(iter([1])))

    def failing() -> object:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(tinkex.progress(failing(), console=Console(file=io.StringIO())))  # type: ignore[call-overload]


def test_stdout_stays_free() -> None:
    script = "import tinkex\nfor _ in tinkex.progress(range(3)): pass"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "step=3/3")
    assert not {"\r", "\x1b"} & set(done.stderr)


def test_a_terminal_gets_one_line_that_changes() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    steps = tinkex.progress(range(5), console=console)
    for _ in steps:
        steps.show(loss=0.25)
    last = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue()).splitlines()[-1]
    assert "step 5/5" in last
    assert "loss=0.25" in last


def test_a_notebook_gets_one_html_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    def display(html: str, display_id: bool) -> Handle:
        assert display_id
        shown.append(html)
        return Handle()

    class ZMQInteractiveShell:
        """Named like the shell of a notebook."""

    ipython = types.ModuleType("IPython")
    monkeypatch.setattr(ipython, "get_ipython", ZMQInteractiveShell, raising=False)
    of_display = types.ModuleType("IPython.display")
    monkeypatch.setattr(of_display, "HTML", str, raising=False)
    monkeypatch.setattr(of_display, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    steps = tinkex.progress(range(1000))
    for _ in steps:
        steps.show(note="<b>")
    assert len(shown) < 10  # not one for each step
    assert shown[0].startswith('<div><progress value="0" max="1000">')
    assert 'value="1000" max="1000"' in shown[-1]
    assert "step 1000/1000 · note=&lt;b&gt;" in shown[-1]
