"""The progress of a transfer: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from attrs import define, field

from tinkex.cli.output import Output, size
from tinkex.display.due import DueLines

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
    """Writes a line at the first byte, and then whenever time makes one due: a quick transfer needs
    no line for each tenth.
    """

    output: Output
    what: str
    _due: DueLines | None = field(default=None, init=False)

    def __call__(self, done: int, total: int | None) -> None:
        if self._due is None:
            self._due = DueLines(total=None)
        elif not self._due.take(done):
            return
        of = f" of {size(total)}" if total is not None else ""
        self.output.status(f"{self.what}: {size(done)}{of}")
