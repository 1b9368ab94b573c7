"""What must not be seen, and how settings look without it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile("auth|key|secret|token|cookie|password|signature", re.IGNORECASE)


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
    return urlunsplit(parts._replace(netloc=f"{HIDDEN}@{host}")) if at else url
