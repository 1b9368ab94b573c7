"""What must not be seen, and how settings look without it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from tinkex.secret import HIDDEN, Secret, as_secret, is_secret

__all__ = [
    "HIDDEN",
    "Secret",
    "as_secret",
    "is_secret",
    "masked",
    "public",
    "without_password",
    "without_queries",
]


_QUERY = re.compile(r"""((?:https?:)?//[^\s?'"<>]+)\?[^\s'"<>]*""")
_LEAST = 8
"""Characters of a value of a query that is worth hiding where it stands alone."""


def without_queries(text: str, url: str = "") -> str:
    """A text in which no URL has its query, which may be a right to read; nor do the values of the
    query of `url` stand in it alone.
    """
    text = _QUERY.sub(r"\1?…", text)
    for _, value in parse_qsl(urlsplit(url).query):
        for form in (value, quote(value, safe=""), quote(value)):
            text = text.replace(form, HIDDEN) if len(form) >= _LEAST else text
    return text


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
