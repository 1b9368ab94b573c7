"""`progress`: shows how far a loop is, in one line, wherever the program runs.

A terminal gets a bar, a notebook one line of HTML that changes, and a pipe a plain line now and
then, with no control characters.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from attrs import define, field

from tinkex.display.due import DueLines

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_REDRAW_SECONDS = 0.25  # between two changes of a line in a notebook


def progress(
    iterable: Iterable[T],
    label: str = "step",
    *,
    total: int | None = None,
    console: Console | None = None,
) -> Progress[T]:
    """Returns the items of an iterable, and shows how many have been taken.

    Args:
        iterable: what to loop over.
        label: the name of an item.
        total: the number of items; by default the iterable's length, if it has one.
        console: the terminal to draw on; by default standard error.

    Example:
        steps = tinkex.progress(range(3))
        for _ in steps:
            fb = trainer.forward_backward(data, "cross_entropy")
            trainer.optim_step(AdamParams(learning_rate=1e-4)).result()
            steps.show(loss=fb.result().metrics["loss:sum"])
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    return Progress(iterable, State(label, total), console)


@define
class State:
    """The state of a loop: the items taken so far, and the numbers that it shows."""

    label: str
    total: int | None
    done: int = 0
    numbers: dict[str, Any] = field(factory=dict[str, Any])
    began: float = field(factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the rest will take at the pace so far; None if that is unknown."""
        if self.total is None or not self.done:
            return None
        return self.seconds / self.done * max(0, self.total - self.done)

    @property
    def count(self) -> str:
        return f"{self.done}/{self.total}" if self.total is not None else str(self.done)

    @property
    def shown_numbers(self) -> str:
        return " ".join(f"{name}={_shown(value)}" for name, value in self.numbers.items())


class Progress(Generic[T]):
    """The items of an iterable, with a line that shows how many have been taken. Made by
    `progress`.
    """

    def __init__(self, iterable: Iterable[T], state: State, console: Console | None) -> None:
        self._iterable, self._state, self._console = iterable, state, console

    def __iter__(self) -> Iterator[T]:
        state = self._state
        state.done, state.began = 0, time.monotonic()
        line = _line_for(state, self._console)
        try:
            for item in self._iterable:
                yield item
                state.done += 1
                line.redraw()
        finally:
            line.end()

    def __len__(self) -> int:
        if self._state.total is None:
            raise TypeError("the number of items is not known")
        return self._state.total

    def show(self, **numbers: Any) -> None:
        """Shows numbers behind the bar, such as `loss=0.5`, until they are shown anew."""
        self._state.numbers.update(numbers)

    def __repr__(self) -> str:
        return f"<Progress {self._state.label} {self._state.count}>"


class _Line(Protocol):
    """A place that shows the state of a loop."""

    def redraw(self) -> None: ...

    def end(self) -> None: ...


def _line_for(state: State, console: Console | None) -> _Line:
    if console is None and _in_notebook():
        return _NotebookLine(state)
    from rich.console import Console as MakeConsole

    console = console or MakeConsole(stderr=True)
    return _Bar(state, console) if console.is_terminal else _PlainLines(state, console)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Bar:
    """A bar in a terminal."""

    def __init__(self, state: State, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._state = state
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task(state.label, total=state.total, numbers="")
        self._progress.start()

    def redraw(self) -> None:
        state = self._state
        self._progress.update(
            self._task,
            completed=state.done,
            description=f"{state.label} {state.count}",
            numbers=state.shown_numbers,
        )

    def end(self) -> None:
        self.redraw()
        self._progress.stop()


class _PlainLines:
    """Lines in a pipe or a file, whenever one is due, and one at the end."""

    def __init__(self, state: State, console: Console) -> None:
        self._state, self._console = state, console
        self._due = DueLines(state.total)

    def redraw(self) -> None:
        if self._due.take(self._state.done):
            self._write()

    def end(self) -> None:
        if self._state.done > self._due.done:
            self._write()

    def _write(self) -> None:
        state = self._state
        left = state.seconds_left
        parts = (
            f"{state.label}={state.count}",
            state.shown_numbers,
            f"eta={left:.0f}s" if left else "",
        )
        self._console.file.write(" ".join(part for part in parts if part) + "\n")
        self._console.file.flush()


class _NotebookLine:
    """One line of HTML below a notebook's cell, which changes."""

    def __init__(self, state: State) -> None:
        from importlib import import_module

        display: Any = import_module("IPython.display")
        self._html, self._state = display.HTML, state
        self._handle: Any = display.display(self._drawn(), display_id=True)
        self._drawn_at = time.monotonic()

    def redraw(self) -> None:
        if time.monotonic() - self._drawn_at >= _REDRAW_SECONDS:
            self._update()

    def end(self) -> None:
        self._update()

    def _update(self) -> None:
        self._drawn_at = time.monotonic()
        self._handle.update(self._drawn())

    def _drawn(self) -> Any:
        return self._html(as_html(self._state))


def as_html(state: State) -> str:
    """Returns the state of a loop as one line of HTML."""
    left = state.seconds_left
    value = "" if state.total is None else f' value="{state.done}" max="{state.total}"'
    words = (
        f"{state.label} {state.count}",
        state.shown_numbers,
        f"{left:.0f} s left" if left else f"{state.seconds:.0f} s",
    )
    text = html.escape(" · ".join(word for word in words if word))
    return f"<div><progress{value}></progress> <code>{text}</code></div>"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
