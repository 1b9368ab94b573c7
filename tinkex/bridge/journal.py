"""`Journal`: what of the bridge stands for what on the servers behind it.

It lets a bridge that was killed go on where it was. Each entry is in the file before the request
that it is about is sent, and survives the end of the process. No key is in it, and no content of
any request.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

from attrs import field, frozen

from tinkex.session.request_journal import RequestJournal

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    session_id TEXT NOT NULL, url TEXT NOT NULL, upstream_id TEXT NOT NULL,
    resumed INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (session_id, url, upstream_id)
);
CREATE TABLE IF NOT EXISTS models (
    model_id TEXT PRIMARY KEY, url TEXT NOT NULL, upstream_session TEXT NOT NULL,
    upstream_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS samplers (
    sampler_id TEXT PRIMARY KEY, url TEXT NOT NULL, upstream_session TEXT NOT NULL,
    upstream_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS requests (
    url TEXT NOT NULL, upstream_model TEXT NOT NULL, upstream_seq_id INTEGER NOT NULL,
    operation TEXT NOT NULL, requests INTEGER NOT NULL, model_id TEXT, seq_id INTEGER,
    upstream_request TEXT, PRIMARY KEY (url, upstream_model, upstream_seq_id)
);
CREATE INDEX IF NOT EXISTS requests_of_model ON requests (model_id, seq_id);
"""
_KEPT = 4096
"""The requests of a model that are kept: more than a client sends ahead."""

current_request: ContextVar[tuple[str, int | None] | None] = ContextVar(
    "current_request", default=None
)
"""The model and the number of the request of the bridge that is being done, in its task."""


@frozen
class UpstreamSession:
    """A session on a server, begun for a session of the bridge."""

    session_id: str
    url: str
    upstream_id: str
    resumed: int
    """The number of times that it was continued by another process."""


@frozen
class UpstreamModel:
    """A model on a server."""

    model_id: str
    url: str
    upstream_session: str
    upstream_id: str


@frozen
class UpstreamSampler:
    """A sampling session on a server, of weights that were saved for it."""

    sampler_id: str
    url: str
    upstream_session: str
    upstream_id: str


@frozen
class SentRequest:
    """A request of a model that was sent to a server."""

    operation: str
    requests: int
    """The number of requests of its call."""
    upstream_request: str | None
    """The id under which the server accepted it; None if that is not known."""


class Journal:
    """The entries of one key, in an SQLite file. To be used on one thread."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        file.chmod(0o600)
        self._db.execute("PRAGMA journal_mode = WAL").close()
        self._db.execute("PRAGMA synchronous = NORMAL").close()
        self._db.executescript(_SCHEMA).close()

    def add_session(self, session_id: str, url: str, upstream_id: str) -> None:
        self._run(
            "INSERT OR REPLACE INTO sessions (session_id, url, upstream_id) VALUES (?, ?, ?)",
            *(session_id, url, upstream_id),
        )

    def sessions(self) -> Sequence[UpstreamSession]:
        rows = self._db.execute("SELECT session_id, url, upstream_id, resumed FROM sessions")
        return [UpstreamSession(*row) for row in rows]

    def note_resumed(self, session: UpstreamSession) -> int:
        """Notes that a session is continued by this process; returns how often it was so far."""
        self._run(
            "UPDATE sessions SET resumed = resumed + 1 WHERE url = ? AND upstream_id = ?",
            *(session.url, session.upstream_id),
        )
        return session.resumed + 1

    def drop_session(self, session_id: str) -> None:
        """Drops a session of the bridge that has ended."""
        self._run("DELETE FROM sessions WHERE session_id = ?", session_id)

    def add_model(self, model_id: str, url: str, upstream_session: str, upstream_id: str) -> None:
        self._run(
            "INSERT OR REPLACE INTO models (model_id, url, upstream_session, upstream_id)"
            " VALUES (?, ?, ?, ?)",
            *(model_id, url, upstream_session, upstream_id),
        )

    def model(self, model_id: str) -> UpstreamModel | None:
        return next((model for model in self.models() if model.model_id == model_id), None)

    def models(self) -> Sequence[UpstreamModel]:
        rows = self._db.execute("SELECT model_id, url, upstream_session, upstream_id FROM models")
        return [UpstreamModel(*row) for row in rows]

    def drop_model(self, model_id: str) -> None:
        self._run("DELETE FROM models WHERE model_id = ?", model_id)
        self._run("DELETE FROM requests WHERE model_id = ?", model_id)

    def add_sampler(self, sampler: UpstreamSampler) -> None:
        self._run(
            "INSERT OR REPLACE INTO samplers VALUES (?, ?, ?, ?)",
            *(sampler.sampler_id, sampler.url, sampler.upstream_session, sampler.upstream_id),
        )

    def sampler(self, sampler_id: str) -> UpstreamSampler | None:
        row = self._db.execute(
            "SELECT * FROM samplers WHERE sampler_id = ?", (sampler_id,)
        ).fetchone()
        return row and UpstreamSampler(*row)

    def sent(self, model_id: str, seq_id: int) -> Sequence[SentRequest]:
        """Returns what was sent for a request of the bridge, in order."""
        rows = self._db.execute(
            "SELECT operation, requests, upstream_request FROM requests"
            " WHERE model_id = ? AND seq_id = ? ORDER BY upstream_seq_id",
            (model_id, seq_id),
        )
        return [SentRequest(*row) for row in rows]

    def last_seq_id(self, model: UpstreamModel) -> int:
        """Returns the last number of a model that its server has accepted; 0 if there is none."""
        [last] = self._db.execute(
            "SELECT coalesce(max(upstream_seq_id), 0) FROM requests"
            " WHERE url = ? AND upstream_model = ? AND upstream_request IS NOT NULL",
            (model.url, model.upstream_id),
        ).fetchone()
        return last

    def is_untouched(self, model_id: str) -> bool:
        """Returns whether nothing was sent yet for a model of the bridge since it was made."""
        found = self._db.execute(
            "SELECT 1 FROM requests JOIN models USING (url)"
            " WHERE models.model_id = ? AND upstream_model = upstream_id LIMIT 1",
            (model_id,),
        ).fetchone()
        return found is None

    def has_unknown(self, model: UpstreamModel) -> bool:
        """Returns whether a request of a model was sent whose outcome is not known."""
        found = self._db.execute(
            "SELECT 1 FROM requests WHERE url = ? AND upstream_model = ?"
            " AND upstream_request IS NULL",
            (model.url, model.upstream_id),
        ).fetchone()
        return found is not None

    def requests_of(self, url: str) -> RequestJournal:
        """Returns the record for the sessions on a server."""
        return _Requests(self, url)

    def clear(self) -> None:
        """Drops all entries, after all sessions on the servers were ended."""
        for table in ("sessions", "models", "samplers", "requests"):
            self._run(f"DELETE FROM {table}")

    def close(self) -> None:
        self._db.close()

    def _run(self, sql: str, *values: object) -> None:
        self._db.execute(sql, values).close()

    def note_sending(
        self, url: str, model: str, operation: str, seq_id: int, requests: int
    ) -> None:
        model_id, own_seq_id = current_request.get() or (None, None)
        self._run(
            "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            *(url, model, seq_id, operation, requests, model_id, own_seq_id),
        )

    def note_accepted(self, url: str, model: str, seq_id: int, request_id: str) -> None:
        self._run(
            "UPDATE requests SET upstream_request = ?"
            " WHERE url = ? AND upstream_model = ? AND upstream_seq_id = ?",
            *(request_id, url, model, seq_id),
        )
        if seq_id % 256 == 0:
            self._run(
                "DELETE FROM requests WHERE url = ? AND upstream_model = ?"
                " AND upstream_seq_id <= ?",
                *(url, model, seq_id - _KEPT),
            )

    def note_refused(self, url: str, model: str, next_seq_id: int) -> None:
        self._run(
            "DELETE FROM requests WHERE url = ? AND upstream_model = ?"
            " AND upstream_request IS NULL",
            *(url, model),
        )
        # some servers count what they refuse
        self._run(
            "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, 'refused', 1, NULL, NULL, '')",
            *(url, model, next_seq_id - 1),
        )


@frozen
class _Requests:
    """The record of the requests to one server."""

    _journal: Journal
    _url: str = field()

    def sending(self, model_id: str, operation: str, seq_id: int, requests: int) -> None:
        self._journal.note_sending(self._url, model_id, operation, seq_id, requests)

    def accepted(self, model_id: str, seq_id: int, request_id: str) -> None:
        self._journal.note_accepted(self._url, model_id, seq_id, request_id)

    def refused(self, model_id: str, next_seq_id: int) -> None:
        self._journal.note_refused(self._url, model_id, next_seq_id)
