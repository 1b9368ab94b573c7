"""`CheckpointDownload`: fetching a checkpoint in one call, without a client of one's own."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from tinkex.config import Config
from tinkex.downloads.download import Progress
from tinkex.rest.client import AsyncRestClient
from tinkex.sync.rest import RestClient


class CheckpointDownload:
    """Fetches a checkpoint from a script."""

    @staticmethod
    def download(
        path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: Progress | None = None,
        config: Config | None = None,
    ) -> Path:
        """Does, and raises, what `RestClient.download_checkpoint` does, with a client made of
        `config`.
        """
        with RestClient(config) as rest:
            return rest.download_checkpoint(
                path, output_dir=output_dir, force=force, progress=progress
            )


class AsyncCheckpointDownload:
    """Fetches a checkpoint from an asyncio application."""

    @staticmethod
    async def download(
        path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: Progress | None = None,
        config: Config | None = None,
    ) -> Path:
        """Does, and raises, what `AsyncRestClient.download_checkpoint` does, with a client made of
        `config`.
        """
        async with AsyncRestClient(config) as rest:
            return await rest.download_checkpoint(
                path, output_dir=output_dir, force=force, progress=progress
            )
