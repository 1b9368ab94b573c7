"""Counts what a protobuf message would make, before anything is made of it: two bytes can be an
object.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED = {_FIXED64: 8, _FIXED32: 4}  # bytes


VALUES = 4
"""As much as so many numbers is a message, at least."""


def count_values(raw: bytes, descriptor: Any, most: int) -> int:
    """Returns how many values the message has, those in its messages, too, which count themselves;
    of more than `most` not all are counted.

    What is no such message is counted as far as it is one.
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
                    count += VALUES - 1
                elif packed:
                    count += length  # a value is a byte at least
                at += length
            else:
                at += _FIXED.get(tag & 7, 0)
    return count


@cache
def _fields(descriptor: Any) -> dict[int, tuple[Any, bool]]:
    """Returns for each field by number the message that it holds, if any, and whether it holds
    numbers in a row.
    """
    return {
        number: (field.message_type, field.message_type is None and bool(field.is_packed))
        for number, field in descriptor.fields_by_number.items()
    }


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins there, and where it ends; of one that is cut or too long as
    much as there is.
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
