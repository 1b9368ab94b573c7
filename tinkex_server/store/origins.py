"""The origins of training runs: the checkpoints of other runs that they have loaded."""

from __future__ import annotations

import sqlite3

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.store import models
from tinkex_server.store.database import Database
from tinkex_server.store.rows import ModelRow, OriginRow

_CONTINUING = (
    "FROM origins JOIN models USING (model_id) JOIN sessions USING (session_id)"
    " WHERE source_id = ?1 AND after_step = 0 AND (?2 IS NULL OR owner = ?2)"
)


class Origins:
    """The table of loads of other runs' checkpoints. Of several loads between two steps of a run
    the last one counts.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, row: OriginRow) -> None:
        """Adds a load, or replaces the one before the same step."""
        self._db.run(
            "INSERT OR REPLACE INTO origins (model_id, after_step, source_id, kind, name, step)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            row.model_id,
            row.after_step,
            row.source.run_id,
            row.source.kind,
            row.source.name,
            row.step,
        )

    def first(self, model_id: str) -> OriginRow | None:
        """Returns the load by which a run continues another one."""
        sql = "SELECT * FROM origins WHERE model_id = ? AND after_step = 0"
        return self._db.one(_row, sql, model_id)

    def of_run(self, model_id: str, most: int) -> list[OriginRow]:
        """Returns the loads of a run, in order. Of more than `most` it returns the first, if the
        run continues another one by it, and the last ones.
        """
        sql = (
            "SELECT * FROM origins WHERE model_id = ?"
            " ORDER BY after_step = 0 DESC, after_step DESC LIMIT ?"
        )
        return sorted(self._db.all(_row, sql, model_id, most), key=lambda row: row.after_step)

    def continuing(self, model_id: str, owner: str | None, most: int) -> list[ModelRow]:
        """Returns the runs of one owner, or of all, that continue a run; the newest `most`, the
        newest first.
        """
        sql = f"SELECT models.*, owner {_CONTINUING} ORDER BY models.rowid DESC LIMIT ?3"
        return self._db.all(models.read_row, sql, model_id, owner, most)

    def count_continuing(self, model_id: str, owner: str | None) -> int:
        return self._db.number(f"SELECT count(*) {_CONTINUING}", model_id, owner)


def _row(row: sqlite3.Row) -> OriginRow:
    return OriginRow(
        row["model_id"],
        row["after_step"],
        CheckpointPath(row["source_id"], row["kind"], row["name"]),
        row["step"],
    )
