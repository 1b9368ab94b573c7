"""Unpacking an archive that may be hostile: only plain files come out of it, all in the folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from attrs import define, field, frozen

from tinkex.downloads.safe_names import Names, is_root
from tinkex.errors import CheckpointDownloadError

_PIECE = 1 << 20  # bytes
_HEADERS = 64 << 10
"""Bytes that the headers before one member may have: those of long names, and of pax."""
_RATIO = 100
_FREE = 64 << 20
"""Bytes that a compressed archive may expand to whatever its ratio."""
_UNREADABLE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError)
_COMPRESSED: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": cast("Callable[[Path], IO[bytes]]", gzip.open),
    b"BZh": cast("Callable[[Path], IO[bytes]]", bz2.open),
    b"\xfd7zXZ": cast("Callable[[Path], IO[bytes]]", lzma.open),
}
"""By what such a file begins with."""


@frozen
class Limits:
    max_files: int = 10_000
    """Folders count, too."""
    max_bytes: int = 1 << 40


def unpack(archive: Path, folder: Path, limits: Limits, is_off: Callable[[], bool]) -> None:
    """Writes the files of a tar to `folder`. A compressed one is expanded first, at most by 100.

    Args:
        is_off: asked from time to time; once it says so, nothing more is written.

    Raises:
        CheckpointDownloadError: it is no whole tar, holds no file, or a member is not a plain file
            in the folder, or there is too much in it.
        OSError: the disk is full, or the like.
    """
    with _read_errors(archive.name):
        _expand(archive, limits, is_off)
        with archive.open("rb") as file:
            _Unpacking(file, folder, limits, is_off).run()


@define(eq=False)
class _Unpacking:
    file: IO[bytes]
    folder: Path
    limits: Limits
    is_off: Callable[[], bool]
    names: Names = field(factory=Names)
    files: int = 0
    written: int = 0

    def run(self) -> None:
        headers = _Headers(self.file)
        with tarfile.open(fileobj=cast("Any", headers), mode="r:") as tar:
            count = 0
            while not self.is_off() and (member := tar.next()) is not None:
                cast("Any", tar).members = []  # it would keep all of them
                count += 1
                if count > self.limits.max_files:
                    raise _refused(member, f"there are more than {self.limits.max_files} of them")
                self._take(member)
                headers.count = 0
        if not (self.files or self.is_off()):
            raise CheckpointDownloadError("the archive holds no file, so it is no checkpoint")

    def _take(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            if not is_root(member.name):
                (self.folder / self.names.safe(member.name)).mkdir(parents=True, exist_ok=True)
            return
        if member.islnk() or member.issym():
            raise _refused(member, "it is a link")
        if not member.isreg() or member.issparse():
            raise _refused(member, "it is neither a plain file nor a folder")
        target = self.folder / self.names.safe(member.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.file.seek(member.offset_data)
        left = member.size
        with target.open("xb") as file:
            while left and not self.is_off():
                piece = self.file.read(min(left, _PIECE))
                if not piece:
                    raise EOFError("it breaks off")
                left, self.written = left - len(piece), self.written + len(piece)
                if self.written > self.limits.max_bytes:
                    raise _refused(member, "there are more bytes than are allowed")
                file.write(piece)
        self.files += 1


@define(eq=False)
class _Headers:
    """A file as tarfile sees it, which reads nothing but headers: of each member so many at
    most.
    """

    file: IO[bytes]
    count: int = 0

    def read(self, size: int) -> bytes:
        self.count += size
        if self.count > _HEADERS:
            raise CheckpointDownloadError(
                f"the archive has a member with headers of over {_HEADERS >> 10} KiB"
            )
        return self.file.read(size)

    def seek(self, position: int) -> int:
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def _expand(archive: Path, limits: Limits, is_off: Callable[[], bool]) -> None:
    """Puts the plain tar in the place of a compressed one."""
    with archive.open("rb") as file:
        start = file.read(6)
    opened = next((how for magic, how in _COMPRESSED.items() if start.startswith(magic)), None)
    if opened is None:
        return
    most = min(limits.max_bytes, max(_FREE, archive.stat().st_size * _RATIO))
    plain = archive.with_name("plain.tar")
    size = 0
    try:
        with opened(archive) as source, plain.open("wb") as target:
            while not is_off() and (piece := source.read(_PIECE)):
                size += len(piece)
                if size > most:
                    raise CheckpointDownloadError(
                        f"the archive expands to more bytes than are allowed, {most:,}"
                    )
                target.write(piece)
    except gzip.BadGzipFile as error:
        raise EOFError(str(error)) from error
    except OSError as error:
        if error.errno is None:  # bz2 calls it so when its data is invalid
            raise EOFError(str(error)) from error
        raise
    except BaseException:
        plain.unlink(missing_ok=True)
        raise
    plain.replace(archive)


def _refused(member: tarfile.TarInfo, why: str) -> CheckpointDownloadError:
    return CheckpointDownloadError(f"the archive's member {member.name!r:.200} is refused: {why}")


@contextmanager
def _read_errors(name: str) -> Generator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise CheckpointDownloadError(f"{name} is not a whole tar file: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointDownloadError(
            f"the archive has two members in one place: {error}"
        ) from error
