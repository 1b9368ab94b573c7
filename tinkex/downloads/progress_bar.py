"""`DownloadBar`: a progress bar of a download in the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class DownloadBar:
    """A progress bar in the terminal, to be given as `progress`. It may be called in any thread.

    Args:
        description: the text before the bar.
        console: the console to draw on; by default standard error.

    Example:
        from tinkex import DownloadBar

        with DownloadBar() as bar:
            rest.download_checkpoint(path, output_dir=folder, progress=bar)
    """

    def __init__(self, description: str = "Downloading", console: Console | None = None) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console or Console(stderr=True))
        self._task = self._progress.add_task(description, total=None)

    def __call__(self, downloaded: int, total: int | None) -> None:
        """Draws `downloaded` of `total` bytes; `total` is None while it is not known."""
        self._progress.update(self._task, completed=downloaded, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
