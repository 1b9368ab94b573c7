"""The common parts of the searches for sessions and for checkpoints. Each function raises `Refused`
with the name of the field at fault.
"""

from __future__ import annotations

from collections.abc import Sized
from datetime import UTC, datetime

from tinkex_api.models import SearchOwner

from tinkex_server.access.ownership import Access
from tinkex_server.errors import malformed
from tinkex_server.routes.support.formatting import user_urn

_LONGEST_PAGE = 200
_DEFAULT_PAGE = 50
_MOST_CONDITIONS = 100
"""The number of values of each field that one search may name."""


def page_length(limit: int | None) -> int:
    """Returns the number of items that a page may have."""
    if limit is None:
        return _DEFAULT_PAGE
    if not 1 <= limit <= _LONGEST_PAGE:
        raise malformed("limit", message=f"must be 1 to {_LONGEST_PAGE}")
    return limit


def check_count(**conditions: Sized) -> None:
    """Refuses a field that names too many values."""
    for field, values in conditions.items():
        if len(values) > _MOST_CONDITIONS:
            raise malformed(field, message=f"must name {_MOST_CONDITIONS} values at most")


def may_see(owner: SearchOwner | None, access: Access) -> bool:
    """Returns whether the search can find anything that is the caller's; nobody finds what belongs
    to others.
    """
    if owner is None or owner.type in ("own", "accessible"):
        return True
    if owner.type != "user" or not 1 <= len(owner.owner_urns or []) <= 10:
        raise malformed("owner", message="must be own, accessible, or user with 1 to 10 owner_urns")
    return user_urn(access.new_owner) in (owner.owner_urns or [])


def cursor_time(text: str) -> float:
    """Returns a cursor's time in seconds since 1970."""
    try:
        began = datetime.fromisoformat(text)
        return (began if began.tzinfo else began.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise malformed("cursor", "last_created_at", message="must be a time in ISO 8601") from None
