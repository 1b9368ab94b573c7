"""Unpacking an archive that may be hostile: only plain files come out of it, all of them in the folder, and no more than is allowed."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from attrs import frozen

from tinkex.errors import CheckpointDownloadError

_PIECE = 1 << 20  # bytes
_ODD = re.compile(r"[\\\0]")
_UNREADABLE = (tarfile.TarError, EOFError, zlib.error, LZMAError, ValueError)


@frozen
class Limits:
    max_files: int = 10_000
    """Folders count, too."""
    max_bytes: int = 1 << 40


def unpack(archive: Path, folder: Path, limits: Limits, is_off: Callable[[], bool]) -> None:
    """Writes the files of a tar, maybe a compressed one, to `folder`. A link becomes a copy of the file in the archive that it leads to.

    Args:
        is_off: asked from time to time; once it says so, nothing more is written.

    Raises:
        CheckpointDownloadError: it is no whole tar, or a member is not a plain file in the folder, or there is too much in it.
        OSError: the disk is full, or the like.
    """
    left = limits.max_bytes
    with _read_errors(archive.name), tarfile.open(archive) as tar:
        for count, member in enumerate(tar, 1):
            if is_off():
                return
            if count > limits.max_files:
                raise _refused(member, f"there are more than {limits.max_files} of them")
            target = folder / safe_path(member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            left = _write(tar, member, target, left, is_off)


def safe_path(name: str) -> Path:
    """A path below any folder. Raises `CheckpointDownloadError` for a name that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or _ODD.search(name):
        raise CheckpointDownloadError(f"the checkpoint has a file {name!r}, which would lie outside of its folder")
    return Path(*path.parts)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, left: int, is_off: Callable[[], bool]) -> int:
    """How many bytes are still allowed."""
    if not (member.isreg() or member.islnk() or member.issym()):
        raise _refused(member, "it is neither a file nor a folder")
    try:
        source = tar.extractfile(member)
    except (KeyError, RecursionError) as error:
        raise _refused(member, "it is a link that leads to no file of the archive") from error
    if source is None:
        raise _refused(member, "it is a link that leads to no file of the archive")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as file:
        while not is_off() and (piece := source.read(_PIECE)):
            left -= len(piece)
            if left < 0:
                raise _refused(member, "there are more bytes than are allowed")
            file.write(piece)
    return left


def _refused(member: tarfile.TarInfo, why: str) -> CheckpointDownloadError:
    return CheckpointDownloadError(f"the archive's member {member.name!r} is refused: {why}")


@contextmanager
def _read_errors(name: str) -> Generator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise CheckpointDownloadError(f"{name} is not a whole tar file: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointDownloadError(f"the archive has two members in one place: {error}") from error
