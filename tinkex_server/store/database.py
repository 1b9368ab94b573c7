"""`Database`: the SQLite file, its tables, and how statements are grouped into transactions."""

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

_VERSION = 6
_FIRST_VERSION = 4
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
_MIGRATIONS = {
    4: """
ALTER TABLE steps ADD COLUMN batches INTEGER NOT NULL DEFAULT 1;
ALTER TABLE steps ADD COLUMN computed_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE steps ADD COLUMN seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE steps ADD COLUMN metrics TEXT NOT NULL DEFAULT '{}';
CREATE INDEX failed_futures ON futures (finished_at) WHERE state = 'failed';
""",
    # a run without steps may have had some that were dropped since
    5: """
ALTER TABLE checkpoints ADD COLUMN step INTEGER;
UPDATE checkpoints SET step = (
    SELECT max(number) FROM steps
    WHERE steps.model_id = checkpoints.model_id AND ended AND at <= checkpoints.created_at
);
CREATE TABLE origins (
    model_id TEXT NOT NULL REFERENCES models, after_step INTEGER NOT NULL, source_id TEXT NOT NULL,
    kind TEXT NOT NULL, name TEXT NOT NULL, step INTEGER, PRIMARY KEY (model_id, after_step)
) WITHOUT ROWID;
CREATE INDEX origins_of_source ON origins (source_id);
""",
}
"""The scripts that turn a file of one layout into one of the next, by the older layout."""
# with recursive_triggers a row that is replaced fires the triggers of a deletion, too
_PRAGMAS = (
    *(
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ),
    "recursive_triggers = ON",
)


_LOCK_TIMEOUT = 2.0  # seconds, in which a server that is just ending releases the file


Statement: TypeAlias = tuple[str, Sequence[Any]]
"""SQL with placeholders, and the values for them."""


class StoreError(RuntimeError):
    """The database cannot be used. The message says why."""


class StoreWriteError(StoreError):
    """A write that failed because the disk is full or broken.

    Writes work again when there is room, unless something was lost that clients were told of: then
    every later call fails in the same way until the server is restarted.
    """

    def __init__(self, error: sqlite3.Error, *, lost: bool = False) -> None:
        more = (
            ", and restart the server: its last changes are lost, but no saved weights"
            if lost
            else ""
        )
        super().__init__(
            f"the data folder cannot be written ({error}); make room on its disk{more}"
        )


class Database:
    """An open database file. Each statement is a transaction of its own, except within
    `transaction` and in the group of `run_in_group`.

    It is called on the event loop's thread alone: with a write-ahead log a small write takes some
    tens of microseconds.
    """

    def __init__(self, file: Path) -> None:
        """Opens `file`, creating it if there is none. Raises `StoreError` if it is not a database
        of this release.
        """
        _keep_private(file)
        # made on the thread that starts the server, and then used on the event loop's thread alone
        self._connection = sqlite3.connect(
            file, timeout=_LOCK_TIMEOUT, check_same_thread=False, isolation_level=None
        )
        # futures that are done when the open group is committed; None while no group is open
        self._group: list[asyncio.Future[None]] | None = None
        self._group_end: list[Callable[[], Statement]] = []  # statements that end the open group
        # the error by which changes were lost that clients had been told of
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
            self._connection.execute(
                "BEGIN EXCLUSIVE"
            ).close()  # from here on no other process can open the file
            self._connection.execute("COMMIT").close()
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{file.parent} is in use by another server, or cannot be written ({error}); use "
                "another data folder (data_dir, --data-dir)"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{file} cannot be used as a database: {error}; if you move it away, checkpoints "
                "are listed again from their folders"
            ) from error
        if version == 0:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FIRST_VERSION}; COMMIT;"
            )
            version = _FIRST_VERSION
        while version in _MIGRATIONS:
            script, version = _MIGRATIONS[version], version + 1
            self._connection.executescript(
                f"BEGIN; {script} PRAGMA user_version = {version}; COMMIT;"
            )
        if version != _VERSION:
            raise StoreError(
                f"{file} has layout {version}, but this release of tinkex reads layout {_VERSION}; "
                "use another data folder"
            )

    def close(self) -> None:
        """Commits what is open, and closes the file."""
        self._commit_group()
        self._connection.close()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Executes all statements of the block, or none if it raises."""
        self._commit_group()
        self._connection.execute("BEGIN")
        try:
            yield
            self._execute("COMMIT", ())
        except BaseException:
            self._connection.rollback()
            raise

    def run(self, sql: str, *values: Any) -> int:
        """Executes a statement. Returns the number of rows that it changed."""
        self._commit_group()
        return self._execute(sql, values).rowcount

    def drop_oldest(self, table: str, time: str, before: float, keep: int, most: int) -> int:
        """Deletes rows of a table that only grows: those whose column `time` is less than `before`,
        and those that are not among the newest `keep`.

        It looks at the `most` oldest rows. Returns the number of rows that it deleted.
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
        """Executes a statement. When this returns its change is on the disk, which others reach
        later.
        """
        self._commit_group()
        self._connection.execute("PRAGMA synchronous = FULL").close()
        try:
            self._execute(sql, values)
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL").close()

    def run_in_group(self, sql: str, *values: Any) -> None:
        """Executes a statement in one transaction with all that follow until the event loop's next
        iteration. It is meant for frequent writes.

        A client may be told of the change only after `flush`.
        """
        if self._group is None:
            self._open_group()
        self._execute(sql, values)

    def run_at_group_end(self, statement: Callable[[], Statement]) -> None:
        """Calls `statement` when the open group ends, or a new one if none is open, and executes
        the statement that it returns. It is meant for values that add up meanwhile.
        """
        if self._group is None:
            self._open_group()
        self._group_end.append(statement)

    async def flush(self) -> None:
        """Returns when everything written so far is in the file. Raises `StoreWriteError` if some
        of it was lost.
        """
        if self._group is not None:
            committed = asyncio.get_running_loop().create_future()
            self._group.append(committed)
            await committed
        if self._lost:
            raise StoreWriteError(self._lost, lost=True)

    def _open_group(self) -> None:
        self._connection.execute("BEGIN")
        self._group = []
        asyncio.get_running_loop().call_soon(self._commit_group)

    def _commit_group(self) -> None:
        """Commits the open group, if there is one."""
        if self._group is None:
            return
        waiting, self._group = self._group, None
        end, self._group_end = self._group_end, []
        try:
            if self._connection.in_transaction or not self._lost:  # otherwise SQLite has undone it
                for statement in end:
                    self._connection.execute(*statement())
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._connection.rollback()
            self._note_lost(error)
        for committed in waiting:
            if not committed.done():  # its request was cancelled
                committed.set_result(None)

    def _execute(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """Executes a statement that writes."""
        try:
            return self._connection.execute(sql, values)
        except sqlite3.OperationalError as error:
            # SQLite undid the whole group
            if self._group is not None and not self._connection.in_transaction:
                self._note_lost(error)
            raise StoreWriteError(error, lost=self._lost is not None) from error

    def _note_lost(self, error: sqlite3.Error) -> None:
        if self._lost is None:
            logger.error("%s", StoreWriteError(error, lost=True))
        self._lost = error

    @property
    def changes(self) -> int:
        """A number that grows with every row that is written, for whoever wants to know whether
        anything has changed.
        """
        return self._connection.total_changes

    def all(self, make: Callable[[sqlite3.Row], T], sql: str, *values: Any) -> list[T]:
        """Returns what `make` makes of each selected row."""
        return [make(row) for row in self._connection.execute(sql, values)]

    def one(self, make: Callable[[sqlite3.Row], T], sql: str, *values: Any) -> T | None:
        """Returns what `make` makes of the first selected row, or None if there is none."""
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else make(row)

    def number(self, sql: str, *values: Any) -> int:
        """Returns the one number that a query selects."""
        [value] = self._connection.execute(sql, values).fetchone()
        return value


def _keep_private(file: Path) -> None:
    """Makes the file, and the files that SQLite keeps beside it, readable by their owner alone,
    whatever the umask is. Raises `StoreError`.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        for path in (file, *file.parent.glob(f"{file.name}-*")):
            # Older releases left them readable. SQLite gives new ones the mode of the database.
            path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{file} cannot be written ({error}); use another data folder") from error


def _folded(text: str | None) -> str | None:
    return text and text.casefold()


def dump(value: object) -> str:
    """Returns the JSON of a value."""
    return orjson.dumps(value).decode()
