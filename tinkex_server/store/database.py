"""The SQLite file: its layout, and statements in short form."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import orjson

logger = logging.getLogger("tinkex.local")

T = TypeVar("T")

_VERSION = 4
_SCHEMA = """
CREATE TABLE keys (
    key_id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, salt BLOB NOT NULL,
    name TEXT NOT NULL, created_at REAL NOT NULL, revoked_at REAL
);
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY, owner TEXT NOT NULL, tags TEXT NOT NULL,
    user_metadata TEXT NOT NULL, sdk_version TEXT NOT NULL, project_id TEXT, display_name TEXT,
    created_at REAL NOT NULL, heartbeat_at REAL NOT NULL, finished_at REAL, finish_reason TEXT,
    finish_detail TEXT
);
CREATE TABLE models (
    model_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions,
    base_model TEXT NOT NULL, rank INTEGER NOT NULL, seed INTEGER, train_attn INTEGER NOT NULL,
    train_mlp INTEGER NOT NULL, train_unembed INTEGER NOT NULL, optimizer TEXT NOT NULL,
    user_metadata TEXT NOT NULL, state TEXT NOT NULL, failure TEXT, created_at REAL NOT NULL,
    last_request_at REAL NOT NULL
);
CREATE INDEX models_of_session ON models (session_id);
CREATE TABLE futures (
    request_id TEXT PRIMARY KEY, scope TEXT NOT NULL, seq_id INTEGER, kind TEXT NOT NULL,
    fingerprint TEXT NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL, result BLOB, error TEXT,
    category TEXT, created_at REAL NOT NULL, started_at REAL, finished_at REAL,
    UNIQUE (scope, seq_id)
);
CREATE INDEX ended_futures ON futures (finished_at) WHERE state IN ('done', 'failed');
CREATE TABLE steps (
    model_id TEXT NOT NULL REFERENCES models, number INTEGER NOT NULL, loss REAL,
    tokens INTEGER NOT NULL, at REAL NOT NULL, ended INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (model_id, number)
);
CREATE TABLE checkpoints (
    model_id TEXT NOT NULL REFERENCES models, kind TEXT NOT NULL, name TEXT NOT NULL,
    folder TEXT NOT NULL, size_bytes INTEGER NOT NULL, created_at REAL NOT NULL, expires_at REAL,
    user_metadata TEXT NOT NULL, public INTEGER NOT NULL, PRIMARY KEY (model_id, kind, name)
);
CREATE TABLE past_checkpoints (
    session_id TEXT NOT NULL, base_model TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    created_at REAL NOT NULL, deleted_at REAL NOT NULL
);
CREATE TRIGGER checkpoint_is_past AFTER DELETE ON checkpoints BEGIN
    INSERT INTO past_checkpoints
        SELECT session_id, base_model, old.size_bytes, old.created_at,
            (julianday('now') - 2440587.5) * 86400
        FROM models WHERE model_id = old.model_id;
END;
CREATE TABLE samplers (
    sampler_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions,
    base_model TEXT NOT NULL, model_path TEXT, folder TEXT, inflight_of TEXT,
    created_at REAL NOT NULL, copies INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX samplers_of_session ON samplers (session_id);
CREATE TABLE custom_losses (
    loss_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions, name TEXT NOT NULL,
    inputs TEXT NOT NULL, nodes TEXT NOT NULL, created_at REAL NOT NULL
);
CREATE TABLE events (
    event_id INTEGER PRIMARY KEY, owner TEXT NOT NULL, event TEXT NOT NULL, details TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX events_by_time ON events (at);
CREATE TABLE usage (
    hour INTEGER NOT NULL, owner TEXT NOT NULL, session_id TEXT NOT NULL, base_model TEXT NOT NULL,
    kind TEXT NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (hour, owner, session_id, base_model, kind)
) WITHOUT ROWID;
"""
# a row that is replaced is deleted first, for the triggers, too
_PRAGMAS = (
    *(
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ),
    "recursive_triggers = ON",
)


_PATIENCE = 2.0  # seconds for a server that is just ending to let go of the file


Statement: TypeAlias = tuple[str, Sequence[Any]]
"""SQL, and its values."""


class StoreError(RuntimeError):
    """The database cannot be used; the text says why."""


class StoreWriteError(StoreError):
    """A write that failed because the disk is full or broken.

    Writes work again when there is room, unless something was lost that clients were told of: then
    every later call fails in the same way until the server is restarted.
    """

    def __init__(self, error: sqlite3.Error, *, lost: bool = False) -> None:
        more = (
            ", and restart the server: what it did last is lost, and what was saved is not"
            if lost
            else ""
        )
        super().__init__(
            f"the data folder cannot be written ({error}); make room on its disk{more}"
        )


class Database:
    """An open file. Every statement is a transaction of its own, but within `transaction`, and
    those of `run_soon`.

    It is called on the event loop's thread alone: with a write-ahead log a small write takes some
    tens of microseconds.
    """

    def __init__(self, file: Path) -> None:
        """Opens `file`, making it if need be. Raises `StoreError` when it is not a database of this
        layout.
        """
        _keep_private(file)
        # made on the thread that starts the server, then used by the event loop's alone
        self._connection = sqlite3.connect(
            file, _PATIENCE, check_same_thread=False, isolation_level=None
        )
        # those who wait for the open group to be kept; None: none is open
        self._awaiting: list[asyncio.Future[None]] | None = None
        self._last: list[Callable[[], Statement]] = []  # what the open group ends with
        # why what is on the disk is no longer what others were told
        self._lost: sqlite3.Error | None = None
        try:
            self._prepare(file)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, file: Path) -> None:
        self._connection.row_factory = sqlite3.Row
        self._connection.create_function("folded", 1, _folded, deterministic=True)
        try:
            for pragma in _PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}").close()
            [version] = self._connection.execute("PRAGMA user_version").fetchone()
            self._connection.execute("BEGIN EXCLUSIVE").close()  # from here on nobody else has it
            self._connection.execute("COMMIT").close()
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{file.parent} is in use by another server, or cannot be written ({error}); use "
                "another data folder"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{file} cannot be used as a database: {error}") from error
        if version == 0:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
            )
        elif version != _VERSION:
            raise StoreError(
                f"{file} has layout {version}, and this release of tinkex reads {_VERSION}; use "
                "another data folder"
            )

    def close(self) -> None:
        self._keep()
        self._connection.close()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """All statements of the block, or none when it raises."""
        self._keep()
        self._connection.execute("BEGIN")
        try:
            yield
            self._execute("COMMIT", ())
        except BaseException:
            self._connection.rollback()
            raise

    def run(self, sql: str, *values: Any) -> int:
        """How many rows it changed."""
        self._keep()
        return self._execute(sql, values).rowcount

    def drop_oldest(self, table: str, time: str, before: float, keep: int, most: int) -> int:
        """Of a table that only grows: rows whose `time` is before, and those beyond the newest
        `keep`, among the `most` oldest. How many.
        """
        oldest = f"SELECT rowid FROM {table} ORDER BY rowid LIMIT ?3"
        beyond = f"rowid <= (SELECT max(rowid) FROM {table}) - ?2"
        return self.run(
            f"DELETE FROM {table} WHERE rowid IN ({oldest}) AND ({time} < ?1 OR {beyond})",
            before,
            keep,
            most,
        )

    def run_durably(self, sql: str, *values: Any) -> None:
        """When this returns the change is on the disk, where others follow within moments."""
        self._keep()
        self._connection.execute("PRAGMA synchronous = FULL").close()
        try:
            self._execute(sql, values)
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL").close()

    def run_soon(self, sql: str, *values: Any) -> None:
        """Makes one transaction of this and all that follow until the event loop's next round. For
        what is written often.

        Whoever tells somebody else of it awaits `kept` before.
        """
        if self._awaiting is None:
            self._open_group()
        self._execute(sql, values)

    def run_at_last(self, statement: Callable[[], Statement]) -> None:
        """Runs what `statement` gives then as the last of the group that is open, or is opened for
        it. For what adds up meanwhile.
        """
        if self._awaiting is None:
            self._open_group()
        self._last.append(statement)

    async def kept(self) -> None:
        """Returns when all that was written so far is on the disk. Raises `StoreWriteError` when
        some of it was lost.
        """
        if self._awaiting is not None:
            kept = asyncio.get_running_loop().create_future()
            self._awaiting.append(kept)
            await kept
        if self._lost:
            raise StoreWriteError(self._lost, lost=True)

    def _open_group(self) -> None:
        self._connection.execute("BEGIN")
        self._awaiting = []
        asyncio.get_running_loop().call_soon(self._keep)

    def _keep(self) -> None:
        """Ends the open group, if there is one."""
        if self._awaiting is None:
            return
        awaiting, self._awaiting = self._awaiting, None
        last, self._last = self._last, []
        try:
            if self._connection.in_transaction or not self._lost:  # else it is known to be undone
                for statement in last:
                    self._connection.execute(*statement())
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._connection.rollback()
            self._lose(error)
        for kept in awaiting:
            if not kept.done():  # its request was given up
                kept.set_result(None)

    def _execute(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """Of a statement that writes."""
        try:
            return self._connection.execute(sql, values)
        except sqlite3.OperationalError as error:
            # SQLite has undone the group with it
            if self._awaiting is not None and not self._connection.in_transaction:
                self._lose(error)
            raise StoreWriteError(error, lost=self._lost is not None) from error

    def _lose(self, error: sqlite3.Error) -> None:
        if self._lost is None:
            logger.error("%s", StoreWriteError(error, lost=True))
        self._lost = error

    def all(self, make: Callable[[sqlite3.Row], T], sql: str, *values: Any) -> list[T]:
        return [make(row) for row in self._connection.execute(sql, values)]

    def one(self, make: Callable[[sqlite3.Row], T], sql: str, *values: Any) -> T | None:
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else make(row)

    def number(self, sql: str, *values: Any) -> int:
        """The one number that a query gives."""
        [value] = self._connection.execute(sql, values).fetchone()
        return value


def _keep_private(file: Path) -> None:
    """Makes the file and what SQLite keeps beside it readable by their owner alone, whatever the
    umask. Raises `StoreError`.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        for path in (file, *file.parent.glob(f"{file.name}-*")):
            # those of older releases; SQLite makes new ones like the database itself
            path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{file} cannot be written ({error}); use another data folder") from error


def _folded(text: str | None) -> str | None:
    """As it is compared whatever its case."""
    return text and text.casefold()


def dump(value: object) -> str:
    return orjson.dumps(value).decode()
