"""`Secret`: a text that does not show where variables are displayed, as in tracebacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, SupportsIndex, TypeVar

T = TypeVar("T")

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile("auth|key|secret|token|cookie|password|signature", re.IGNORECASE)


class Secret(str):
    """A text whose repr hides it, for tracebacks that show local variables. Otherwise it behaves as
    any text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        """Returns a part as a `Secret`, since tools that shorten a text show its beginning."""
        return Secret(super().__getitem__(key))


def as_secret(value: T) -> T:
    """Returns a text as a `Secret`, and a mapping with `Secret` values for its secret names.

    Any other value is returned as it is.
    """
    made: Any = value
    if isinstance(value, str):
        made = Secret(value)
    elif isinstance(value, Mapping):
        made = _hide_values(value)  # pyright: ignore[reportUnknownArgumentType]
    return made


def _hide_values(pairs: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        name: Secret(text) if isinstance(text, str) and is_secret(str(name)) else text
        for name, text in pairs.items()
    }


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Returns whether the name of a header or query parameter suggests a secret value."""
    return _SECRET_NAME.search(name) is not None
