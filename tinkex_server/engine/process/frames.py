"""Messages over the private pipes between the server and its engine's process: pickles, with their
arrays beside them, uncopied.

Only these two processes hold the pipes, so nothing is unpickled that somebody else wrote.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

Frame: TypeAlias = Sequence[bytes | memoryview]
"""One message: the number of its parts with their lengths; its pickle; the arrays that it holds."""

_COUNT = struct.Struct("<I")


def pack(message: object) -> Frame:
    """The arrays of the message must stay as they are until it is written."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [body, *(buffer.raw() for buffer in buffers)]
    return [_COUNT.pack(len(parts)) + struct.pack(f"<{len(parts)}Q", *map(len, parts)), *parts]


def write(file: IO[bytes], frame: Frame) -> None:
    for part in frame:
        file.write(part)
    file.flush()


def read(file: IO[bytes]) -> Any:
    """The next message. Raises `EOFError` when the other side has ended, be it within one."""
    [count] = _COUNT.unpack(_read_exactly(file, _COUNT.size))
    lengths = struct.unpack(f"<{count}Q", _read_exactly(file, 8 * count))
    body, *buffers = [_read_exactly(file, length) for length in lengths]
    return pickle.loads(body, buffers=buffers)


def _read_exactly(file: IO[bytes], length: int) -> bytearray:
    """So many bytes of a buffered file, which reads all that it can. Arrays made of them can be
    written to.
    """
    data = bytearray(length)
    if file.readinto(data) != length:  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
        raise EOFError
    return data
