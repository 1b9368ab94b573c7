"""`DownloadBar`: how far a download is, drawn in the terminal."""

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
    """A progress bar to be given as `progress`. It can be called from any thread.

    Example:
        with DownloadBar() as bar:
            rest.download_checkpoint(path, progress=bar)

    Args:
        description: what stands before the bar.
        console: where it is drawn; by default on standard error.
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
        """Draws it: `downloaded` of `total` bytes, which are None while they are not known."""
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
