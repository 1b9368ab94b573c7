"""`Folders`: where saved weights lie in the data folder.

Every save goes into a folder of its own, which a row of the store names once it is whole and on the disk; so whoever follows a row
finds all of a save, and a crash leaves nothing but folders that no row names. Those, and what was deleted, overwritten or has
expired, are collected.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Set
from contextlib import contextmanager, suppress
from pathlib import Path

_PLACES = ("checkpoints/*/*/*", "samplers/*")
_LONGEST = 200  # characters of a name; file systems take 255 bytes


class Folders:
    """The folders of one server, by their names in the store. To be used on the event loop's thread, but for `write` and `path`."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._held: Counter[str] = Counter()

    def path(self, name: str) -> Path:
        return self._data_dir / name

    @contextmanager
    def new(self, *parts: str) -> Generator[tuple[str, Path], None, None]:
        """A name that was never used, like `parts` for people, and its path. By the end of the block a row names it, or it is collected."""
        name = "/".join(_as_file_name(part) for part in parts) + f".{secrets.token_hex(4)}"
        with self.held(name) as path:
            yield name, path

    @contextmanager
    def held(self, name: str) -> Generator[Path, None, None]:
        """The path of a folder that is not collected meanwhile, be it deleted or not."""
        self._held[name] += 1
        try:
            yield self.path(name)
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    async def collect(self, named: Callable[[], Set[str]]) -> None:
        """Removes the folders that are not `named` in the store and that nobody holds.

        A folder is held until it is named, so of those that were there first, the ones that are neither now are nobody's.
        """
        if not threading.main_thread().is_alive():
            return  # the interpreter is exiting, and no thread can be had any more: the next start removes them
        there = await asyncio.to_thread(self._listed)
        await asyncio.to_thread(self._remove, there - named() - self._held.keys())

    def collect_at_rest(self, named: Set[str]) -> None:
        """The same while nothing is saved or read; and what has become empty."""
        self._remove(self._listed() - named)
        for place in ("checkpoints/*/*", "checkpoints/*"):
            for path in self._data_dir.glob(place):
                with suppress(OSError):  # it is not empty
                    path.rmdir()

    def _listed(self) -> set[str]:
        return {path.relative_to(self._data_dir).as_posix() for place in _PLACES for path in self._data_dir.glob(place)}

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            shutil.rmtree(self.path(name), ignore_errors=True)


def write(folder: Path, save: Callable[[Path], object]) -> None:
    """Has `save` make this folder, and returns when it is on the disk, with all that leads to it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    save(folder)
    for path in (*(file for file in folder.rglob("*") if file.is_file()), folder, *folder.parents[:4]):
        _flush(path)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # which cannot, and need not
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_file_name(text: str) -> str:
    return re.sub(r"^\.|[^A-Za-z0-9:._-]", "_", text)[:_LONGEST]
