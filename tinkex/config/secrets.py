"""What must not be seen, and how settings look without it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, SupportsIndex, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

T = TypeVar("T")

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile("auth|key|secret|token|cookie|password|signature", re.IGNORECASE)


_QUERY = re.compile(r"""((?:https?:)?//[^\s?'"<>]+)\?[^\s'"<>]*""")
_LEAST = 8
"""Characters of a value of a query that is worth hiding where it stands alone."""


def without_queries(text: str, url: str = "") -> str:
    """A text in which no URL has its query, which may be a right to read; nor do the values of the query of `url` stand in it alone."""
    text = _QUERY.sub(r"\1?…", text)
    for _, value in parse_qsl(urlsplit(url).query):
        for form in (value, quote(value, safe=""), quote(value)):
            text = text.replace(form, HIDDEN) if len(form) >= _LEAST else text
    return text


class Secret(str):
    """A text whose repr hides it, as tracebacks with local variables show it. Whoever sends it takes it as the text that it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        """A part is as secret as the whole: what shortens a long text shows its beginning."""
        return Secret(super().__getitem__(key))


def kept_secret(value: T) -> T:
    """The same text as a `Secret`, the same texts by their names where they are secret; anything else as it is."""
    made: Any = value
    if isinstance(value, str):
        made = Secret(value)
    elif isinstance(value, Mapping):
        made = _kept_secret(value)  # pyright: ignore[reportUnknownArgumentType]
    return made


def _kept_secret(pairs: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: Secret(text) if isinstance(text, str) and is_secret(str(name)) else text for name, text in pairs.items()}


def is_secret(name: str) -> bool:
    """Whether the value of a header or a query parameter of this name is to be hidden."""
    return _SECRET_NAME.search(name) is not None


def masked(pairs: Mapping[str, str]) -> dict[str, str]:
    """Headers or query parameters as they may be shown."""
    return {name: HIDDEN if is_secret(name) else value for name, value in pairs.items()}


def public(pairs: Mapping[str, str]) -> dict[str, str]:
    """Those that are no secret."""
    return {name: value for name, value in pairs.items() if not is_secret(name)}


def without_password(url: str | None) -> str | None:
    """A URL as it may be shown, its user and password hidden."""
    if url is None:
        return None
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{HIDDEN}@{host}")) if at else str(url)
