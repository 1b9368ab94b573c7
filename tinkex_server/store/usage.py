"""The usage by the hour, and the storage that checkpoints took."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping

from tinkex_server.store.database import Database, Statement
from tinkex_server.store.recent_usage import RecentUsage
from tinkex_server.store.rows import StoredSpan, UsageKind, UsageRow

HOUR = 3600

_SPANS = """
SELECT session_id, models.base_model, size_bytes, checkpoints.created_at AS start, NULL AS end
    FROM checkpoints JOIN models USING (model_id)
UNION ALL SELECT session_id, base_model, size_bytes, created_at, deleted_at FROM past_checkpoints
"""


class Usage:
    """The tables of usage and of deleted checkpoints."""

    def __init__(self, database: Database) -> None:
        self._db = database
        # the amounts that are not written yet
        self._sums: Counter[tuple[int, str, str, str, UsageKind]] = Counter()
        self.recent = RecentUsage()

    def add(
        self,
        owner: str,
        session_id: str,
        base_model: str,
        amounts: Mapping[UsageKind, int],
        now: float,
    ) -> None:
        """Adds amounts to the current hour. They are summed up, and written when the database's
        open group ends.

        `session_id` is empty for samples without a session.
        """
        if not self._sums:
            self._db.run_at_group_end(self._write_sums)
        hour = int(now) // HOUR * HOUR
        for kind, amount in amounts.items():
            self._sums[hour, owner, session_id, base_model, kind] += amount
        self.recent.add(owner, amounts, now)

    def _write_sums(self) -> Statement:
        sums, self._sums = self._sums, Counter()
        rows = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(sums))
        sql = (
            f"INSERT INTO usage VALUES {rows}"
            " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
        )
        return sql, [value for key, amount in sums.items() for value in (*key, amount)]

    def between(self, owner: str | None, start: float, end: float) -> list[UsageRow]:
        """Returns the usage of one owner, or of all, in the hours that begin in a time span, the
        oldest first.
        """
        sql = (
            "SELECT usage.*, project_id FROM usage LEFT JOIN sessions USING (session_id)"
            " WHERE hour >= ?1 AND hour < ?2 AND (?3 IS NULL OR usage.owner = ?3)"
            " ORDER BY hour, session_id, base_model, kind"
        )
        return self._db.all(_usage, sql, start, end, owner)

    def stored(self, owner: str | None, start: float, end: float) -> list[StoredSpan]:
        """Returns the checkpoints, deleted or not, that were stored at some time in a time span."""
        sql = (
            f"SELECT spans.*, owner, project_id"
            f" FROM ({_SPANS}) AS spans JOIN sessions USING (session_id)"
            " WHERE start < ?1 AND coalesce(end > ?2, TRUE) AND (?3 IS NULL OR owner = ?3)"
        )
        return self._db.all(_span, sql, end, start, owner)

    def drop(self, before: float, keep: int) -> None:
        """Deletes the hours before `before`, and those that are not among the newest `keep` rows.

        An hour is deleted as a whole: otherwise its sums would be wrong.
        """
        newest = "SELECT hour + 1 FROM usage ORDER BY hour DESC LIMIT 1 OFFSET ?2"
        self._db.run(
            f"DELETE FROM usage WHERE hour < max(?1, coalesce(({newest}), 0))", before, keep
        )

    def drop_stored(self, before: float, keep: int, most: int) -> int:
        """Deletes the records of checkpoints that were deleted before `before`, or are not among
        the newest `keep`, but no more than `most`. Returns how many it deleted.
        """
        return self._db.drop_oldest("past_checkpoints", "deleted_at", before, keep, most)

    def count(self) -> int:
        """Returns the number of rows of both tables."""
        return self._db.number(
            "SELECT (SELECT count(*) FROM usage) + (SELECT count(*) FROM past_checkpoints)"
        )


def _usage(row: sqlite3.Row) -> UsageRow:
    return UsageRow(
        row["hour"],
        row["owner"],
        row["session_id"],
        row["base_model"],
        row["project_id"],
        row["kind"],
        row["amount"],
    )


def _span(row: sqlite3.Row) -> StoredSpan:
    return StoredSpan(
        row["owner"],
        row["session_id"],
        row["base_model"],
        row["project_id"],
        row["size_bytes"],
        row["start"],
        row["end"],
    )
