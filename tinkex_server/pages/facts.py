"""The facts that the status page tells of the server itself."""

from __future__ import annotations

import asyncio
import shutil
import time
from concurrent.futures import Future
from pathlib import Path

from attrs import define, frozen

from tinkex_server.data_dir.sizes import folder_size

_DISK_SECONDS = 60.0
"""The age at which the measured size of the data folder is renewed."""


@frozen
class Disk:
    """The data folder, with the bytes that it uses and those that are free."""

    folder: str
    used: int
    free: int


@define(eq=False)
class DiskGauge:
    """Measures the data folder once in a while: with many checkpoints it takes about a second."""

    folder: Path
    _measuring: asyncio.Task[Disk] | None = None
    _measured_at: float = 0.0

    async def read(self) -> Disk:
        """Returns the size of the data folder as it was a minute ago at most."""
        if self._measuring is None or time.monotonic() > self._measured_at + _DISK_SECONDS:
            self._measuring = asyncio.create_task(asyncio.to_thread(_measure, self.folder))
            self._measured_at = time.monotonic()
        return await asyncio.shield(self._measuring)


def _measure(folder: Path) -> Disk:
    return Disk(str(folder), folder_size(folder), shutil.disk_usage(folder).free)


def describe_engine(ready: Future[str]) -> str:
    """Describes the engine: what it runs on, that it is starting, or why it could not start."""
    if not ready.done():
        return "is starting; requests wait for it"
    return str(ready.exception() or ready.result())
