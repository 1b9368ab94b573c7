"""The framing of messages on the private pipes between the server and its engine process:
pickles, with arrays beside them that are not copied.

Only these two processes hold the pipes, so no foreign data is unpickled.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

Frame: TypeAlias = Sequence[bytes | memoryview]
"""One message: the number and lengths of its parts, its pickle, and the arrays in it."""

_COUNT = struct.Struct("<I")


def pack(message: object) -> Frame:
    """Returns the frame of a message. The message's arrays must not change until it is written."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [body, *(buffer.raw() for buffer in buffers)]
    return [_COUNT.pack(len(parts)) + struct.pack(f"<{len(parts)}Q", *map(len, parts)), *parts]


def write(file: IO[bytes], frame: Frame) -> None:
    for part in frame:
        file.write(part)
    file.flush()


def read(file: IO[bytes]) -> Any:
    """Returns the next message. Raises `EOFError` at the end of the stream or within a message."""
    [count] = _COUNT.unpack(_read_exactly(file, _COUNT.size))
    lengths = struct.unpack(f"<{count}Q", _read_exactly(file, 8 * count))
    body, *buffers = [_read_exactly(file, length) for length in lengths]
    return pickle.loads(body, buffers=buffers)


def _read_exactly(file: IO[bytes], length: int) -> bytearray:
    """Returns `length` bytes of a buffered file, as a bytearray so that arrays over it are
    writable.
    """
    data = bytearray(length)
    if file.readinto(data) != length:  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
        raise EOFError
    return data
