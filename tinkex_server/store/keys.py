"""The hashes of all API keys that the server was ever given."""

from __future__ import annotations

import sqlite3

from attrs import astuple

from tinkex_server.store.database import Database
from tinkex_server.store.rows import EnrolledKey, KeyRow


class Keys:
    """The table of API keys."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, hashed: bytes, salt: bytes, name: str, now: float) -> KeyRow:
        """Adds a new key."""
        sql = "INSERT INTO keys (hash, salt, name, created_at) VALUES (?, ?, ?, ?)"
        self._db.run(sql, hashed, salt, name, now)
        row = self.by_hash(hashed)
        assert row is not None
        return row

    def get(self, key_id: int) -> KeyRow | None:
        return self._db.one(_row, "SELECT * FROM keys WHERE key_id = ?", key_id)

    def by_hash(self, hashed: bytes) -> KeyRow | None:
        return self._db.one(_row, "SELECT * FROM keys WHERE hash = ?", hashed)

    def salts(self) -> list[bytes]:
        """Returns the salts of the hashes, the oldest first. There is only one, unless keys were
        restored after the database was lost.
        """
        return self._db.all(
            lambda row: row["salt"], "SELECT salt FROM keys GROUP BY salt ORDER BY min(key_id)"
        )

    def enrolled(self, key_id: int) -> EnrolledKey | None:
        return self._db.one(_enrolled, "SELECT * FROM keys WHERE key_id = ?", key_id)

    def restore(self, key: EnrolledKey) -> int:
        """Adds a key unless it is there, and returns its id. The hash identifies the key: its id
        may have been another one before.
        """
        self._db.run(
            "INSERT OR IGNORE INTO keys (hash, salt, name, created_at, revoked_at)"
            " VALUES (?, ?, ?, ?, ?)",
            *astuple(key),
        )
        return self._db.number("SELECT key_id FROM keys WHERE hash = ?", key.hashed)

    def count(self) -> int:
        return self._db.number("SELECT count(*) FROM keys")

    def revoke(self, key_id: int, now: float) -> None:
        """Revokes a key for good: the server refuses it even when it is started with it."""
        self._db.run(
            "UPDATE keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL", now, key_id
        )


def _enrolled(row: sqlite3.Row) -> EnrolledKey:
    return EnrolledKey(row["hash"], row["salt"], row["name"], row["created_at"], row["revoked_at"])


def _row(row: sqlite3.Row) -> KeyRow:
    return KeyRow(row["key_id"], row["name"], row["created_at"], row["revoked_at"])
