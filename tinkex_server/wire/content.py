"""`Content`: bytes that are sent from files, or from a folder as a tar. They can be read from any
position, and are never held in memory as a whole.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Generator, Sequence
from pathlib import Path

from attrs import frozen

_PIECE = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FileChanged(RuntimeError):
    """A file is shorter than it was when its content was planned."""


@frozen
class Piece:
    """A file, or bytes that are in no file."""

    source: Path | bytes
    size: int


@frozen
class Content:
    """The pieces that are to be sent, one after the other."""

    pieces: Sequence[Piece]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(piece.size for piece in self.pieces)

    def read(self, wanted: range) -> Generator[bytes, None, None]:
        """Yields the bytes of a range. Raises `FileChanged` if a file is shorter than planned."""
        begin = 0
        for piece in self.pieces:
            inside = range(max(wanted.start - begin, 0), min(wanted.stop - begin, piece.size))
            if inside:
                yield from _read(piece, inside)
            begin += piece.size

    def sha256(self) -> bytes:
        """Reads everything, and returns its digest."""
        digest = hashlib.sha256()
        for part in self.read(range(self.size)):
            digest.update(part)
        return digest.digest()


def _read(piece: Piece, wanted: range) -> Generator[bytes, None, None]:
    if isinstance(piece.source, bytes):
        yield piece.source[wanted.start : wanted.stop]
        return
    with piece.source.open("rb") as opened:
        opened.seek(wanted.start)
        left = len(wanted)
        while left and (part := opened.read(min(left, _PIECE))):
            left -= len(part)
            yield part
    if left:
        raise FileChanged(f"{piece.source} is shorter than it was")


def of_file(file: Path) -> Content:
    """Returns the content of a file."""
    return Content([Piece(file, file.stat().st_size)])


def of_folder(folder: Path, modified: float) -> Content:
    """Returns a tar of the files in a folder. Its bytes are the same each time: all files in it
    have the time `modified`, in seconds since 1970.
    """
    pieces: list[Piece] = []
    for file in files_of(folder):
        size = file.stat().st_size
        header = _header(file.name, size, modified)
        padding = bytes(-size % _BLOCK)
        pieces += [Piece(header, len(header)), Piece(file, size), Piece(padding, len(padding))]
    end = bytes(2 * _BLOCK)
    return Content([*pieces, Piece(end, len(end))])


def files_of(folder: Path) -> list[Path]:
    """Returns the files of a folder by name, without the server's own, which begin with a dot."""
    return sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )


def _header(name: str, size: int, modified: float) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, int(modified)
    return entry.tobuf(tarfile.PAX_FORMAT)


def wanted_range(header: str | None, size: int) -> range | None:
    """Returns the range of a content of `size` bytes that a Range header asks for.

    It is empty if the content ends before it, and None if the whole content is to be sent. That is
    also the answer to several ranges, and to units other than bytes, as RFC 9110 allows.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return range(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None
    return range(min(int(first), size), min(int(last) + 1, size) if last else size)
