"""The audit log: what was done by whom, in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import orjson

from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import AuditRow


class AuditLog:
    """The table of the audit log."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, owner: str, event: str, details: Mapping[str, object], now: float) -> None:
        """Adds an entry. `event` has the form `<subject>.<what happened>`."""
        self._db.run(
            "INSERT INTO events (owner, event, details, at) VALUES (?, ?, ?, ?)",
            owner,
            event,
            dump(details),
            now,
        )

    def between(
        self, owner: str | None, subject: str | None, start: float, end: float
    ) -> list[AuditRow]:
        """Returns the entries of an owner and a subject, the oldest first. None stands for all
        owners, or all subjects.
        """
        sql = (
            "SELECT * FROM events WHERE at >= ?1 AND at < ?2 AND (?3 IS NULL OR owner = ?3)"
            " AND (?4 IS NULL OR event LIKE ?4 || '.%') ORDER BY event_id"
        )
        return self._db.all(_row, sql, start, end, owner, subject)

    def drop(self, before: float, keep: int, most: int) -> int:
        """Deletes entries that were made before `before`, or are not among the newest `keep`, but
        no more than `most`. Returns how many it deleted.
        """
        return self._db.drop_oldest("events", "at", before, keep, most)

    def count(self) -> int:
        return self._db.number("SELECT count(*) FROM events")


def _row(row: sqlite3.Row) -> AuditRow:
    return AuditRow(row["at"], row["event"], orjson.loads(row["details"]))
