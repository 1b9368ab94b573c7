"""Sessions of clients."""

from __future__ import annotations

import sqlite3

import orjson

from tinkex.local.store.database import Database, dump
from tinkex.local.store.rows import SessionRow


class Sessions:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, row: SessionRow) -> None:
        """Adds it, unless it is there."""
        self._db.run(
            "INSERT OR IGNORE INTO sessions (session_id, owner, tags, user_metadata, sdk_version, project_id, display_name,"
            " created_at, heartbeat_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.session_id,
            row.owner,
            dump(row.tags),
            dump(row.user_metadata),
            row.sdk_version,
            row.project_id,
            row.display_name,
            row.created_at,
            row.created_at,
        )

    def get(self, session_id: str) -> SessionRow | None:
        return self._db.one(_row, "SELECT * FROM sessions WHERE session_id = ?", session_id)

    def ids(self, owner: str | None, limit: int, offset: int) -> list[str]:
        """Those of one owner, or all; newest first."""
        sql = "SELECT session_id FROM sessions WHERE ?1 IS NULL OR owner = ?1 ORDER BY rowid DESC LIMIT ?2 OFFSET ?3"
        return self._db.all(lambda row: row["session_id"], sql, owner, limit, offset)

    def note_heartbeat(self, session_id: str, now: float) -> None:
        self._db.run("UPDATE sessions SET heartbeat_at = ? WHERE session_id = ?", now, session_id)

    def silent(self, since: float) -> list[str]:
        """Those that go on and had no heartbeat since then."""
        sql = "SELECT session_id FROM sessions WHERE finished_at IS NULL AND heartbeat_at < ?"
        return self._db.all(lambda row: row["session_id"], sql, since)

    def finish(self, session_id: str, reason: str, detail: str | None, now: float) -> bool:
        """Whether this was the first to finish it: the first reason stays."""
        sql = (
            "UPDATE sessions SET finished_at = ?, finish_reason = ?, finish_detail = ? WHERE session_id = ? AND finished_at IS NULL"
        )
        return self._db.run(sql, now, reason, detail, session_id) == 1


def _row(row: sqlite3.Row) -> SessionRow:
    return SessionRow(
        row["session_id"],
        orjson.loads(row["tags"]),
        orjson.loads(row["user_metadata"]),
        row["sdk_version"],
        row["project_id"],
        row["display_name"],
        row["created_at"],
        row["owner"],
        row["finished_at"],
    )
