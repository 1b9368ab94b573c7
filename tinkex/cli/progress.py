"""The progress of a transfer: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from attrs import define, field

from tinkex.cli.output import Output, size

_INTERVAL = 10.0  # seconds between two lines

Progress = Callable[[int, int | None], object]
"""A function of the bytes that were transferred, and of the bytes in all, None while unknown."""


@contextmanager
def transfer(output: Output, what: str) -> Generator[Progress]:
    """Yields a function to give as `progress`. `what` is a word such as "Downloading"."""
    if output.mode == "quiet":
        yield _silent
    elif output.err_terminal.moves_cursor:
        from tinkex.downloads.progress_bar import DownloadBar

        with DownloadBar(what, console=output.err_console) as bar:
            yield bar
    else:
        yield _Lines(output, what)


def _silent(done: int, total: int | None) -> None:
    """Says nothing."""


@define(eq=False)
class _Lines:
    """Writes a line at the first byte and then every ten seconds."""

    output: Output
    what: str
    _next: float = field(default=0.0, init=False)

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            of = f" of {size(total)}" if total is not None else ""
            self.output.status(f"{self.what}: {size(done)}{of}")
