"""`BodyCopy`: finds the model_id and seq_id of a request whose body was refused, because it is too
long, not JSON, or not of its declared type.

Otherwise the server would not know that the seq_id was used, and later requests of the model would
wait for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress

import orjson
from starlette.types import Message, Receive

from tinkex_server.wire.message_size import varint
from tinkex_server.wire.raw_body import unpacked
from tinkex_server.wire.zstd_library import zstd

# bytes at the beginning and at the end of a body, where the ids are: before or after the data
_ENDS = 64 << 10
_READ_ON = 4  # times the accepted size; so much of a long body is still received and decompressed
_MODEL = re.compile(rb'(?<!\\)"model_id"\s*:\s*("(?:[^"\\]|\\.){1,300}")')
_NUMBER = re.compile(rb'(?<!\\)"seq_id"\s*:\s*(\d{1,18})\b')
_VARINT, _BYTES = 0, 2  # wire types of protobuf


class BodyCopy:
    """A copy of a body, made while the body is received, and kept until the body is accepted."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._end = b""
        self._whole = False
        self._broken_off = False

    async def receive(self) -> Message:
        """Receives a message, copies it, and returns it."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._broken_off = True
            return message
        part: bytes = message.get("body", b"")
        if self._size <= self._most:
            self._parts.append(part)
        self._size += len(part)
        self._end = (self._end + part[-_ENDS:])[-_ENDS:]
        self._whole = not message.get("more_body", False)
        return message

    def forget(self) -> None:
        """Drops the copy, since the body is accepted."""
        self._parts.clear()

    async def fields(self, headers: Mapping[str, str]) -> Mapping[str, object]:
        """Receives the rest of the body, and returns its `model_id` and `seq_id` if they are found.

        It returns nothing for a body that broke off: the client will send it again.
        """
        while not (self._whole or self._broken_off) and self._size <= _READ_ON * self._most:
            await self.receive()
        if self._broken_off:
            return {}
        packed = headers.get("content-encoding") == "zstd"
        return await asyncio.to_thread(self._unpacked_fields if packed else self._plain_fields)

    def _plain_fields(self) -> Mapping[str, object]:
        return _fields(b"".join(self._parts)[:_ENDS], self._end)

    def _unpacked_fields(self) -> Mapping[str, object]:
        begin = end = b""
        for part in _unpacked(b"".join(self._parts), _READ_ON * self._most):
            begin = begin if len(begin) >= _ENDS else begin + part[:_ENDS]
            end = (end + part[-_ENDS:])[-_ENDS:]
        return (
            _fields(begin, end) or self._plain_fields()
        )  # a body may be declared as zstd, and not be it


def _unpacked(raw: bytes, most: int) -> Generator[bytes, None, None]:
    """Yields what a zstd body holds, up to about `most` bytes, or up to what is not zstd."""
    size = 0
    with suppress(zstd.ZstdError):
        for part in unpacked(raw, zstd.ZstdDecompressor()):
            yield part
            size += len(part)
            if size > most:
                return


def _fields(begin: bytes, end: bytes) -> Mapping[str, object]:
    if named := _of_message(begin):
        return named
    model = _only(match[1] for part in (begin, end) for match in _MODEL.finditer(part))
    number = _only(match[1] for part in (begin, end) for match in _NUMBER.finditer(part))
    if model is None or number is None:
        return {}
    with suppress(orjson.JSONDecodeError):
        return {"model_id": orjson.loads(model), "seq_id": int(number)}
    return {}


def _only(found: Iterable[bytes]) -> bytes | None:
    """Returns the only value, or None if there are none or several different ones."""
    [first, *others] = {*found} or {None}
    return None if others else first


def _of_message(raw: bytes) -> Mapping[str, object]:
    """Returns the first two fields of a ForwardBackwardRequest, whatever follows them."""
    model_id: str | None = None
    for field, value in _message_fields(raw):
        if field == 1 and isinstance(value, bytes):
            with suppress(UnicodeDecodeError):
                model_id = value.decode()
        elif field == 2 and isinstance(value, int) and model_id:
            return {"model_id": model_id, "seq_id": value}
        else:
            break
    return {}


def _message_fields(raw: bytes) -> Generator[tuple[int, int | bytes], None, None]:
    """Yields the number and the value of each field, until the bytes are no protobuf message."""
    at = 0
    while at < len(raw):
        tag, at = varint(raw, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = varint(raw, at)
            yield tag >> 3, raw[at : at + length]
            at += length
        elif kind == _VARINT:
            value, at = varint(raw, at)
            yield tag >> 3, value
        else:
            return
