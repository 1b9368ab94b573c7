"""`CheckpointDownload`: downloads a checkpoint with one call, without a client."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from tinkex.config import Config
from tinkex.downloads.download import ProgressCallback
from tinkex.rest.client import AsyncRestClient
from tinkex.sync.rest import RestClient


class CheckpointDownload:
    """A download of a checkpoint with one call, for scripts.

    Example:
        from tinkex import CheckpointDownload

        downloaded = CheckpointDownload.download(sampler_path, output_dir=folder)
        print(sorted(file.name for file in downloaded.iterdir()))
    """

    @staticmethod
    def download(
        path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: ProgressCallback | None = None,
        config: Config | None = None,
    ) -> Path:
        """Calls `RestClient.download_checkpoint` on a client with the settings `config`, by default
        those of the environment, and returns the folder of the files.
        """
        with RestClient(config) as rest:
            return rest.download_checkpoint(
                path, output_dir=output_dir, force=force, progress=progress
            )


class AsyncCheckpointDownload:
    """A download of a checkpoint with one call, for asyncio programs.

    Example:
        from tinkex import AsyncCheckpointDownload

        downloaded = await AsyncCheckpointDownload.download(sampler_path, output_dir=folder)
        print(sorted(file.name for file in downloaded.iterdir()))
    """

    @staticmethod
    async def download(
        path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: ProgressCallback | None = None,
        config: Config | None = None,
    ) -> Path:
        """Calls `AsyncRestClient.download_checkpoint` on a client with the settings `config`, by
        default those of the environment, and returns the folder of the files.
        """
        async with AsyncRestClient(config) as rest:
            return await rest.download_checkpoint(
                path, output_dir=output_dir, force=force, progress=progress
            )
