"""`FetchedFiles`: files of checkpoints, fetched from the server that has them for clients of the
bridge that want to download them.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from pathlib import Path

from tinkex.bridge.upstream import Upstream
from tinkex_server.access.signed_urls import LIFETIME


class FetchedFiles:
    """A folder of fetched checkpoints, each of which is kept while its URLs are valid. To be used
    on the event loop's thread, except `drop`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fetching: dict[tuple[str, str, float], asyncio.Task[Path]] = {}

    async def get(self, upstream: Upstream, path: str, saved_at: float) -> Path:
        """Returns the folder with the files of a checkpoint. They are fetched once, even if the
        caller is cancelled.

        Raises what `AsyncRestClient.download_checkpoint` does.

        Args:
            upstream: the server.
            path: the server's path of the checkpoint.
            saved_at: the time of the save, which tells it from an earlier one of the same path.
        """
        key = (upstream.url, path, saved_at)
        task = self._fetching.get(key)
        if task is None or (task.done() and not _is_good(task)):
            task = self._fetching[key] = asyncio.create_task(self._fetch(upstream, path, key))
        return await asyncio.shield(task)

    async def _fetch(self, upstream: Upstream, path: str, key: tuple[str, str, float]) -> Path:
        name = hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()
        parent = self._folder / name
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return await upstream.rest.download_checkpoint(path, output_dir=parent, force=True)

    def drop(self, now: float) -> None:
        """Removes what was fetched so long ago that no URL of it is valid."""
        for parent in self._folder.glob("*"):
            if parent.stat().st_mtime < now - LIFETIME:
                shutil.rmtree(parent, ignore_errors=True)

    def clear(self) -> None:
        """Removes what an earlier process fetched."""
        self.drop(time.time() + 2 * LIFETIME)


def _is_good(task: asyncio.Task[Path]) -> bool:
    """Returns whether the files were fetched, and are still there."""
    return not task.cancelled() and task.exception() is None and task.result().is_dir()
