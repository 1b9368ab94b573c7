"""`Folders`: where saved weights lie in the data folder.

Every save goes into a folder of its own, which a row of the store names once it is whole and on the
disk; so whoever follows a row finds all of a save. What was deleted, overwritten or has expired is
collected: folders that a row named, or that were made by this server, and that no row names any
more. A folder that no row ever named is no reason to delete it: see `rebuild`.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path

_PLACES = ("checkpoints/*/*/*", "samplers/*")
_ASIDE = "set_aside"
_LONGEST = 100  # characters of a name: Windows takes 260 of a whole path
# no files' names on Windows, whatever follows the dot
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


class DataDirReplaced(RuntimeError):
    """The data folder is no longer the one that the server was started on, so that nothing can be
    saved. The message says what to do.
    """


class Folders:
    """The folders of one server, by their names in the store. To be used on the event loop's
    thread, but for `write` and `path`.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._held: Counter[str] = Counter()
        self._known: set[str] = set()  # a row names them or named them, or they were made here
        for place in ("checkpoints", "samplers"):
            (data_dir / place).mkdir(mode=0o700, exist_ok=True)
            (data_dir / place).chmod(0o700)  # whatever the umask, and those of older releases
        self._identity = self._found()

    def path(self, name: str) -> Path:
        return self._data_dir / name

    @contextmanager
    def new(self, *parts: str) -> Generator[tuple[str, Path], None, None]:
        """A name that was never used, like `parts` for people, and its path. By the end of the
        block a row names it, or it is collected.

        Raises `DataDirReplaced`, before or after the block, when the data folder is no longer the
        one that the server was started on.
        """
        self._check_there()
        name = "/".join(_as_file_name(part) for part in parts) + f".{secrets.token_hex(4)}"
        self._known.add(name)
        with self.hold(name) as path:
            yield name, path
        self._check_there(path)

    def _check_there(self, saved: Path | None = None) -> None:
        if self._found() == self._identity and (saved is None or saved.is_dir()):
            return
        raise DataDirReplaced(
            f"nothing can be saved: the data folder {self._data_dir}, or its database, was "
            "removed or replaced while the server ran; "
            "put it back and restart the server, or start it on another folder; what is in "
            "memory only is lost by that",
        )

    def _found(self) -> Sequence[tuple[int, int] | None]:
        """Which folder, and which database in it, lie there now: the disk and the file's number on
        it.
        """
        return [_number_of(path) for path in (self._data_dir, self._data_dir / "tinkex.db")]

    @contextmanager
    def hold(self, name: str) -> Generator[Path, None, None]:
        """The path of a folder that is not collected meanwhile, be it deleted or not."""
        self._held[name] += 1
        try:
            yield self.path(name)
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def remember(self, names: Set[str]) -> None:
        """Names that rows of the store have, or had."""
        self._known |= names

    async def remove_unused(self, named: Callable[[], Set[str]]) -> None:
        """Removes the folders that were `named` in the store, are not now, and that nobody holds. A
        new one is held until it is named.
        """
        if not threading.main_thread().is_alive():
            # the interpreter is exiting, and no thread can be had any more: the next start sees to
            # them
            return
        gone = self._known - named() - self._held.keys()
        if gone:
            await asyncio.to_thread(self._remove, gone)
            self._forget(gone)

    def remove_unused_offline(self, named: Set[str]) -> None:
        """The same while nothing is saved or read; and what has become empty."""
        gone = self._known - named
        self._remove(gone)
        self._forget(gone)
        self.drop_empty()

    def drop_empty(self) -> None:
        """Removes folders of runs with nothing in them."""
        for place in ("checkpoints/*/*", "checkpoints/*"):
            for path in self._data_dir.glob(place):
                with suppress(OSError):  # it is not empty
                    path.rmdir()

    def names_on_disk(self) -> set[str]:
        """The names of all that are there, named by a row or not."""
        return {
            path.relative_to(self._data_dir).as_posix()
            for place in _PLACES
            for path in self._data_dir.glob(place)
            if path.is_dir()
        }

    def set_aside(self, name: str) -> None:
        """Moves a folder to where nothing looks for it; `set_aside_paths` tells of it."""
        (self._data_dir / _ASIDE).mkdir(mode=0o700, exist_ok=True)
        aside = self._data_dir / _ASIDE / name
        aside.parent.mkdir(parents=True, exist_ok=True)
        self.path(name).rename(aside)

    def set_aside_paths(self) -> list[str]:
        """The folders that were set aside, by their paths in the data folder; in order."""
        root = self._data_dir / _ASIDE
        return sorted(
            path.relative_to(self._data_dir).as_posix()
            for place in _PLACES
            for path in root.glob(place)
        )

    def remove_set_aside(self) -> None:
        """Removes all that was set aside."""
        shutil.rmtree(self._data_dir / _ASIDE, ignore_errors=True)

    def _forget(self, names: Iterable[str]) -> None:
        """Of what could not be removed it is tried again."""
        self._known -= {name for name in names if not self.path(name).exists()}

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            shutil.rmtree(self.path(name), ignore_errors=True)


def write(folder: Path, save: Callable[[Path], object]) -> None:
    """Has `save` make this folder, and returns when it is on the disk, with all that leads to
    it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    save(folder)
    flush((*(file for file in folder.rglob("*") if file.is_file()), folder, *folder.parents[:4]))


def flush(paths: Iterable[Path]) -> None:
    """Returns when these files and folders are on the disk."""
    for path in paths:
        _flush(path)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # which cannot, and need not
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # it is not there, or cannot be reached
        return None
    return found.st_dev, found.st_ino


def _as_file_name(text: str) -> str:
    """A name that every system takes: Windows has no colons in names, no dots at their ends, and
    names that stand for devices.
    """
    name = re.sub(r"^\.|[^A-Za-z0-9._-]|\.$", "_", text[:_LONGEST])
    return f"_{name}" if _DEVICES.match(name) else name
