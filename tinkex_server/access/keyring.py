"""`Keyring`: which API keys a server takes, and whose each is.

The store has a key as its scrypt hash, under an id that owns sessions and all that is made in them,
so that a key has its own again after a restart. People choose such keys by hand, so a fast hash
would let whoever gets the database try words until one fits. A slow hash costs a tenth of a second
a key when the server starts, and nothing later: the keys given then are the only ones that are
taken, and a request's key is looked up among their digests.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence

from tinkex_server.access.tokens import is_one as is_token
from tinkex_server.store import KeyRow, Store

logger = logging.getLogger("tinkex.local")


class BadKeys(ValueError):
    """The keys given to the server cannot be its keys."""


class Exposed(ValueError):
    """The address is open to others than this machine, and no key is asked for."""


class Keyring:
    """The keys that are taken. It holds none of them.

    Raises `BadKeys` for a text that no request could carry as its key.
    """

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        for key in keys:
            _check_key(key)
        self._keys = store.keys
        # of digests with a secret, how long a lookup takes tells nothing about the keys
        self._secret = secrets.token_bytes(32)
        self._ids = {self._digest(key): self._enrolled(key).key_id for key in keys}

    def owner(self, key: str) -> str | None:
        """Whose key it is; None when it is not taken, or was revoked."""
        key_id = self._ids.get(self._digest(key))
        return None if key_id is None or self._is_revoked(key_id) else str(key_id)

    def takes_from(self, owner: str) -> bool:
        """Whether the key of this owner is one that is taken."""
        return any(
            owner == str(key_id) and not self._is_revoked(key_id) for key_id in self._ids.values()
        )

    def _is_revoked(self, key_id: int) -> bool:
        row = self._keys.get(key_id)
        return row is None or row.revoked_at is not None

    def _enrolled(self, key: str) -> KeyRow:
        salts = self._keys.salts() or [secrets.token_bytes(16)]
        rows = (self._keys.by_hash(_hashed(key, salt)) for salt in salts)
        row = next((row for row in rows if row), None) or self._added(key, salts[0])
        if row.revoked_at is not None:
            logger.warning("API key %d of this data folder was revoked, and is refused", row.key_id)
        return row

    def _added(self, key: str, salt: bytes) -> KeyRow:
        return self._keys.add(
            _hashed(key, salt), salt, f"key {self._keys.count() + 1}", time.time()
        )

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode(), key=self._secret, digest_size=32).digest()


def _hashed(key: str, salt: bytes) -> bytes:
    return hashlib.scrypt(key.encode(), salt=salt, n=2**14, r=8, p=1)


def _check_key(key: str) -> None:
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise BadKeys(
            "an API key must be 1 or more letters, digits and signs of ASCII, with no space: it "
            "is sent as a header"
        )
    if is_token(key):
        raise BadKeys("an API key must not begin with eyJ, as the tokens do that stand for a key")
