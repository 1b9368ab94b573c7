"""Unpacks an archive that may be hostile: it can only write plain files, and only in its folder."""

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

from tinkex.downloads.safe_names import SafeNames, is_root
from tinkex.errors import CheckpointDownloadError

_PIECE = 1 << 20  # bytes
_MAX_HEADERS = 64 << 10
"""The most bytes of headers before one member: those of long names, and of pax."""
_MAX_RATIO = 100
_ALWAYS_ALLOWED = 64 << 20
"""The bytes that any compressed archive may expand to, whatever its ratio."""
_UNREADABLE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError)
_COMPRESSED: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": cast("Callable[[Path], IO[bytes]]", gzip.open),
    b"BZh": cast("Callable[[Path], IO[bytes]]", bz2.open),
    b"\xfd7zXZ": cast("Callable[[Path], IO[bytes]]", lzma.open),
}
"""The function that opens each kind of compressed file, by the bytes with which it begins."""


@frozen
class ArchiveLimits:
    """The limits on the content of an archive."""

    max_files: int = 10_000
    """The largest number of members; folders count too."""
    max_bytes: int = 1 << 40
    """The largest size of all files together, in bytes."""


def unpack(
    archive: Path, folder: Path, limits: ArchiveLimits, is_cancelled: Callable[[], bool]
) -> None:
    """Writes the files of a tar archive to `folder`. A compressed archive is expanded first, to at
    most 100 times its size.

    Args:
        is_cancelled: called from time to time; once it returns True, nothing more is written.

    Raises:
        CheckpointDownloadError: the archive is not a whole tar file, has no files or too many, is
            too large, or has a member that is not a plain file in the folder.
        OSError: the files cannot be written.
    """
    with _read_errors(archive.name):
        _expand(archive, limits, is_cancelled)
        with archive.open("rb") as file:
            _Unpacker(file, folder, limits, is_cancelled).run()


@define(eq=False)
class _Unpacker:
    """The unpacking of one plain tar file."""

    file: IO[bytes]
    folder: Path
    limits: ArchiveLimits
    is_cancelled: Callable[[], bool]
    names: SafeNames = field(factory=SafeNames)
    files: int = 0
    written: int = 0

    def run(self) -> None:
        headers = _Headers(self.file)
        with tarfile.open(fileobj=cast("Any", headers), mode="r:") as tar:
            count = 0
            while not self.is_cancelled() and (member := tar.next()) is not None:
                cast("Any", tar).members = []  # tarfile would keep all of them in memory
                count += 1
                if count > self.limits.max_files:
                    raise _refused(
                        member, f"the archive has more than {self.limits.max_files} members"
                    )
                self._write(member)
                headers.count = 0
        if not (self.files or self.is_cancelled()):
            raise CheckpointDownloadError("the archive holds no file, so it is not a checkpoint")

    def _write(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            if not is_root(member.name):
                (self.folder / self.names.add(member.name)).mkdir(parents=True, exist_ok=True)
            return
        if member.islnk() or member.issym():
            raise _refused(member, "it is a link")
        if not member.isreg() or member.issparse():
            raise _refused(member, "it is neither a plain file nor a folder")
        target = self.folder / self.names.add(member.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.file.seek(member.offset_data)
        left = member.size
        with target.open("xb") as file:
            while left and not self.is_cancelled():
                piece = self.file.read(min(left, _PIECE))
                if not piece:
                    raise EOFError("the archive ends within a member")
                left, self.written = left - len(piece), self.written + len(piece)
                if self.written > self.limits.max_bytes:
                    raise _refused(
                        member,
                        f"the archive has more than the allowed {self.limits.max_bytes:,} bytes",
                    )
                file.write(piece)
        self.files += 1


@define(eq=False)
class _Headers:
    """The file as tarfile sees it. tarfile reads only headers from it, and of each member only a
    bounded number of bytes.
    """

    file: IO[bytes]
    count: int = 0

    def read(self, size: int) -> bytes:
        self.count += size
        if self.count > _MAX_HEADERS:
            raise CheckpointDownloadError(
                f"the archive has a member with headers of over {_MAX_HEADERS >> 10} KiB"
            )
        return self.file.read(size)

    def seek(self, position: int) -> int:
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def _expand(archive: Path, limits: ArchiveLimits, is_cancelled: Callable[[], bool]) -> None:
    """Replaces a compressed archive by the plain tar file."""
    with archive.open("rb") as file:
        start = file.read(6)
    opened = next((how for magic, how in _COMPRESSED.items() if start.startswith(magic)), None)
    if opened is None:
        return
    most = min(limits.max_bytes, max(_ALWAYS_ALLOWED, archive.stat().st_size * _MAX_RATIO))
    plain = archive.with_name("plain.tar")
    size = 0
    try:
        with opened(archive) as source, plain.open("wb") as target:
            while not is_cancelled() and (piece := source.read(_PIECE)):
                size += len(piece)
                if size > most:
                    raise CheckpointDownloadError(
                        f"the archive expands to more bytes than are allowed, {most:,}"
                    )
                target.write(piece)
    except gzip.BadGzipFile as error:
        raise EOFError(str(error)) from error
    except OSError as error:
        if error.errno is None:  # bz2 raises this for invalid data
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
