"""What the data folder takes of the disk."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from attrs import asdict, frozen

from tinkex_server.formatting import size


@frozen
class Sizes:
    """Of the parts of a data folder, in bytes."""

    database: int
    checkpoints: int
    samplers: int
    """Weights that were saved to be sampled in one session."""

    def __str__(self) -> str:
        return ", ".join(f"{size(count)} of {part}" for part, count in asdict(self).items())


def sizes_of(data_dir: Path) -> Sizes:
    """It may take a while."""
    database = sum(file.stat().st_size for file in data_dir.glob("tinkex.db*"))
    return Sizes(
        database, folder_size(data_dir / "checkpoints"), folder_size(data_dir / "samplers")
    )


def folder_size(folder: Path) -> int:
    """Bytes of all files in it, but of those that go while it is read. It may take a while."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
