"""Sampling sessions."""

from __future__ import annotations

import sqlite3
from functools import lru_cache

from tinkex_server.store.database import Database
from tinkex_server.store.rows import SamplerRow

_ROWS = (
    "SELECT sampler_id, session_id, base_model, model_path, folder, inflight_of, owner"
    " FROM samplers JOIN sessions USING (session_id)"
)
_CACHED = 1000  # rows


class Samplers:
    """The table of sampling sessions."""

    def __init__(self, database: Database) -> None:
        self._db = database
        # each sample reads a row, and only `add` and `restore` change rows
        self._cached = lru_cache(_CACHED)(self._read)

    def add(self, row: SamplerRow, now: float) -> None:
        """Adds a sampling session. If it has in-flight weights, all in-flight sessions of the model
        sample from these weights from now on.
        """
        with self._db.transaction():
            self._insert(row, now)
            if row.inflight_of:
                self._db.run(
                    "UPDATE samplers SET folder = ? WHERE inflight_of = ?",
                    row.folder,
                    row.inflight_of,
                )
        self._cached.cache_clear()

    def restore(self, row: SamplerRow, created_at: float) -> None:
        """Adds a sampling session, or replaces one whose weights are gone."""
        self._insert(row, created_at)
        self._cached.cache_clear()

    def _insert(self, row: SamplerRow, now: float) -> None:
        self._db.run(
            "INSERT OR REPLACE INTO samplers"
            " (sampler_id, session_id, base_model, model_path, folder, inflight_of, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row.sampler_id,
            row.session_id,
            row.base_model,
            row.model_path,
            row.folder,
            row.inflight_of,
            now,
        )

    def get(self, sampler_id: str) -> SamplerRow | None:
        return self._cached(sampler_id)

    def _read(self, sampler_id: str) -> SamplerRow | None:
        return self._db.one(_row, f"{_ROWS} WHERE sampler_id = ?", sampler_id)

    def number_copy(self, sampler_id: str) -> int:
        """Returns the next number for a copy of this session's client, from 1."""
        return self._db.number(
            "UPDATE samplers SET copies = copies + 1 WHERE sampler_id = ? RETURNING copies",
            sampler_id,
        )

    def of_session(self, session_id: str) -> list[SamplerRow]:
        return self._db.all(_row, f"{_ROWS} WHERE session_id = ?", session_id)

    def folders(self) -> set[str]:
        """Returns the folders of open sessions. Weights saved for a session end with it."""
        sql = (
            "SELECT folder FROM samplers JOIN sessions USING (session_id)"
            " WHERE folder IS NOT NULL AND finished_at IS NULL"
        )
        return set(self._db.all(lambda row: row["folder"], sql))

    def folders_ever_used(self) -> set[str]:
        """Returns the folders of all sessions, open or not."""
        return set(
            self._db.all(
                lambda row: row["folder"], "SELECT folder FROM samplers WHERE folder IS NOT NULL"
            )
        )

    def inflight(self, model_id: str) -> list[SamplerRow]:
        """Returns the sessions that sample from the newest in-flight weights of a model."""
        return self._db.all(_row, f"{_ROWS} WHERE inflight_of = ?", model_id)

    def ids_of(self, session_id: str) -> list[str]:
        sql = "SELECT sampler_id FROM samplers WHERE session_id = ? ORDER BY rowid"
        return self._db.all(lambda row: row["sampler_id"], sql, session_id)


def _row(row: sqlite3.Row) -> SamplerRow:
    return SamplerRow(*row)
