"""`LargeBody`: a large body of a request, for aiohttp."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp.abc import AbstractStreamWriter

_PIECE = 1 << 17  # bytes


class LargeBody(aiohttp.Payload):
    """A body that is written in pieces, between which other tasks run.

    aiohttp has no such payload that takes bytes: of a `BytesIO` it makes a copy, for which the
    event loop stands still.
    """

    _value: bytes

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)

    async def write(self, writer: AbstractStreamWriter) -> None:
        content = memoryview(self._value)
        for begin in range(0, len(content), _PIECE):
            await writer.write(content[begin : begin + _PIECE])
            await asyncio.sleep(0)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)
