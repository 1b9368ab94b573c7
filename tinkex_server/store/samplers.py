"""Sampling sessions."""

from __future__ import annotations

import sqlite3
from functools import lru_cache

from tinkex_server.store.database import Database
from tinkex_server.store.rows import SamplerRow

_ROWS = (
    "SELECT sampler_id, session_id, base_model, model_path, folder, inflight_of, owner FROM "
    "samplers JOIN sessions USING (session_id)"
)
_REMEMBERED = 1000  # rows


class Samplers:
    def __init__(self, database: Database) -> None:
        self._db = database
        # one is asked for with every sample; only `add` changes them
        self._remembered = lru_cache(_REMEMBERED)(self._read)

    def add(self, row: SamplerRow, now: float) -> None:
        """Its owner is its session's. With in-flight weights, all those of the model sample from
        these.
        """
        with self._db.transaction():
            self._insert(row, now)
            if row.inflight_of:
                self._db.run(
                    "UPDATE samplers SET folder = ? WHERE inflight_of = ?",
                    row.folder,
                    row.inflight_of,
                )
        self._remembered.cache_clear()

    def restore(self, row: SamplerRow, created_at: float) -> None:
        """Adds it, or takes the place of one whose weights are gone."""
        self._insert(row, created_at)
        self._remembered.cache_clear()

    def _insert(self, row: SamplerRow, now: float) -> None:
        self._db.run(
            "INSERT OR REPLACE INTO samplers (sampler_id, session_id, base_model, model_path, "
            "folder, inflight_of, created_at)"
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
        return self._remembered(sampler_id)

    def _read(self, sampler_id: str) -> SamplerRow | None:
        return self._db.one(_row, f"{_ROWS} WHERE sampler_id = ?", sampler_id)

    def number_copy(self, sampler_id: str) -> int:
        """The next number for a copied client of this sampler, from 1."""
        return self._db.number(
            "UPDATE samplers SET copies = copies + 1 WHERE sampler_id = ? RETURNING copies",
            sampler_id,
        )

    def of_session(self, session_id: str) -> list[SamplerRow]:
        return self._db.all(_row, f"{_ROWS} WHERE session_id = ?", session_id)

    def folders(self) -> set[str]:
        """Of the sessions that go on: what was saved for one ends with it."""
        sql = (
            "SELECT folder FROM samplers JOIN sessions USING (session_id) WHERE folder IS NOT "
            "NULL AND finished_at IS NULL"
        )
        return set(self._db.all(lambda row: row["folder"], sql))

    def folders_ever_used(self) -> set[str]:
        """Of the sessions that have ended, too."""
        return set(
            self._db.all(
                lambda row: row["folder"], "SELECT folder FROM samplers WHERE folder IS NOT NULL"
            )
        )

    def inflight(self, model_id: str) -> list[SamplerRow]:
        """Those that sample from the newest in-flight weights of this model."""
        return self._db.all(_row, f"{_ROWS} WHERE inflight_of = ?", model_id)

    def ids_of(self, session_id: str) -> list[str]:
        sql = "SELECT sampler_id FROM samplers WHERE session_id = ? ORDER BY rowid"
        return self._db.all(lambda row: row["sampler_id"], sql, session_id)


def _row(row: sqlite3.Row) -> SamplerRow:
    return SamplerRow(*row)
