"""`ApiKeys`: the API keys that a server accepts, and the owner that each stands for.

The store holds each key as a scrypt hash, under an id that owns sessions and everything made in
them, so a key finds its own sessions again after a restart. Such keys are often chosen by hand. A
fast hash would let anyone who obtains the database guess them word by word. The slow hash costs a
twentieth of a second a key when the server starts, and nothing later: only the keys given at the
start are accepted, and the key of a request is looked up among their digests.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence

from tinkex_server.access.tokens import is_token
from tinkex_server.store import KeyRow, Store

logger = logging.getLogger("tinkex.local")


class InvalidApiKeys(ValueError):
    """The keys given to the server cannot be used as API keys."""


class ApiKeyRequired(ValueError):
    """The server would listen on an address that other machines can reach, without an API key."""


class ApiKeys:
    """The API keys of one server. Only digests of them are held in memory.

    Raises `InvalidApiKeys` for a text that no request could send as its key.
    """

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        for key in keys:
            _check_key(key)
        self._keys = store.keys
        # the digests depend on a secret, so the time of a lookup tells nothing about the keys
        self._secret = secrets.token_bytes(32)
        self._ids = {self._digest(key): self._find_or_add(key).key_id for key in keys}

    def owner(self, key: str) -> str | None:
        """Returns the owner that a key stands for, or None if it is not accepted or was revoked."""
        key_id = self._ids.get(self._digest(key))
        return None if key_id is None or self._is_revoked(key_id) else str(key_id)

    def accept_owner(self, owner: str) -> bool:
        """Returns whether the key of this owner is accepted."""
        return any(
            owner == str(key_id) and not self._is_revoked(key_id) for key_id in self._ids.values()
        )

    def _is_revoked(self, key_id: int) -> bool:
        row = self._keys.get(key_id)
        return row is None or row.revoked_at is not None

    def _find_or_add(self, key: str) -> KeyRow:
        first, *others = self._keys.salts() or [secrets.token_bytes(16)]
        hashed = _hashed(key, first)
        rows = (self._keys.by_hash(_hashed(key, salt)) for salt in others)
        row = (
            self._keys.by_hash(hashed)
            or next((row for row in rows if row), None)
            or self._keys.add(hashed, first, f"key {self._keys.count() + 1}", time.time())
        )
        if row.revoked_at is not None:
            logger.warning(
                "API key %d of this data folder was revoked, so requests with it are refused",
                row.key_id,
            )
        return row

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode(), key=self._secret, digest_size=32).digest()


def _hashed(key: str, salt: bytes) -> bytes:
    return hashlib.scrypt(key.encode(), salt=salt, n=2**14, r=8, p=1)


def _check_key(key: str) -> None:
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise InvalidApiKeys(
            "an API key must be at least one printable ASCII character, with no space in it: it is "
            "sent as a header"
        )
    if is_token(key):
        raise InvalidApiKeys(
            "an API key must not begin with eyJ, since tokens that stand for a key begin so"
        )
