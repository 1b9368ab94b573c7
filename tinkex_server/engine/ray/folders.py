"""Folders of saved weights as values, to be sent between machines that share no disk.

The contents are arrays, which Ray keeps in its object store once for each node, and which the
processes on that node read without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Files: TypeAlias = Mapping[str, NDArray[np.uint8]]
"""The contents of the files in a folder, by name."""


def read_folder(folder: Path, names: Iterable[str] | None = None) -> Files:
    """Returns the files in a folder, or those of these names that it has."""
    found = [file for file in sorted(folder.glob("*")) if file.is_file()]
    wanted = None if names is None else set(names)
    return {
        file.name: np.frombuffer(file.read_bytes(), np.uint8)
        for file in found
        if wanted is None or file.name in wanted
    }


def write_folder(files: Files, folder: Path) -> None:
    """Writes the files to a folder, which is created unless it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.data)
