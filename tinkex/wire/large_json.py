"""Parses large JSON texts in small steps, between which other threads can run.

orjson parses a text in one step and lets no other thread run meanwhile: 50 ms for the logprobs of a
large batch, in which the event loop stands still, also if the call is made in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson

_LEAST = 4096  # bytes of an array that is parsed by itself
_NAME = "tinkex array"
"""The name by which the rest of the text refers to such an array."""


def loads(text: bytes) -> Any:
    """Parses a JSON text, its long arrays of numbers one by one.

    Raises `orjson.JSONDecodeError` for a text that is no JSON.
    """
    rest, arrays, end = list[bytes](), list[Any](), 0
    try:
        for begin, after in _long_arrays(text):
            arrays.append(orjson.loads(text[begin:after]))
            rest += text[end:begin], b'{"%s":%d}' % (_NAME.encode(), len(arrays) - 1)
            end = after
        parsed, put = orjson.loads(b"".join([*rest, text[end:]])), list[int]()
        filled = _filled(parsed, arrays, put)
    except orjson.JSONDecodeError:
        return orjson.loads(text)  # numbers in a string look like an array, or the text is no JSON
    return filled if put == list(range(len(arrays))) else orjson.loads(text)


def _long_arrays(text: bytes) -> Iterator[tuple[int, int]]:
    """Yields where arrays of numbers and the like begin and end.

    It looks at one place in each half of the least length, which all long arrays cover: a regular
    expression reads each byte, and takes longer than the parser.
    """
    step, place, closing = _LEAST // 2, _LEAST // 2, 0
    while place < len(text):
        if closing < place and (closing := text.find(b"]", place)) < 0:
            return
        begin = text.rfind(b"[", place - step, place)
        if 0 <= begin <= closing - _LEAST and _is_flat(text, begin + 1, closing):
            yield begin, closing + 1
            place = closing
        place += step


def _is_flat(text: bytes, begin: int, end: int) -> bool:
    """Returns whether a part of a text holds no brackets and no strings."""
    return all(text.find(sign, begin, end) < 0 for sign in (b"[", b"]", b"{", b'"'))


def _filled(value: Any, arrays: list[Any], put: list[int]) -> Any:
    """Returns a value with the arrays in their places, and notes in `put` which were placed."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        index = fields.get(_NAME)
        if isinstance(index, int) and len(fields) == 1 and 0 <= index < len(arrays):
            put.append(index)
            return arrays[index]
        for name, item in fields.items():
            fields[name] = _filled(item, arrays, put)
        return fields
    if isinstance(value, list):
        return [_filled(item, arrays, put) for item in cast("list[Any]", value)]
    return value
