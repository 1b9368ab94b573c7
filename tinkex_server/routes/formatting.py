"""What the answers of several routes say in the same words: times, owners."""

from __future__ import annotations

from datetime import UTC, datetime

ORGANIZATION = "local"


def moment(seconds: float) -> datetime:
    """A time, given in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def user_urn(owner: str) -> str:
    """The name of a key's holder; where no key is asked for, of whoever uses the server."""
    return f"tml:user:{owner or ORGANIZATION}"
