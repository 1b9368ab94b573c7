"""The part of an API key that is shown, the facts that a server tells of a key, and where it is
stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from tinkex import credentials
from tinkex.credentials import system_keyring
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


KEYRING = "the system's keyring"


@frozen
class StoredKey:
    """A key that was stored, without the key itself."""

    key_id: str
    name: str | None
    place: str
    """The path of the file that had it, or `KEYRING`."""


def store(
    key_id: str, key: str, name: str, note: str | None, details: Mapping[str, Any] | None
) -> str:
    """Stores a key as the default of all programs. Returns the place: a path, or `KEYRING`."""
    stored = credentials.load()
    if system_keyring.write(key_id, key):
        if stored.in_keyring is not None and stored.in_keyring["id"] != key_id:
            system_keyring.delete(stored.in_keyring["id"])
        credentials.save(stored.with_key_in_keyring(key_id, name))
        return KEYRING
    return str(credentials.save(stored.with_key(key_id, key, name, note=note, details=details)))


def remove_default() -> StoredKey | None:
    """Removes the stored default key. Returns what was removed; None if there was none."""
    stored = credentials.load()
    if stored.in_keyring is not None:
        key_id, name, place = stored.in_keyring["id"], stored.in_keyring["name"], KEYRING
        system_keyring.delete(key_id)
    elif stored.default is not None:
        key_id, place = stored.default, str(credentials.default_path())
        name = stored.keys.get(key_id, {}).get("name")
    else:
        return None
    credentials.save(stored.without_key(key_id))
    return StoredKey(key_id, name, place)
