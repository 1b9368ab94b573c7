"""Receives the bytes of a request's body with a bound on their number, and decompresses them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from starlette.types import Message, Receive

from tinkex_server.errors import Reason, Refused
from tinkex_server.wire.zstd_library import zstd

_PIECE = 1 << 20  # bytes that are decompressed at once


async def read_body(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """Returns the decompressed body. Raises `Refused` as soon as it has more than `most`
    bytes, and for an encoding other than zstd.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding not in ("identity", "zstd"):
        raise Refused(
            Reason.UNSUPPORTED_MEDIA_TYPE,
            f"this server reads uncompressed and zstd bodies; this one is {encoding}",
        )
    raw = await receive_body(headers, receive, most)
    return raw if encoding == "identity" else await asyncio.to_thread(decompress, raw, most)


async def receive_body(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """Returns the body as it was sent. Raises `Refused` if it is declared to have more than `most`
    bytes or has them, and if it breaks off.
    """
    _check_declared(headers, most)
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        piece, size, more = _next_piece(await receive(), size, most)
        pieces.append(piece)
    return b"".join(pieces)


async def receive_file(headers: Mapping[str, str], receive: Receive, file: Path, most: int) -> None:
    """Writes a body to a file while it arrives. Raises `Refused` as `receive_body` does, and if the
    file cannot be written.
    """
    _check_declared(headers, most)
    try:
        with file.open("xb") as opened:
            size, more = 0, True
            while more:
                piece, size, more = _next_piece(await receive(), size, most)
                await asyncio.to_thread(opened.write, piece)
    except OSError as error:
        raise Refused(
            Reason.STORAGE_FULL,
            f"the file could not be written to the data folder: {error.strerror or error}",
        ) from error


def _next_piece(message: Message, size: int, most: int) -> tuple[bytes, int, bool]:
    """Returns the next piece of a body of which `size` bytes have arrived, the size with it, and
    whether more follows. Raises `Refused` for more than `most` bytes, and if the body breaks
    off.
    """
    if message["type"] == "http.disconnect":
        raise Refused(
            Reason.BAD_REQUEST, "the client disconnected before it had sent the whole body"
        )
    piece: bytes = message.get("body", b"")
    size += len(piece)
    if size > most:
        raise _too_long(most)
    return piece, size, message.get("more_body", False)


def _check_declared(headers: Mapping[str, str], most: int) -> None:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_long(most)


def decompress(raw: bytes, most: int) -> bytes:
    """Returns a decompressed body. Raises `Refused`: 413 as soon as it has more than `most` bytes,
    and 400 if it is not one complete zstd frame.
    """
    decoder = zstd.ZstdDecompressor()
    parts: list[bytes] = []
    size = 0
    try:
        for part in unpacked(raw, decoder):
            parts.append(part)
            size += len(part)
            if size > most:
                raise _too_long(most)
    except zstd.ZstdError as error:
        raise Refused(Reason.BAD_REQUEST, f"the body is not zstd: {error}") from error
    if not decoder.eof or decoder.unused_data:
        raise Refused(Reason.BAD_REQUEST, "the body is not one complete zstd frame")
    return b"".join(parts)


def unpacked(raw: bytes, decoder: zstd.ZstdDecompressor) -> Iterator[bytes]:
    """Yields what the frame at the beginning of a body holds, in pieces that are bounded, up to
    its end or that of the body. Raises `ZstdError` for what is not zstd.
    """
    yield decoder.decompress(raw, _PIECE)
    while not (decoder.eof or decoder.needs_input):
        yield decoder.decompress(b"", _PIECE)


def _too_long(most: int) -> Refused:
    return Refused(
        Reason.TOO_LARGE,
        f"the body is over {most} bytes, the most that this server accepts; send less at once",
    )
