"""Counts the values of a protobuf message before it is parsed, since two bytes of it can become an
object.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED = {_FIXED64: 8, _FIXED32: 4}  # bytes


VALUES_PER_MESSAGE = 4
"""The number of values that a message within a message counts as, beside its own values."""


def count_values(raw: bytes, descriptor: Any, most: int) -> int:
    """Returns the number of values in a message, with those of the messages in it.

    It stops counting above `most`, and at bytes that are not such a message.
    """
    count = 0
    left = [(0, len(raw), descriptor)]
    while left and count <= most:
        at, end, kind = left.pop()
        fields = _fields(kind)
        while at < end and count <= most:
            tag, at = varint(raw, at)
            count += 1
            if tag & 7 == _VARINT:
                _, at = varint(raw, at)
            elif tag & 7 == _BYTES:
                length, at = varint(raw, at)
                inner, packed = fields.get(tag >> 3, (None, False))
                if inner is not None:
                    left.append((at, min(at + length, end), inner))
                    count += VALUES_PER_MESSAGE - 1
                elif packed:
                    count += length  # a value has at least one byte
                at += length
            else:
                at += _FIXED.get(tag & 7, 0)
    return count


@cache
def _fields(descriptor: Any) -> dict[int, tuple[Any, bool]]:
    """Returns for each field number the message type that the field holds, if any, and whether the
    field holds packed numbers.
    """
    return {
        number: (field.message_type, field.message_type is None and bool(field.is_packed))
        for number, field in descriptor.fields_by_number.items()
    }


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins at `at`, and the position after it. A number that is cut or
    too long is read as far as possible.
    """
    value = shift = 0
    while at < len(raw) and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
