"""`AdapterFolders`: the adapters that vLLM reads, each in a folder of its own for as long as
samples use it.
"""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path
from secrets import token_hex

from attrs import frozen

from tinkex_server.engine.interface import ADAPTER_FILES, InvalidRequest
from tinkex_server.engine.owned_folder import OwnedFolder, remove_abandoned


@frozen
class Adapter:
    """One generation of an adapter, under a name that no other generation ever has."""

    name: str
    folder: Path


class AdapterFolders:
    """The folders of adapters under `root`; None is a temporary folder.

    vLLM reads an adapter again after it was restarted, or when its memory for adapters was full.
    The folder that the adapter was saved to may be deleted or replaced by then, so each generation
    is kept apart: as hard links, which take no space, where the disk allows them.
    """

    def __init__(self, root: Path | None) -> None:
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
        self._parent = root
        # of this server alone: several may share one disk, or one vLLM
        self._root = OwnedFolder(root)
        self._label = token_hex(4)
        self._numbers = count(1)

    def add(self, source: Path) -> Adapter:
        """Keeps the adapter in `source`. Raises `InvalidRequest` if there is none."""
        name = f"tinkex-{self._label}-{next(self._numbers)}"
        adapter = Adapter(name, self._root.path / name)
        adapter.folder.mkdir()
        try:
            for file in ADAPTER_FILES:
                _link_or_copy(source / file, adapter.folder / file)
        except FileNotFoundError as error:
            self.remove(adapter)
            raise InvalidRequest(
                "the saved weights were deleted, or another engine saved them"
            ) from error
        return adapter

    def remove(self, adapter: Adapter) -> None:
        shutil.rmtree(adapter.folder, ignore_errors=True)

    def close(self) -> None:
        """Removes all of them, and those of others that were killed."""
        self._root.close()
        remove_abandoned(self._parent)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)
