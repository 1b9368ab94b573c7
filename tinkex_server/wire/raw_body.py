"""The bytes of a request's body: counted as they come, and decompressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import zstandard
from starlette.types import Receive

from tinkex_server.errors import Refused

PIECE = 1024  # compressed bytes given to the decompressor at once: a thousand can be 32 million


async def read_body(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """Decompressed. Raises `Refused` (413) as soon as it is seen to be over `most` bytes, and 415
    for what is not zstd.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding not in ("identity", "zstd"):
        raise Refused(415, f"a body is read uncompressed or as zstd; this is {encoding}")
    raw = await receive_body(headers, receive, most)
    return raw if encoding == "identity" else await asyncio.to_thread(decompress, raw, most)


async def receive_body(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """As it was sent. Raises `Refused` : 413 when it says that it is over `most` bytes, or turns
    out to be; 400 when it breaks off.
    """
    _check_declared(headers, most)
    return b"".join([piece async for piece in _pieces(receive, most)])


async def receive_file(headers: Mapping[str, str], receive: Receive, file: Path, most: int) -> None:
    """Writes a body to a file as it comes. Raises `Refused` as `receive_body` does, and 507 for a
    disk without room.
    """
    _check_declared(headers, most)
    try:
        with file.open("xb") as opened:
            async for piece in _pieces(receive, most):
                await asyncio.to_thread(opened.write, piece)
    except OSError as error:
        raise Refused(
            507, f"the file could not be written to the data folder: {error.strerror or error}"
        ) from error


async def _pieces(receive: Receive, most: int) -> AsyncGenerator[bytes]:
    """Gives a body as it comes. Raises `Refused`: 413 for more than `most` bytes, 400 when it
    breaks off.
    """
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client left before its body was here")
        piece = message.get("body", b"")
        size, more = size + len(piece), message.get("more_body", False)
        if size > most:
            raise _too_long(most)
        yield piece


def _check_declared(headers: Mapping[str, str], most: int) -> None:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_long(most)


def decompress(raw: bytes, most: int) -> bytes:
    """Raises `Refused`: 413 when the result is over `most` bytes, of which it makes few more, and
    400 for what is no whole zstd frame.
    """
    decoder = zstandard.ZstdDecompressor().decompressobj()
    parts: list[bytes] = []
    size = 0
    try:
        for start in range(0, len(raw), PIECE):
            parts.append(decoder.decompress(raw[start : start + PIECE]))
            size += len(parts[-1])
            if size > most:
                raise _too_long(most)
    except zstandard.ZstdError as error:
        raise Refused(400, f"the body is not zstd: {error}") from error
    if not decoder.eof or decoder.unused_data:
        raise Refused(400, "the body is not one whole zstd frame")
    return b"".join(parts)


def _too_long(most: int) -> Refused:
    return Refused(
        413, f"the body is over {most} bytes, which is what this server takes; send less at once"
    )
