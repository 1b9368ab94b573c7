"""Training runs: the models in memory, and those of the past."""

from __future__ import annotations

import sqlite3

import orjson
from attrs import astuple

from tinkex_server.engine.interface import LoraShape
from tinkex_server.store.database import Database, dump
from tinkex_server.store.rows import STATES_IN_MEMORY, ModelRow, ModelState, RunQuery

_MODELS = "SELECT models.*, sessions.owner FROM models JOIN sessions USING (session_id)"
_PUBLISHED = (
    "EXISTS (SELECT 1 FROM checkpoints WHERE checkpoints.model_id = models.model_id AND public)"
)
_IN_MEMORY = f"state IN {(*STATES_IN_MEMORY,)}"
_WANTED = f"(?1 IS NULL OR owner = ?1 OR (?2 AND {_PUBLISHED})) AND (?3 IS NULL OR project_id = ?3)"


class Models:
    """The table of training runs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, row: ModelRow) -> None:
        lora = row.lora
        self._db.run(
            "INSERT INTO models (model_id, session_id, base_model, rank, seed, train_attn,"
            " train_mlp, train_unembed, optimizer, user_metadata, state, created_at,"
            " last_request_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.model_id,
            row.session_id,
            row.base_model,
            lora.rank,
            lora.seed,
            lora.train_attn,
            lora.train_mlp,
            lora.train_unembed,
            row.optimizer,
            dump(row.user_metadata),
            row.state,
            row.created_at,
            row.last_request_at,
        )

    def get(self, model_id: str) -> ModelRow | None:
        return self._db.one(read_row, f"{_MODELS} WHERE model_id = ?", model_id)

    def page(self, query: RunQuery, limit: int, offset: int) -> list[ModelRow]:
        """Returns a page of the runs that a query finds, the newest first."""
        sql = f"{_MODELS} WHERE {_WANTED} ORDER BY models.rowid DESC LIMIT ?4 OFFSET ?5"
        return self._db.all(read_row, sql, *astuple(query), limit, offset)

    def count(self, query: RunQuery) -> int:
        return self._db.number(
            f"SELECT count(*) FROM models JOIN sessions USING (session_id) WHERE {_WANTED}",
            *astuple(query),
        )

    def has_published(self, model_id: str) -> bool:
        return self._db.number(f"SELECT {_PUBLISHED} FROM models WHERE model_id = ?", model_id) == 1

    def count_in_memory(self) -> int:
        return self._db.number(f"SELECT count(*) FROM models WHERE {_IN_MEMORY}")

    def of_session(self, session_id: str) -> list[ModelRow]:
        return self._db.all(
            read_row, f"{_MODELS} WHERE session_id = ? ORDER BY models.rowid", session_id
        )

    def in_memory(self) -> list[ModelRow]:
        return self._db.all(read_row, f"{_MODELS} WHERE {_IN_MEMORY} ORDER BY models.rowid")

    def failure(self, model_id: str) -> str | None:
        row = self.get(model_id)
        return row and row.failure

    def mark_failed(self, model_id: str, reason: str) -> None:
        self._db.run(
            "UPDATE models SET state = 'failed', failure = ? WHERE model_id = ?", reason, model_id
        )

    def set_state(self, model_id: str, state: ModelState) -> None:
        self._db.run("UPDATE models SET state = ? WHERE model_id = ?", state, model_id)

    def mark_created(self, model_id: str) -> None:
        """Marks a model as ready, unless it was unloaded while it was being created."""
        self._db.run(
            "UPDATE models SET state = 'ready' WHERE model_id = ? AND state = 'creating'", model_id
        )

    def note_request(self, model_id: str, now: float) -> None:
        self._db.run("UPDATE models SET last_request_at = ? WHERE model_id = ?", now, model_id)

    def mark_all_lost(self) -> None:
        """Marks all models in memory as lost."""
        self._db.run(f"UPDATE models SET state = 'lost' WHERE {_IN_MEMORY}")


def read_row(row: sqlite3.Row) -> ModelRow:
    """Returns a training run from its columns and the `owner` of its session."""
    return ModelRow(
        row["model_id"],
        row["session_id"],
        row["base_model"],
        LoraShape(
            row["rank"],
            row["seed"],
            bool(row["train_attn"]),
            bool(row["train_mlp"]),
            bool(row["train_unembed"]),
        ),
        row["optimizer"],
        orjson.loads(row["user_metadata"]),
        row["state"],
        row["created_at"],
        row["last_request_at"],
        row["owner"],
        row["failure"],
    )
