"""All that the server remembers, in one SQLite file. Plain SQL, values in and out; every method is one transaction.

It is called on the event loop's thread alone: with a write-ahead log a small write takes some tens of microseconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
from attrs import frozen

from tinkex.local.engine.base import CustomLoss, LoraShape, OptimizerKind
from tinkex.local.paths import CheckpointPath

_VERSION = 3
_SCHEMA = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY, tags TEXT NOT NULL, user_metadata TEXT NOT NULL, sdk_version TEXT NOT NULL,
    project_id TEXT, display_name TEXT,
    created_at REAL NOT NULL, heartbeat_at REAL NOT NULL, finished_at REAL, finish_reason TEXT, finish_detail TEXT
);
CREATE TABLE models (
    model_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions, base_model TEXT NOT NULL,
    rank INTEGER NOT NULL, seed INTEGER, train_attn INTEGER NOT NULL, train_mlp INTEGER NOT NULL, train_unembed INTEGER NOT NULL,
    optimizer TEXT NOT NULL,
    user_metadata TEXT NOT NULL, state TEXT NOT NULL, created_at REAL NOT NULL, last_request_at REAL NOT NULL
);
CREATE TABLE futures (
    request_id TEXT PRIMARY KEY, scope TEXT NOT NULL, seq_id INTEGER, kind TEXT NOT NULL, fingerprint TEXT NOT NULL,
    state TEXT NOT NULL, result BLOB, error TEXT, category TEXT, created_at REAL NOT NULL, finished_at REAL,
    UNIQUE (scope, seq_id)
);
CREATE TABLE checkpoints (
    model_id TEXT NOT NULL REFERENCES models, kind TEXT NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    created_at REAL NOT NULL, expires_at REAL,
    PRIMARY KEY (model_id, kind, name)
);
CREATE TABLE samplers (
    sampler_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions, base_model TEXT NOT NULL,
    model_path TEXT, folder TEXT, inflight_of TEXT, created_at REAL NOT NULL, copies INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE custom_losses (
    loss_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions, name TEXT NOT NULL, inputs TEXT NOT NULL,
    nodes TEXT NOT NULL, created_at REAL NOT NULL
);
"""

ModelState: TypeAlias = Literal["creating", "ready", "failed", "unloaded"]
FutureState: TypeAlias = Literal["pending", "done", "failed"]
Category: TypeAlias = Literal["user", "server", "order"]


@frozen
class SessionRow:
    """Times are in seconds since 1970."""

    session_id: str
    tags: Sequence[str]
    user_metadata: Mapping[str, str]
    sdk_version: str
    project_id: str | None
    display_name: str | None
    created_at: float
    finished_at: float | None = None


@frozen
class ModelRow:
    """A training run."""

    model_id: str
    session_id: str
    base_model: str
    lora: LoraShape
    optimizer: OptimizerKind
    user_metadata: Mapping[str, str]
    state: ModelState
    created_at: float
    last_request_at: float


@frozen
class FutureRow:
    """A request and, once it is done, its outcome: `result`, or `error` with whose fault it is."""

    request_id: str
    scope: str
    seq_id: int | None
    kind: str
    fingerprint: str
    state: FutureState = "pending"
    result: bytes | None = None
    error: str | None = None
    category: Category | None = None


@frozen
class EndedFuture:
    """Without its result, of which it tells the size in bytes."""

    request_id: str
    seq_id: int | None
    state: FutureState
    size: int


@frozen
class CheckpointRow:
    """Saved weights. `expires_at` is what the saver asked for."""

    path: CheckpointPath
    size_bytes: int
    created_at: float
    expires_at: float | None


@frozen
class SamplerRow:
    """A sampling session: a base model, and the folder of an adapter over it unless it is sampled bare.

    `inflight_of` is the model whose newest in-flight weights it samples from.
    """

    sampler_id: str
    session_id: str
    base_model: str
    model_path: str | None
    folder: str | None
    inflight_of: str | None = None

    @property
    def weights_id(self) -> str:
        """The engine's name for the weights: a session's own, or those that a model's in-flight sessions share."""
        return f"{self.inflight_of}:inflight" if self.inflight_of else self.sampler_id


@frozen
class CustomLossRow:
    """A loss that a client sent."""

    loss_id: str
    session_id: str
    name: str
    loss: CustomLoss


class StoreError(RuntimeError):
    """The database cannot be used; the text says why."""


class Store:
    """Opens `file`, making it if need be. Raises `StoreError` when it is not a database of this version."""

    def __init__(self, file: Path) -> None:
        # made on the thread that starts the server, then used by the event loop's alone
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        try:
            self._prepare(file)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, file: Path) -> None:
        self._db.row_factory = sqlite3.Row
        try:
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}").close()
            [version] = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{file} cannot be used as a database: {error}") from error
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise StoreError(f"{file} has layout {version}, and this release of tinkex reads {_VERSION}; use another data folder")

    def close(self) -> None:
        self._db.close()

    # sessions

    def add_session(self, row: SessionRow) -> None:
        """Adds it, unless it is there."""
        self._db.execute(
            "INSERT OR IGNORE INTO sessions (session_id, tags, user_metadata, sdk_version, project_id, display_name, created_at,"
            " heartbeat_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.session_id,
                _dump(row.tags),
                _dump(row.user_metadata),
                row.sdk_version,
                row.project_id,
                row.display_name,
                row.created_at,
                row.created_at,
            ),
        )

    def session(self, session_id: str) -> SessionRow | None:
        row = self._one("SELECT * FROM sessions WHERE session_id = ?", session_id)
        return _session(row) if row else None

    def session_ids(self, limit: int, offset: int) -> list[str]:
        """Newest first."""
        rows = self._all("SELECT session_id FROM sessions ORDER BY rowid DESC LIMIT ? OFFSET ?", limit, offset)
        return [row["session_id"] for row in rows]

    def note_heartbeat(self, session_id: str, now: float) -> None:
        self._db.execute("UPDATE sessions SET heartbeat_at = ? WHERE session_id = ?", (now, session_id))

    def finish_session(self, session_id: str, reason: str, detail: str | None, now: float) -> bool:
        """Whether this was the first to finish it: the first reason stays."""
        cursor = self._db.execute(
            "UPDATE sessions SET finished_at = ?, finish_reason = ?, finish_detail = ?"
            " WHERE session_id = ? AND finished_at IS NULL",
            (now, reason, detail, session_id),
        )
        return cursor.rowcount == 1

    # models

    def add_model(self, row: ModelRow) -> None:
        lora = row.lora
        self._db.execute(
            "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.model_id,
                row.session_id,
                row.base_model,
                lora.rank,
                lora.seed,
                lora.train_attn,
                lora.train_mlp,
                lora.train_unembed,
                row.optimizer,
                _dump(row.user_metadata),
                row.state,
                row.created_at,
                row.last_request_at,
            ),
        )

    def model(self, model_id: str) -> ModelRow | None:
        row = self._one("SELECT * FROM models WHERE model_id = ?", model_id)
        return _model(row) if row else None

    def models(self, limit: int, offset: int) -> list[ModelRow]:
        """Newest first."""
        return [_model(row) for row in self._all("SELECT * FROM models ORDER BY rowid DESC LIMIT ? OFFSET ?", limit, offset)]

    def models_of(self, session_id: str) -> list[ModelRow]:
        return [_model(row) for row in self._all("SELECT * FROM models WHERE session_id = ? ORDER BY rowid", session_id)]

    def count_models(self) -> int:
        [count] = self._all("SELECT count(*) FROM models")[0]
        return count

    def set_model_state(self, model_id: str, state: ModelState) -> None:
        self._db.execute("UPDATE models SET state = ? WHERE model_id = ?", (state, model_id))

    def mark_created(self, model_id: str) -> None:
        """Ready, unless it was unloaded while it was being made."""
        self._db.execute("UPDATE models SET state = 'ready' WHERE model_id = ? AND state = 'creating'", (model_id,))

    def note_request(self, model_id: str, now: float) -> None:
        self._db.execute("UPDATE models SET last_request_at = ? WHERE model_id = ?", (now, model_id))

    # futures

    def add_future(self, row: FutureRow, now: float) -> None:
        self._db.execute(
            "INSERT INTO futures (request_id, scope, seq_id, kind, fingerprint, state, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.request_id, row.scope, row.seq_id, row.kind, row.fingerprint, row.state, now),
        )

    def future(self, request_id: str) -> FutureRow | None:
        row = self._one("SELECT * FROM futures WHERE request_id = ?", request_id)
        return _future(row) if row else None

    def future_of(self, scope: str, seq_id: int) -> FutureRow | None:
        row = self._one("SELECT * FROM futures WHERE scope = ? AND seq_id = ?", scope, seq_id)
        return _future(row) if row else None

    def ended_futures(self, scope: str) -> list[EndedFuture]:
        """Those of a scope that have ended, in that order."""
        sql = (
            "SELECT request_id, seq_id, state, coalesce(length(result), 0) FROM futures"
            " WHERE scope = ? AND state != 'pending' ORDER BY finished_at, rowid"
        )
        return [EndedFuture(*row) for row in self._all(sql, scope)]

    def end_future(self, row: FutureRow, now: float) -> None:
        """Writes the outcome that `row` holds."""
        self._db.execute(
            "UPDATE futures SET state = ?, result = ?, error = ?, category = ?, finished_at = ? WHERE request_id = ?",
            (row.state, row.result, row.error, row.category, now, row.request_id),
        )

    def recover(self, reason: str, now: float) -> None:
        """After a restart: what was pending has failed for `reason`, and no model is in memory."""
        self._db.execute(
            "UPDATE futures SET state = 'failed', error = ?, category = 'server', finished_at = ? WHERE state = 'pending'",
            (reason, now),
        )
        self._db.execute("UPDATE models SET state = 'unloaded' WHERE state != 'failed'")

    # checkpoints

    def put_checkpoint(self, row: CheckpointRow) -> None:
        """Adds it, or takes the place of the one of that name."""
        path = row.path
        self._db.execute(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)",
            (path.run_id, path.kind, path.name, row.size_bytes, row.created_at, row.expires_at),
        )

    def checkpoint(self, path: CheckpointPath) -> CheckpointRow | None:
        row = self._one("SELECT * FROM checkpoints WHERE model_id = ? AND kind = ? AND name = ?", path.run_id, path.kind, path.name)
        return _checkpoint(row) if row else None

    def checkpoints(self, limit: int, offset: int) -> list[CheckpointRow]:
        """Newest first."""
        rows = self._all("SELECT * FROM checkpoints ORDER BY rowid DESC LIMIT ? OFFSET ?", limit, offset)
        return [_checkpoint(row) for row in rows]

    def checkpoints_of(self, model_id: str) -> list[CheckpointRow]:
        """Newest first."""
        rows = self._all("SELECT * FROM checkpoints WHERE model_id = ? ORDER BY rowid DESC", model_id)
        return [_checkpoint(row) for row in rows]

    def count_checkpoints(self) -> int:
        [count] = self._all("SELECT count(*) FROM checkpoints")[0]
        return count

    def delete_checkpoint(self, path: CheckpointPath) -> None:
        self._db.execute(
            "DELETE FROM checkpoints WHERE model_id = ? AND kind = ? AND name = ?", (path.run_id, path.kind, path.name)
        )

    # samplers

    def add_sampler(self, row: SamplerRow, now: float) -> None:
        self._db.execute(
            "INSERT INTO samplers (sampler_id, session_id, base_model, model_path, folder, inflight_of, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.sampler_id, row.session_id, row.base_model, row.model_path, row.folder, row.inflight_of, now),
        )

    def sampler(self, sampler_id: str) -> SamplerRow | None:
        row = self._one("SELECT * FROM samplers WHERE sampler_id = ?", sampler_id)
        return _sampler(row) if row else None

    def number_copy(self, sampler_id: str) -> int:
        """The next number for a copied client of this sampler, from 1."""
        [row] = self._all("UPDATE samplers SET copies = copies + 1 WHERE sampler_id = ? RETURNING copies", sampler_id)
        return row["copies"]

    def sampler_ids(self, session_id: str) -> list[str]:
        rows = self._all("SELECT sampler_id FROM samplers WHERE session_id = ? ORDER BY rowid", session_id)
        return [row["sampler_id"] for row in rows]

    # custom losses

    def add_custom_loss(self, row: CustomLossRow, now: float) -> None:
        self._db.execute(
            "INSERT INTO custom_losses VALUES (?, ?, ?, ?, ?, ?)",
            (row.loss_id, row.session_id, row.name, _dump(row.loss.inputs), _dump(row.loss.nodes), now),
        )

    def custom_loss(self, loss_id: str) -> CustomLossRow | None:
        row = self._one("SELECT * FROM custom_losses WHERE loss_id = ?", loss_id)
        return _custom_loss(row) if row else None

    def _all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        return self._db.execute(sql, values).fetchone()


def _dump(value: object) -> str:
    return orjson.dumps(value).decode()


def _session(row: sqlite3.Row) -> SessionRow:
    return SessionRow(
        row["session_id"],
        orjson.loads(row["tags"]),
        orjson.loads(row["user_metadata"]),
        row["sdk_version"],
        row["project_id"],
        row["display_name"],
        row["created_at"],
        row["finished_at"],
    )


def _model(row: sqlite3.Row) -> ModelRow:
    return ModelRow(
        row["model_id"],
        row["session_id"],
        row["base_model"],
        LoraShape(row["rank"], row["seed"], bool(row["train_attn"]), bool(row["train_mlp"]), bool(row["train_unembed"])),
        row["optimizer"],
        orjson.loads(row["user_metadata"]),
        row["state"],
        row["created_at"],
        row["last_request_at"],
    )


def _future(row: sqlite3.Row) -> FutureRow:
    names = ("request_id", "scope", "seq_id", "kind", "fingerprint", "state", "result", "error", "category")
    return FutureRow(*(row[name] for name in names))


def _checkpoint(row: sqlite3.Row) -> CheckpointRow:
    path = CheckpointPath(row["model_id"], row["kind"], row["name"])
    return CheckpointRow(path, row["size_bytes"], row["created_at"], row["expires_at"])


def _sampler(row: sqlite3.Row) -> SamplerRow:
    names = ("sampler_id", "session_id", "base_model", "model_path", "folder", "inflight_of")
    return SamplerRow(*(row[name] for name in names))


def _custom_loss(row: sqlite3.Row) -> CustomLossRow:
    inputs = [(name, rank) for name, rank in orjson.loads(row["inputs"])]
    return CustomLossRow(row["loss_id"], row["session_id"], row["name"], CustomLoss(inputs, orjson.loads(row["nodes"])))
