"""`RequestBody`: the body of a request, for aiohttp."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler

from tinkex.errors import FailurePoint

_AT_ONCE = 1 << 20
"""Bytes above which a body is written in pieces, between which other tasks run."""
_PIECE = 1 << 17  # bytes


class RequestBody(aiohttp.Payload):
    """The body of a request, empty or not, which knows how far its exchange has got: aiohttp
    passes it on to the request, and nothing else of the caller's.

    aiohttp has no payload that takes bytes and writes them in pieces: of a `BytesIO` it makes a
    copy, for which the event loop stands still.
    """

    _value: bytes
    failure_point: FailurePoint = "connecting"
    connection: ResponseHandler | None = None
    """The connection on which it is sent."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)

    async def write(self, writer: AbstractStreamWriter) -> None:
        if len(self._value) <= _AT_ONCE:
            await writer.write(self._value)
            return
        content = memoryview(self._value)
        for begin in range(0, len(content), _PIECE):
            await writer.write(content[begin : begin + _PIECE])
            await asyncio.sleep(0)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)
