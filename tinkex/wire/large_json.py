"""Parses large JSON texts in small steps, between which other threads can run.

orjson parses a text in one step and lets no other thread run meanwhile: 50 ms for the logprobs of a
large batch, in which the event loop stands still, also if the call is made in a thread.
"""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

_LEAST = 4096  # bytes of an array that is parsed by itself
_NUMBERS = re.compile(rb"\[[-+.\dEe,\snul]{%d,}\]" % _LEAST)
"""Long arrays of numbers and nulls."""
_NAME = "tinkex array"
"""The name by which the rest of the text refers to such an array."""


def loads(text: bytes) -> Any:
    """Parses a JSON text, its long arrays of numbers one by one.

    Raises `orjson.JSONDecodeError` for a text that is no JSON.
    """
    rest, arrays, end = list[bytes](), list[Any](), 0
    try:
        for found in _NUMBERS.finditer(text):
            arrays.append(orjson.loads(found.group()))
            rest += text[end : found.start()], b'{"%s":%d}' % (_NAME.encode(), len(arrays) - 1)
            end = found.end()
        parsed, put = orjson.loads(b"".join([*rest, text[end:]])), list[int]()
        filled = _filled(parsed, arrays, put)
    except orjson.JSONDecodeError:
        return orjson.loads(text)  # numbers in a string look like an array, or the text is no JSON
    return filled if put == list(range(len(arrays))) else orjson.loads(text)


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
