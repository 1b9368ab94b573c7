"""The sessions of clients."""

from __future__ import annotations

import sqlite3

import orjson

from tinkex_server.store.conditions import Condition, all_of, among, has_pair
from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import FINISH_REASONS, FoundSession, SessionQuery, SessionRow

_STATE = f"""CASE
    WHEN finished_at IS NULL THEN 'active'
    WHEN finish_reason IN {FINISH_REASONS} THEN finish_reason ELSE 'cancelled' END"""
_NEWEST_FIRST = "ORDER BY created_at DESC, session_id DESC"


class Sessions:
    """The table of sessions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, row: SessionRow) -> None:
        """Adds a session unless it is there."""
        self._db.run(
            "INSERT OR IGNORE INTO sessions (session_id, owner, tags, user_metadata, sdk_version,"
            " project_id, display_name, created_at, heartbeat_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
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

    def restore(self, row: SessionRow) -> None:
        """Adds a session as it was, finished or not, unless it is there."""
        if self.get(row.session_id) is None:
            self.add(row)
            if row.finished_at is not None:
                self.finish(
                    row.session_id,
                    row.finish_reason or "cancelled",
                    row.finish_detail,
                    row.finished_at,
                )

    def get(self, session_id: str) -> SessionRow | None:
        return self._db.one(_row, "SELECT * FROM sessions WHERE session_id = ?", session_id)

    def ids(self, owner: str | None, limit: int, offset: int) -> list[str]:
        """Returns a page of the session ids of one owner, or of all, the newest first."""
        sql = (
            "SELECT session_id FROM sessions WHERE ?1 IS NULL OR owner = ?1"
            " ORDER BY rowid DESC LIMIT ?2 OFFSET ?3"
        )
        return self._db.all(lambda row: row["session_id"], sql, owner, limit, offset)

    def page(self, owner: str | None, limit: int, offset: int) -> list[SessionRow]:
        """Returns a page of the sessions of one owner, or of all, the newest first."""
        sql = (
            "SELECT * FROM sessions WHERE ?1 IS NULL OR owner = ?1"
            " ORDER BY rowid DESC LIMIT ?2 OFFSET ?3"
        )
        return self._db.all(_row, sql, owner, limit, offset)

    def count(self, owner: str | None) -> int:
        sql = "SELECT count(*) FROM sessions WHERE ?1 IS NULL OR owner = ?1"
        return self._db.number(sql, owner)

    def search(self, query: SessionQuery, limit: int) -> list[FoundSession]:
        """Returns the sessions that a query finds, at most `limit`, the newest first."""
        conditions, values = _conditions(query)
        taken = "FROM checkpoints JOIN models USING (model_id) WHERE session_id = found.session_id"
        sql = (
            f"SELECT *, (SELECT count(*) {taken}) AS checkpoints,"
            f" (SELECT coalesce(sum(size_bytes), 0) {taken}) AS size_bytes"
            f" FROM (SELECT * FROM sessions WHERE {conditions} {_NEWEST_FIRST} LIMIT ?) AS found"
            f" {_NEWEST_FIRST}"
        )
        return self._db.all(_found, sql, *values, limit)

    def set_project(self, session_id: str, project_id: str) -> None:
        self._db.run(
            "UPDATE sessions SET project_id = ? WHERE session_id = ?", project_id, session_id
        )

    def note_heartbeat(self, session_id: str, now: float) -> None:
        self._db.run("UPDATE sessions SET heartbeat_at = ? WHERE session_id = ?", now, session_id)

    def silent_since(self, since: float) -> list[SessionRow]:
        """Returns the open sessions without a heartbeat since `since`."""
        sql = "SELECT * FROM sessions WHERE finished_at IS NULL AND heartbeat_at < ?"
        return self._db.all(_row, sql, since)

    def finish(self, session_id: str, reason: str, detail: str | None, now: float) -> bool:
        """Finishes a session. Returns False if it was finished before: the first reason stays."""
        sql = (
            "UPDATE sessions SET finished_at = ?, finish_reason = ?, finish_detail = ?"
            " WHERE session_id = ? AND finished_at IS NULL"
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
        row["finish_reason"],
        row["finish_detail"],
        row["heartbeat_at"],
    )


def _found(row: sqlite3.Row) -> FoundSession:
    return FoundSession(_row(row), row["checkpoints"], row["size_bytes"])


def _conditions(query: SessionQuery) -> Condition:
    parts = _by_id_or_words(query)
    if query.owner is not None:
        parts.append(("owner = ?", [query.owner]))
    if query.states is not None:
        parts.append(among(_STATE, query.states))
    if query.project_ids is not None:
        parts.append(among("project_id", query.project_ids))
    for pair in query.user_metadata.items():
        parts.append(has_pair("user_metadata", *pair))
    if query.after:
        began, session_id = query.after
        # the time in the row, while there is one, is more exact than the one in the cursor
        known = "coalesce((SELECT created_at FROM sessions WHERE session_id = ?), ?)"
        parts.append((f"(created_at, session_id) < ({known}, ?)", [session_id, began, session_id]))
    return all_of(parts)


def _by_id_or_words(query: SessionQuery) -> list[Condition]:
    ways: list[Condition] = []
    if query.session_id is not None:
        ways.append(("session_id = ?", [query.session_id]))
    if query.words:
        has_word = "instr(folded(display_name), ?)"
        ways.append(
            (" AND ".join([has_word] * len(query.words)), [word.casefold() for word in query.words])
        )
    if not ways:
        return []
    return [
        (
            f"({' OR '.join(condition for condition, _ in ways)})",
            [value for _, values in ways for value in values],
        )
    ]
