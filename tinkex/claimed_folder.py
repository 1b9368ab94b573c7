"""Temporary folders that belong to a process: whoever finds one later can tell whether that process
is still there.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from attrs import define

_LOCK = ".tinkex-claim"
_FIRST_WORDS = "tinkex "


@define(eq=False)
class ClaimedFolder:
    """A folder with a file in it that its process holds a lock on: the system lets go of that
    however the process ends.
    """

    path: Path
    _lock: IO[str]

    @classmethod
    def make(cls, parent: Path, prefix: str, purpose: str) -> ClaimedFolder:
        """Makes one; its name begins with `prefix`, and `purpose` tells it from others of that
        prefix.
        """
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = (path / _LOCK).open("w", encoding="utf-8")
        # a file system without locks: nobody can take it for left behind, as nothing is written
        with suppress(OSError):
            _take(lock, wait=True)
            # after the lock is had: one without words may be about to be claimed
            lock.write(_FIRST_WORDS + purpose)
            lock.flush()
        return cls(path, lock)

    def release_in_child(self) -> None:
        """Lets go of it in the child of a fork; the parent's lock stays."""
        self._lock.close()

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        for item in self.path.iterdir() if self.path.is_dir() else ():
            if item.name != _LOCK:
                _remove(item)
        if sys.platform == "win32":  # where an open file cannot be removed
            self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def claim_orphans(parent: Path, prefix: str, purpose: str) -> list[ClaimedFolder]:
    """Returns the folders of this prefix and purpose whose processes are gone; they are the
    caller's from now on.
    """
    found = [_taken_over(path, _FIRST_WORDS + purpose) for path in parent.glob(f"{prefix}*")]
    return [folder for folder in found if folder is not None]


def _taken_over(path: Path, words: str) -> ClaimedFolder | None:
    claim = path / _LOCK
    if path.is_symlink() or claim.is_symlink() or not claim.is_file() or not _is_mine(claim):
        return None
    try:
        lock = claim.open("r+", encoding="utf-8")
    except OSError:
        return None
    try:
        _take(lock, wait=False)
        if lock.read() == words and os.path.samestat(os.fstat(lock.fileno()), claim.stat()):
            return ClaimedFolder(path, lock)
    # its process is there, or it is being removed, or it is none of ours
    except (OSError, UnicodeDecodeError):
        lock.close()
        return None
    lock.close()
    return None


def _is_mine(path: Path) -> bool:
    """Whether the file is this user's: in a folder that all write to, others may lay one out."""
    return sys.platform == "win32" or path.stat().st_uid == os.getuid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    _PLACE = 1 << 20  # far behind the words: a locked byte cannot be read

    def _take(file: IO[str], *, wait: bool) -> None:
        os.lseek(file.fileno(), _PLACE, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
else:
    import fcntl

    def _take(file: IO[str], *, wait: bool) -> None:
        """Locks the file for this process and its forks. Raises `OSError` where another one has
        done so, unless it is to `wait`.
        """
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
