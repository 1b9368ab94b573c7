"""Accepted requests, and their results."""

from __future__ import annotations

import math
import sqlite3

from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import EndedFuture, Ending, FailureRow, FutureRow, TimedFuture

_ROWS = (
    "SELECT request_id, scope, seq_id, kind, fingerprint, owner, state, result, error, category"
    " FROM futures"
)
_FAILED = "state = 'failed' AND (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR scope = ?2)"
_BY_ID = f"{_ROWS} WHERE request_id = ?"
_BY_NUMBER = f"{_ROWS} WHERE scope = ? AND seq_id = ?"
_SCOPES = 10_000
"""The most scopes whose highest number is kept in memory; that of others is read from the file."""


class StoredFutures:
    """The table of requests."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._result_bytes = database.number("SELECT coalesce(sum(length(result)), 0) FROM futures")
        self._highest: dict[str, int] = {}  # by scope: no request there has a higher number

    def add(self, row: FutureRow, now: float) -> None:
        if row.seq_id is not None:
            self._highest[row.scope] = max(row.seq_id, self._highest_number(row.scope))
        self._db.run_in_group(
            "INSERT INTO futures"
            " (request_id, scope, seq_id, kind, fingerprint, owner, state, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row.request_id,
            row.scope,
            row.seq_id,
            row.kind,
            row.fingerprint,
            row.owner,
            row.state,
            now,
        )

    def get(self, request_id: str) -> FutureRow | None:
        return self._db.one(_row, _BY_ID, request_id)

    def by_number(self, scope: str, seq_id: int) -> FutureRow | None:
        if seq_id > self._highest_number(scope):  # most are new, and need no look into the file
            return None
        return self._db.one(_row, _BY_NUMBER, scope, seq_id)

    def _highest_number(self, scope: str) -> int:
        if scope not in self._highest:
            if len(self._highest) >= _SCOPES:
                self._highest.clear()
            self._highest[scope] = self._db.number(
                "SELECT coalesce(max(seq_id), -1) FROM futures WHERE scope = ?", scope
            )
        return self._highest[scope]

    def pending(self) -> list[FutureRow]:
        """Returns the requests that have not ended, in the order in which they came."""
        return self._db.all(_row, f"{_ROWS} WHERE state = 'pending' ORDER BY rowid")

    def last_number(self, scope: str) -> int:
        """Returns the highest number in a scope; 0 if there is none."""
        return self._db.number(
            "SELECT coalesce(max(seq_id), 0) FROM futures WHERE scope = ?", scope
        )

    def ended(self, scope: str) -> list[EndedFuture]:
        """Returns the requests of a scope that have ended, in the order in which they ended."""
        sql = (
            "SELECT request_id, seq_id, state, coalesce(length(result), 0) FROM futures"
            " WHERE scope = ? AND state != 'pending' ORDER BY finished_at, rowid"
        )
        return self._db.all(lambda row: EndedFuture(*row), sql, scope)

    def of_session(self, session_id: str, limit: int) -> list[TimedFuture]:
        """Returns the newest requests of a session, of its models and of its sampling sessions, the
        oldest first.
        """
        sql = (
            "SELECT request_id, scope, seq_id, kind, state, created_at, started_at, finished_at"
            " FROM futures WHERE scope IN (SELECT ?1 UNION ALL SELECT ?1 || ':loss'"
            " UNION ALL SELECT model_id FROM models WHERE session_id = ?1"
            " UNION ALL SELECT sampler_id FROM samplers WHERE session_id = ?1)"
            " ORDER BY created_at DESC, rowid DESC LIMIT ?2"
        )
        return self._db.all(lambda row: TimedFuture(*row), sql, session_id, limit)[::-1]

    def failures(
        self, owner: str | None, scope: str | None, limit: int, offset: int
    ) -> list[FailureRow]:
        """Returns a page of the failures of one owner and one scope, or of all, the newest first.

        Requests of a scope that failed for the same reason are one failure.
        """
        sql = (
            "SELECT scope, kind, error, category, count(*), max(finished_at) AS at FROM futures"
            f" WHERE {_FAILED} GROUP BY scope, kind, error, category"
            " ORDER BY at DESC LIMIT ?3 OFFSET ?4"
        )
        return self._db.all(lambda row: FailureRow(*row), sql, owner, scope, limit, offset)

    def count_failures(self, owner: str | None, scope: str | None) -> int:
        """Returns the number of failures that `failures` lists on all pages."""
        sql = (
            f"SELECT count(*) FROM (SELECT 1 FROM futures WHERE {_FAILED}"
            " GROUP BY scope, kind, error, category)"
        )
        return self._db.number(sql, owner, scope)

    def end(self, request_id: str, ending: Ending, started_at: float | None, now: float) -> None:
        """Stores how a request ended."""
        self._result_bytes += len(ending.result or b"")
        self._db.run_in_group(
            "UPDATE futures SET state = ?, result = ?, error = ?, category = ?, started_at = ?,"
            " finished_at = ? WHERE request_id = ?",
            ending.state,
            ending.result,
            ending.error,
            ending.category,
            started_at,
            now,
            request_id,
        )

    def drop_results(self, before: float, keep_bytes: int, most: int) -> int:
        """Deletes the results of requests that ended before `before`, and the oldest results while
        all together take more than `keep_bytes`.

        It deletes no more than `most` results, and returns how many it deleted.
        """
        sql = (
            "SELECT rowid, coalesce(length(result), 0), finished_at FROM futures"
            " WHERE state IN ('done', 'failed') AND finished_at < ? ORDER BY finished_at LIMIT ?"
        )
        latest = math.inf if self._result_bytes > keep_bytes else before
        past: list[int] = []
        for rowid, size, ended_at in self._db.all(tuple, sql, latest, most):
            if ended_at >= before and self._result_bytes <= keep_bytes:
                break
            past.append(rowid)
            self._result_bytes -= size
        update = (
            "UPDATE futures SET state = 'expired', result = NULL, error = NULL"
            " WHERE rowid IN (SELECT value FROM json_each(?))"
        )
        return self._db.run(update, dump(past)) if past else 0

    def delete_dropped(self, before: float, most: int) -> int:
        """Deletes requests that came before `before` and whose results were dropped.

        It looks at the `most` oldest requests, and returns how many it deleted.
        """
        oldest = "SELECT rowid, state, created_at FROM futures ORDER BY rowid LIMIT ?"
        sql = (
            f"DELETE FROM futures WHERE rowid IN (SELECT rowid FROM ({oldest})"
            " WHERE state = 'expired' AND created_at < ?)"
        )
        return self._db.run(sql, most, before)

    def fail_pending(self, reason: str, now: float) -> None:
        """Marks all pending requests as failed for `reason`."""
        self._db.run(
            "UPDATE futures SET state = 'failed', error = ?, category = 'server', finished_at = ?"
            " WHERE state = 'pending'",
            reason,
            now,
        )


def _row(row: sqlite3.Row) -> FutureRow:
    return FutureRow(*row)
