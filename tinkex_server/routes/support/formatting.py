"""Times and owners in the form that answers have."""

from __future__ import annotations

from datetime import UTC, datetime

ORGANIZATION = "local"


def moment(seconds: float) -> datetime:
    """Returns the time that is given in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def user_urn(owner: str) -> str:
    """Returns the name of a key's owner, or the common name of all on a server without keys."""
    return f"tml:user:{owner or ORGANIZATION}"
