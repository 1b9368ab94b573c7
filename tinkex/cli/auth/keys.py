"""The part of an API key that is shown, and the facts that a server tells of a key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from attrs import frozen

from tinkex.errors import NotFoundError, UnsupportedByServer

if TYPE_CHECKING:
    from tinkex import RestClient

_SHOWN = 4  # characters at the end of a key
_LEAST = 12  # the shortest key of which anything is shown


def masked_key(key: str) -> str:
    """Returns a key without what makes it one: `tml-…abcd`."""
    start = "tml-" if key.startswith("tml-") else ""
    return f"{start}…{key[-_SHOWN:]}" if len(key) >= _LEAST else f"{start}…"


@frozen
class KeyFacts:
    """The facts that a server knows of the key with which it was asked."""

    key_id: str
    name: str | None = None
    email: str | None = None
    organization: str | None = None
    note: str | None = None


def ask(rest: RestClient, key: str) -> KeyFacts:
    """Returns what the server knows of the key.

    A server that cannot describe keys is asked for its models, which shows that it accepts this
    one. Then the id is made of the key.

    Raises:
        AuthenticationError, PermissionDeniedError: the server does not accept the key.
    """
    try:
        info = rest.get_api_key_info()
    except (UnsupportedByServer, NotFoundError):
        rest.get_server_capabilities()
        return KeyFacts(hashlib.sha256(key.encode()).hexdigest()[:12])
    details = info.details
    user = details.user_details if details else None
    organization = details.org_details if details else None
    return KeyFacts(
        str(info.key_id),
        info.name,
        user.email if user else None,
        organization.name if organization else None,
        info.note,
    )
