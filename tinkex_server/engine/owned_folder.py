"""`OwnedFolder`: a temporary folder that does not outlive its process for long. What a process that
was killed has left is removed by the next one on the same machine.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_PREFIX = "tinkex-engine-"
_OWNER = ".owner"
"""The file that the owner of a folder keeps locked. The system releases the lock when the process
ends, in whatever way.
"""


class OwnedFolder:
    """A new folder in `parent`, by default the one for temporary files."""

    def __init__(self, parent: Path | None = None) -> None:
        remove_abandoned(parent)
        made = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
        self.path = Path(made).absolute()
        self._lock = (self.path / _OWNER).open("w", encoding="utf-8")
        # where files cannot be locked nothing is written, and nobody takes the folder for abandoned
        with suppress(OSError):
            _lock(self._lock)
            self._lock.write(_mark())  # under the lock: see `_lock_abandoned`
            self._lock.flush()

    def close(self) -> None:
        """Removes the folder and its contents. A second call does nothing."""
        _remove(self.path)
        self._lock.close()


def remove_abandoned(parent: Path | None = None) -> None:
    """Removes the folders in `parent` whose owners have ended without removing them."""
    for path in Path(parent or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if lock := _lock_abandoned(path):
            _remove(path)
            lock.close()


def _lock_abandoned(path: Path) -> IO[str] | None:
    """Returns the locked file of a folder whose owner has ended; None for any other folder."""
    file = path / _OWNER
    try:
        if path.is_symlink() or file.is_symlink() or not _is_ours(file):
            return None
        lock = file.open("r+", encoding="utf-8")
    except OSError:  # it was removed meanwhile, or belongs to another user
        return None
    try:
        _lock(lock)
        # an empty file may be about to be locked by its owner, and one may have been removed since
        if lock.read() == _mark() and os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            return lock
    except (OSError, UnicodeDecodeError):  # its owner lives
        lock.close()
        return None
    lock.close()
    return None


def _mark() -> str:
    """Returns what this machine writes into its locked files: on a disk that machines share, locks
    may count on one of them only.
    """
    return f"tinkex on {socket.gethostname()}"


def _is_ours(file: Path) -> bool:
    """Returns whether this user owns a file; in a shared folder others could plant one."""
    return sys.platform == "win32" or file.stat().st_uid == os.getuid()


def _lock(file: IO[str]) -> None:
    """Locks a file for this process. Raises `OSError` if another one has locked it."""
    if sys.platform == "win32":
        raise OSError("no such locks here")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path) -> None:
    """Removes a folder, its lock last: until then another process can end what this one begins."""
    for item in path.iterdir() if path.is_dir() else ():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        elif item.name != _OWNER:
            item.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
