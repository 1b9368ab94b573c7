"""The sizes of the parts of the data folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from attrs import asdict, frozen

from tinkex_server.formatting import size


@frozen
class Sizes:
    """The bytes that the parts of a data folder take."""

    database: int
    checkpoints: int
    samplers: int
    """The weights that were saved for single sampling sessions."""

    def __str__(self) -> str:
        return ", ".join(f"{size(count)} of {part}" for part, count in asdict(self).items())


def sizes_of(data_dir: Path) -> Sizes:
    """Returns the sizes of a data folder. Looking at all files may take a while."""
    database = sum(file.stat().st_size for file in data_dir.glob("tinkex.db*"))
    return Sizes(
        database, folder_size(data_dir / "checkpoints"), folder_size(data_dir / "samplers")
    )


def folder_size(folder: Path) -> int:
    """Returns the bytes of all files in a folder. Files that vanish meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
