"""Parsers of settings.

Each converts the text of an environment variable, or a value of a TOML file, to the value of a
setting. It raises a `ValueError` whose message describes the allowed values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from tinkex.dialects.dialect import Dialect
from tinkex.dialects.table import DIALECTS

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def url(value: object) -> str:
    return text(value).rstrip("/")


def number(value: object) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)
    raise ValueError("a number")


def whole_number(value: object) -> int:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            return int(value)
    raise ValueError("a whole number")


def switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in (*_ON, *_OFF):
        raise ValueError(f"one of {', '.join((*_ON, *_OFF))}")
    return word in _ON


def names(value: object) -> tuple[str, ...]:
    """Parses a list of strings, or one string with commas."""
    if isinstance(value, str):
        value = value.split(",")
    if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):  # pyright: ignore[reportUnknownVariableType]
        raise ValueError("comma-separated names, or a list of them")
    return tuple(name.strip() for name in value if name.strip())  # pyright: ignore


def pairs(value: object) -> dict[str, str]:
    """Parses a table, a JSON object, or comma-separated `name=value` pairs."""
    if isinstance(value, str):
        value = _pairs_of_text(value)
    if not (isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values())):  # pyright: ignore
        raise ValueError("comma-separated name=value pairs, or a JSON object of strings")
    return dict(value)  # pyright: ignore[reportUnknownArgumentType]


def one_of(*allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        word = str(value).lower()
        if word not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return word

    return read


def dialect(value: object) -> Dialect:
    if not isinstance(value, str) or value not in DIALECTS:
        raise ValueError(f"one of {', '.join(DIALECTS)}")
    return DIALECTS[value]


def _pairs_of_text(value: str) -> Any:
    if value.startswith("{"):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(value)
        return None
    items = [item.partition("=") for item in value.split(",") if item.strip()]
    if not all(equals for _, equals, _ in items):
        return None
    return {name.strip(): item.strip() for name, _, item in items}
