"""The progress of a run: a bar on a terminal, and elsewhere a plain line now and then."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from tinkex.display.due import DueLines
from tinkex.recipes.activity import Activity

_RECENT = 20  # steps that the time left is computed from
_TICK = 0.5  # seconds between two looks whether a line is due while no step ends


class Pace:
    """The pace of a run."""

    def __init__(self, step: int, total: int) -> None:
        self.step, self.total = step, total
        self._began = time.monotonic()
        self._ends = deque([self._began], maxlen=_RECENT + 1)
        self._tokens = 0.0

    def note(self, step: int, tokens: float) -> None:
        """Notes the end of a step, which has read so many tokens."""
        self.step = step
        self._tokens += tokens
        self._ends.append(time.monotonic())

    @property
    def tokens_per_second(self) -> float:
        """The tokens that a second has read, in the mean of this process."""
        return self._tokens / max(self._ends[-1] - self._began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the other steps will probably take; None before the first step."""
        steps = len(self._ends) - 1
        if not steps:
            return None
        return (self._ends[-1] - self._ends[0]) / steps * (self.total - self.step)


class Display(AbstractContextManager["Display"], ABC):
    """A display of the progress of a run, to be entered while the run goes on."""

    @abstractmethod
    def step(self, pace: Pace, metrics: Mapping[str, float]) -> None:
        """Shows that a step has ended."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Shows a line that stays."""


class Silence(Display):
    """A display that shows nothing."""

    def step(self, pace: Pace, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def __exit__(self, *error: object) -> None:
        """Ends nothing."""


class Bar(Display):
    """One bar, which also shows what the run waits for."""

    def __init__(
        self, console: Console, activity: Activity, goal: str, done: int, total: int
    ) -> None:
        self._goal = goal
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            _ActivityColumn(activity),
            console=console,
        )
        self._task = self._bar.add_task("", completed=done, total=total)

    def step(self, pace: Pace, metrics: Mapping[str, float]) -> None:
        """Moves the bar."""
        left = pace.seconds_left
        text = f"{self._goal} {metrics[self._goal]:.4g}  {pace.tokens_per_second:,.0f} tokens/s"
        if left is not None:
            text += f"  {left // 60:.0f}:{left % 60:02.0f} left"
        self._bar.update(self._task, completed=pace.step, description=text)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


class _ActivityColumn(ProgressColumn):
    """A column with what the run waits for, computed anew at each refresh."""

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self._activity = activity

    def render(self, task: Task) -> Text:
        return Text(self._activity.describe(), style="dim", overflow="ellipsis", no_wrap=True)


class Lines(Display):
    """Plain lines, whenever one is due, which say what the run waits for."""

    def __init__(
        self, console: Console, activity: Activity, goal: str, done: int, total: int
    ) -> None:
        self._console, self._activity, self._goal = console, activity, goal
        self._line = f"step={done}/{total}"
        self._done, self._due = done, DueLines(total, done)
        self._lock = threading.RLock()  # a signal handler of the same thread may write, too
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="tinkex progress", daemon=True)

    def step(self, pace: Pace, metrics: Mapping[str, float]) -> None:
        """Writes a line if one is due."""
        left = pace.seconds_left
        with self._lock:
            self._done = pace.step
            self._line = (
                f"step={pace.step}/{pace.total} {self._goal}={metrics[self._goal]:.4g} "
                f"tok/s={pace.tokens_per_second:.0f} eta={0 if left is None else left:.0f}s"
            )
            self._write_if_due()

    def note(self, text: str) -> None:
        """Writes a line."""
        with self._lock:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            with self._lock:
                self._write_if_due()

    def _write_if_due(self) -> None:
        if self._due.take(self._done):
            waiting = self._activity.describe()
            self.note(self._line + (f" waiting={waiting}" if waiting else ""))

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._ticker.join()


def display_for(
    console: Console | None, activity: Activity, goal: str, done: int, total: int
) -> Display:
    """Returns the display that fits a console: a bar, plain lines, or for no console nothing."""
    if console is None:
        return Silence()
    kind = Bar if console.is_interactive else Lines
    return kind(console, activity, goal, done, total)
