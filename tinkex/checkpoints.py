"""`CheckpointDownload` and `AsyncCheckpointDownload`: checkpoint downloads without a client."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from tinkex.config import Config
from tinkex.downloads.download import Progress
from tinkex.rest.client import AsyncRestClient
from tinkex.sync.rest import RestClient


class CheckpointDownload:
    """A checkpoint download in one blocking call."""

    @staticmethod
    def download(
        path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: Progress | None = None,
        config: Config | None = None,
    ) -> Path:
        """Downloads a checkpoint with a client created from `config`.

        Arguments and errors are those of `RestClient.download_checkpoint`.
        """
        with RestClient(config) as rest:
            return rest.download_checkpoint(
                path, output_dir=output_dir, force=force, progress=progress
            )


class AsyncCheckpointDownload:
    """A checkpoint download in one asyncio call."""

    @staticmethod
    async def download(
        path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: Progress | None = None,
        config: Config | None = None,
    ) -> Path:
        """Downloads a checkpoint with a client created from `config`.

        Arguments and errors are those of `AsyncRestClient.download_checkpoint`.
        """
        async with AsyncRestClient(config) as rest:
            return await rest.download_checkpoint(
                path, output_dir=output_dir, force=force, progress=progress
            )
