"""`SessionActivity`: tells which sessions have lost their clients."""

from __future__ import annotations

import time

from tinkex_server.store import SessionRow, Store


class SessionActivity:
    """The times of the last requests by session. Heartbeats are in the store.

    To be used on the event loop's thread.
    """

    def __init__(self, store: Store, started_at: float) -> None:
        self._store = store
        self._started_at = started_at
        self._last_request: dict[str, float] = {}

    def restart(self, now: float) -> None:
        """Gives all sessions their time again, as at the start of the server."""
        self._started_at = now

    def note_request(self, session_id: str) -> None:
        self._last_request[session_id] = time.time()

    def forget(self, session_id: str) -> None:
        self._last_request.pop(session_id, None)

    def silent(self, since: float) -> list[SessionRow]:
        """Returns the open sessions whose clients have sent neither a heartbeat nor a request since
        then. There are none if the server itself started, or restarted this, later.
        """
        if self._started_at >= since:
            return []
        # of others the time is of no use, and a session may have ended before its last request
        self._last_request = {
            session_id: at for session_id, at in self._last_request.items() if at >= since
        }
        sessions = self._store.sessions.silent_since(since)
        return [row for row in sessions if row.session_id not in self._last_request]
