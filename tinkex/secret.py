"""`Secret`: a text that is not shown where somebody looks at the values of variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, SupportsIndex, TypeVar

T = TypeVar("T")

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile("auth|key|secret|token|cookie|password|signature", re.IGNORECASE)


class Secret(str):
    """A text whose repr hides it, as tracebacks with local variables show it. Whoever sends it
    takes it as the text that it is.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        """A part is as secret as the whole: what shortens a long text shows its beginning."""
        return Secret(super().__getitem__(key))


def as_secret(value: T) -> T:
    """Returns a text as a `Secret`, texts by name likewise where the names are secret, all else as
    it is.
    """
    made: Any = value
    if isinstance(value, str):
        made = Secret(value)
    elif isinstance(value, Mapping):
        made = _kept_secret(value)  # pyright: ignore[reportUnknownArgumentType]
    return made


def _kept_secret(pairs: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        name: Secret(text) if isinstance(text, str) and is_secret(str(name)) else text
        for name, text in pairs.items()
    }


def is_secret(name: str) -> bool:
    """Returns whether the value of a header or a query parameter of this name is to be hidden."""
    return _SECRET_NAME.search(name) is not None
