"""`Folders`: the folders of saved weights in the data folder.

Each save has a folder of its own. A row of the store names the folder only when the save is
complete and on the disk, so a folder that a row names is always complete. A folder is removed when
a row has named it, or this server has created it, and no row names it any more: its weights were
deleted or overwritten, or have expired. A folder that no row ever named is not removed: see
`reconcile`.
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
_MAX_NAME = 100  # characters; Windows allows 260 for a whole path
# reserved names on Windows, with any extension
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


class DataDirReplaced(RuntimeError):
    """The data folder is no longer the one that the server was started on, so that nothing can be
    saved. The message says what to do.
    """


class Folders:
    """The folders of one server, by their names in the store.

    Only `path` may be called on other threads than the event loop's.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._held: Counter[str] = Counter()
        # names that a row has or had, and names of folders that this server created
        self._known: set[str] = set()
        for place in ("checkpoints", "samplers"):
            (data_dir / place).mkdir(mode=0o700, exist_ok=True)
            (data_dir / place).chmod(0o700)  # whatever the umask, and in folders of older releases
        self._identity = self._find_identity()

    def path(self, name: str) -> Path:
        """Returns the path of a folder."""
        return self._data_dir / name

    @contextmanager
    def new(self, *parts: str) -> Generator[tuple[str, Path], None, None]:
        """Yields the name and the path of a new folder, which the block creates. The name resembles
        `parts`, and was never used. If no row names the folder when the block ends, it is removed
        later.

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
        if self._find_identity() == self._identity and (saved is None or saved.is_dir()):
            return
        raise DataDirReplaced(
            f"nothing can be saved: the data folder {self._data_dir}, or its database, was "
            "removed or replaced while the server was running. Put it back and restart the server, "
            "or start the server on another folder; models that are only in memory are lost",
        )

    def _find_identity(self) -> Sequence[tuple[int, int] | None]:
        """Returns the disk and the inode of the data folder and of its database."""
        return [_inode_of(path) for path in (self._data_dir, self._data_dir / "tinkex.db")]

    @contextmanager
    def hold(self, name: str) -> Generator[Path, None, None]:
        """Yields the path of a folder, which is not removed before the block ends."""
        self._held[name] += 1
        try:
            yield self.path(name)
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def mark_known(self, names: Set[str]) -> None:
        """Marks names as known, because rows of the store have or had them."""
        self._known |= names

    async def remove_unused(self, named: Callable[[], Set[str]]) -> None:
        """Removes the folders that no row names any more and that nobody holds. A new folder is
        held until a row names it.

        Args:
            named: returns the names that the rows of the store have now.
        """
        if not threading.main_thread().is_alive():
            # The interpreter is exiting, so no thread can be started. The next start removes them.
            return
        gone = self._known - named() - self._held.keys()
        if gone:
            await asyncio.to_thread(self._remove, gone)
            self._forget(gone)

    def remove_unused_offline(self, named: Set[str]) -> None:
        """Removes empty folders and those that are not `named`, while nothing is saved or read."""
        gone = self._known - named
        self._remove(gone)
        self._forget(gone)
        self.drop_empty()

    def drop_empty(self) -> None:
        """Removes the empty folders of training runs."""
        for place in ("checkpoints/*/*", "checkpoints/*"):
            for path in self._data_dir.glob(place):
                with suppress(OSError):  # it is not empty
                    path.rmdir()

    def names_on_disk(self) -> set[str]:
        """Returns the names of all folders that exist, whether a row names them or not."""
        return {
            path.relative_to(self._data_dir).as_posix()
            for place in _PLACES
            for path in self._data_dir.glob(place)
            if path.is_dir()
        }

    def set_aside(self, name: str) -> None:
        """Moves a folder to a place where nothing looks for saved weights."""
        (self._data_dir / _ASIDE).mkdir(mode=0o700, exist_ok=True)
        aside = self._data_dir / _ASIDE / name
        aside.parent.mkdir(parents=True, exist_ok=True)
        self.path(name).rename(aside)

    def set_aside_paths(self) -> list[str]:
        """Returns the sorted paths in the data folder of the folders that were set aside."""
        root = self._data_dir / _ASIDE
        return sorted(
            path.relative_to(self._data_dir).as_posix()
            for place in _PLACES
            for path in root.glob(place)
        )

    def remove_set_aside(self) -> None:
        """Removes all folders that were set aside."""
        shutil.rmtree(self._data_dir / _ASIDE, ignore_errors=True)

    def _forget(self, names: Iterable[str]) -> None:
        # a folder that could not be removed stays known, so that it is tried again
        self._known -= {name for name in names if not self.path(name).exists()}

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            shutil.rmtree(self.path(name), ignore_errors=True)


def write(folder: Path, save: Callable[[Path], object]) -> None:
    """Calls `save` to create a folder, and returns when it is on the disk with its parents."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    save(folder)
    flush((*(file for file in folder.rglob("*") if file.is_file()), folder, *folder.parents[:4]))


def flush(paths: Iterable[Path]) -> None:
    """Returns when files and folders are on the disk."""
    for path in paths:
        _flush(path)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot flush a folder, and need not
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # it does not exist, or cannot be reached
        return None
    return found.st_dev, found.st_ino


def _as_file_name(text: str) -> str:
    """Returns a name that every system allows. On Windows a name has no colons, does not end with a
    dot, and is not the name of a device.
    """
    name = re.sub(r"^\.|[^A-Za-z0-9._-]|\.$", "_", text[:_MAX_NAME])
    return f"_{name}" if _DEVICES.match(name) else name
