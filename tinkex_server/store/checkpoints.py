"""Saved weights."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.store.conditions import Condition, all_of, among, has_pair
from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import CheckpointQuery, CheckpointRow, StorageRow

_JOINED = "FROM checkpoints JOIN models USING (model_id) JOIN sessions USING (session_id)"
_CHECKPOINTS = f"SELECT checkpoints.*, sessions.owner, models.base_model {_JOINED}"
_PUT = (
    "INSERT OR REPLACE INTO checkpoints (model_id, kind, name, folder, size_bytes, created_at,"
    " expires_at, user_metadata, public, step)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_AT = "model_id = ? AND kind = ? AND name = ?"


class Checkpoints:
    """The table of saved weights."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, row: CheckpointRow) -> None:
        """Adds a checkpoint, or replaces the one of the same path. When this returns the row is on
        the disk.
        """
        self._db.run_durably(_PUT, *_values(row))

    def restore(self, row: CheckpointRow) -> None:
        """Adds a checkpoint, or replaces the one of the same path, without waiting for the disk:
        its manifest is there in any case.
        """
        self._db.run(_PUT, *_values(row))

    def get(self, path: CheckpointPath) -> CheckpointRow | None:
        return self._db.one(_row, f"{_CHECKPOINTS} WHERE {_AT}", *_key(path))

    def page(self, owner: str | None, limit: int, offset: int) -> list[CheckpointRow]:
        """Returns a page of the checkpoints of one owner, or of all, the newest first."""
        sql = (
            f"{_CHECKPOINTS} WHERE ?1 IS NULL OR owner = ?1"
            " ORDER BY checkpoints.rowid DESC LIMIT ?2 OFFSET ?3"
        )
        return self._db.all(_row, sql, owner, limit, offset)

    def search(self, query: CheckpointQuery, limit: int) -> list[CheckpointRow]:
        """Returns the checkpoints that a query finds, at most `limit`, the newest first."""
        condition, values = _conditions(query)
        sql = (
            f"{_CHECKPOINTS} WHERE {condition}"
            " ORDER BY checkpoints.created_at DESC, checkpoints.folder DESC LIMIT ?"
        )
        return self._db.all(_row, sql, *values, limit)

    def count(self, owner: str | None) -> int:
        return self._db.number(f"SELECT count(*) {_JOINED} WHERE ?1 IS NULL OR owner = ?1", owner)

    def size(self, owner: str | None) -> int:
        """Returns the bytes of all checkpoints of one owner, or of all."""
        sql = f"SELECT coalesce(sum(size_bytes), 0) {_JOINED} WHERE ?1 IS NULL OR owner = ?1"
        return self._db.number(sql, owner)

    def of_run(self, model_id: str, most: int = -1) -> list[CheckpointRow]:
        """Returns the checkpoints of a run, the newest first; `most` of them, or all by default."""
        sql = f"{_CHECKPOINTS} WHERE model_id = ? ORDER BY checkpoints.rowid DESC LIMIT ?"
        return self._db.all(_row, sql, model_id, most)

    def count_of_run(self, model_id: str) -> int:
        return self._db.number("SELECT count(*) FROM checkpoints WHERE model_id = ?", model_id)

    def expired(self, now: float) -> list[CheckpointRow]:
        return self._db.all(_row, f"{_CHECKPOINTS} WHERE expires_at <= ?", now)

    def folders(self) -> set[str]:
        return set(self._db.all(lambda row: row["folder"], "SELECT folder FROM checkpoints"))

    def published_of_run(self, model_id: str) -> list[CheckpointRow]:
        return self._db.all(
            _row,
            f"{_CHECKPOINTS} WHERE model_id = ? AND public ORDER BY checkpoints.rowid DESC",
            model_id,
        )

    def last(self, model_id: str, kind: str) -> CheckpointRow | None:
        """Returns the newest checkpoint of this kind of a run."""
        sql = (
            f"{_CHECKPOINTS} WHERE model_id = ? AND kind = ?"
            " ORDER BY checkpoints.rowid DESC LIMIT 1"
        )
        return self._db.one(_row, sql, model_id, kind)

    def storage(self, owner: str | None, project_id: str | None) -> list[StorageRow]:
        """Returns the checkpoints' sizes by owner and project, of one of either or of all."""
        sql = (
            f"SELECT owner, project_id, count(*), sum(size_bytes) {_JOINED}"
            " WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR project_id = ?2)"
            " GROUP BY owner, project_id"
        )
        return self._db.all(lambda row: StorageRow(*row), sql, owner, project_id)

    def set_public(self, path: CheckpointPath, public: bool) -> bool:
        """Publishes a checkpoint, or takes it back. Returns whether that changes anything."""
        return (
            self._db.run(
                f"UPDATE checkpoints SET public = ? WHERE {_AT} AND public != ?",
                public,
                *_key(path),
                public,
            )
            == 1
        )

    def set_expiry(self, path: CheckpointPath, expires_at: float | None) -> None:
        self._db.run(f"UPDATE checkpoints SET expires_at = ? WHERE {_AT}", expires_at, *_key(path))

    def delete(self, path: CheckpointPath) -> None:
        self._db.run(f"DELETE FROM checkpoints WHERE {_AT}", *_key(path))


def _key(path: CheckpointPath) -> tuple[str, str, str]:
    return path.run_id, path.kind, path.name


def _values(row: CheckpointRow) -> tuple[Any, ...]:
    kept = (
        row.folder,
        row.size_bytes,
        row.created_at,
        row.expires_at,
        dump(row.user_metadata),
        row.public,
        row.step,
    )
    return *_key(row.path), *kept


def _row(row: sqlite3.Row) -> CheckpointRow:
    return CheckpointRow(
        CheckpointPath(row["model_id"], row["kind"], row["name"]),
        row["folder"],
        row["size_bytes"],
        row["created_at"],
        row["expires_at"],
        orjson.loads(row["user_metadata"]),
        bool(row["public"]),
        row["owner"],
        row["base_model"],
        row["step"],
    )


def _conditions(query: CheckpointQuery) -> Condition:
    parts: list[Condition] = []
    for column, value in ("owner", query.owner), ("kind", query.kind):
        if value is not None:
            parts.append((f"{column} = ?", [value]))
    for column, values in ("project_id", query.project_ids), ("base_model", query.base_models):
        if values is not None:
            parts.append(among(column, values))
    parts += [has_pair("checkpoints.user_metadata", *pair) for pair in query.user_metadata.items()]
    if query.after:
        made, folder = query.after
        # the time in the row, while there is one, is more exact than the one in the cursor
        known = "coalesce((SELECT created_at FROM checkpoints WHERE folder = ?), ?)"
        condition = f"(checkpoints.created_at, checkpoints.folder) < ({known}, ?)"
        parts.append((condition, [folder, made, folder]))
    return all_of(parts)
