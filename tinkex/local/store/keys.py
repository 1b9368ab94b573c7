"""API keys: which were given to the server at some time, as hashes."""

from __future__ import annotations

import sqlite3

from tinkex.local.store.database import Database
from tinkex.local.store.rows import KeyRow


class Keys:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, hashed: bytes, salt: bytes, name: str, now: float) -> KeyRow:
        """It must not be there."""
        sql = "INSERT INTO keys (hash, salt, name, created_at) VALUES (?, ?, ?, ?)"
        self._db.run(sql, hashed, salt, name, now)
        row = self.by_hash(hashed)
        assert row is not None
        return row

    def get(self, key_id: int) -> KeyRow | None:
        return self._db.one(_row, "SELECT * FROM keys WHERE key_id = ?", key_id)

    def by_hash(self, hashed: bytes) -> KeyRow | None:
        return self._db.one(_row, "SELECT * FROM keys WHERE hash = ?", hashed)

    def salt(self) -> bytes | None:
        """The one that all hashes are made with; None as long as there are none."""
        return self._db.one(lambda row: row["salt"], "SELECT salt FROM keys LIMIT 1")

    def count(self) -> int:
        return self._db.number("SELECT count(*) FROM keys")

    def revoke(self, key_id: int, now: float) -> None:
        """For good: the server refuses it from now on, even when it is started with it."""
        self._db.run("UPDATE keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL", now, key_id)


def _row(row: sqlite3.Row) -> KeyRow:
    return KeyRow(row["key_id"], row["name"], row["created_at"], row["revoked_at"])
