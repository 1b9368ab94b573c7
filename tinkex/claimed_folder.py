"""Temporary folders that belong to a process. Other processes can tell whether that process still
runs.
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
_MARK = "tinkex "


@define(eq=False)
class ClaimedFolder:
    """A temporary folder with a locked file. The system releases the lock when the process ends, in
    whatever way.
    """

    path: Path
    _lock: IO[str]

    @classmethod
    def make(cls, parent: Path, prefix: str, purpose: str) -> ClaimedFolder:
        """Creates a folder.

        Args:
            parent: the folder in which to create it.
            prefix: the beginning of its name.
            purpose: a text that distinguishes it from other folders with the same prefix.
        """
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = (path / _LOCK).open("w", encoding="utf-8")
        # without locks on this file system nothing is written, so that nobody claims the folder
        with suppress(OSError):
            _lock_file(lock, wait=True)
            # written under the lock: a folder with an empty file may be about to be claimed
            lock.write(_MARK + purpose)
            lock.flush()
        return cls(path, lock)

    def release_in_child(self) -> None:
        """Releases the folder in the child of a fork; the parent keeps its lock."""
        self._lock.close()

    def remove(self) -> None:
        """Removes the folder and its contents."""
        for item in self.path.iterdir() if self.path.is_dir() else ():
            if item.name != _LOCK:
                _remove(item)
        if sys.platform == "win32":  # where an open file cannot be removed
            self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def claim_orphans(parent: Path, prefix: str, purpose: str) -> list[ClaimedFolder]:
    """Claims the folders with this prefix and purpose whose processes have ended, and returns
    them.
    """
    found = [_claim_orphan(path, _MARK + purpose) for path in parent.glob(f"{prefix}*")]
    return [folder for folder in found if folder is not None]


def _claim_orphan(path: Path, mark: str) -> ClaimedFolder | None:
    claim = path / _LOCK
    if path.is_symlink() or claim.is_symlink() or not claim.is_file() or not _is_own(claim):
        return None
    try:
        lock = claim.open("r+", encoding="utf-8")
    except OSError:
        return None
    try:
        _lock_file(lock, wait=False)
        if lock.read() == mark and os.path.samestat(os.fstat(lock.fileno()), claim.stat()):
            return ClaimedFolder(path, lock)
    # its process runs, or it is being removed, or it is another program's folder
    except (OSError, UnicodeDecodeError):
        lock.close()
        return None
    lock.close()
    return None


def _is_own(path: Path) -> bool:
    """Returns whether this user owns the file; in a shared folder others could plant one."""
    return sys.platform == "win32" or path.stat().st_uid == os.getuid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 20  # far behind the text, since a locked byte cannot be read

    def _lock_file(file: IO[str], *, wait: bool) -> None:
        os.lseek(file.fileno(), _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
else:
    import fcntl

    def _lock_file(file: IO[str], *, wait: bool) -> None:
        """Locks the file for this process and its forks. Without `wait` it raises `OSError` if
        another process holds the lock.
        """
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
