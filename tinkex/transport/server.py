"""`Server`: what is known of the server at one base URL, shared by the clients that use it."""

from __future__ import annotations

import logging
import threading
from typing import Any
from weakref import WeakValueDictionary

from attrs import evolve

from tinkex.config import Config
from tinkex.dialects.detect import FirstAnswers, is_missing_route, recognise, with_flags
from tinkex.dialects.dialect import Dialect, Evidence
from tinkex.dialects.feature_gates import with_gates
from tinkex.dialects.table import DIALECTS, UNEXPECTEDLY_MISSING, OPTIONAL, UNKNOWN
from tinkex.errors import APIStatusError, UnsupportedByServer

logger = logging.getLogger("tinkex")


class Server:
    """Holds the dialect, which grows as the server is seen at work. Safe from any thread."""

    def __init__(self, given: Dialect | None = None, gates: tuple[str, ...] = ()) -> None:
        self.dialect = with_gates((given or UNKNOWN).as_trusted(), gates)
        self._given = given
        self._gates = gates
        self._observed: FirstAnswers | None = None
        self._said: set[str] = set()
        self._lock = threading.Lock()

    @property
    def is_known(self) -> bool:
        """Whether its ways are known: it was asked, or the user gave them."""
        return self._observed is not None or self._given is not None

    @property
    def observed(self) -> FirstAnswers | None:
        """What it answered at the last first contact."""
        return self._observed

    def observe(self, seen: FirstAnswers) -> None:
        """What it said at first contact. What was learned since the last time is kept, unless it is
        another server now.
        """
        with self._lock:
            if seen != self._observed:
                bearer = (
                    self._observed is None and self.dialect.bearer
                )  # learned while it was asked
                self._observed = seen
                found = (
                    with_flags(self._given, seen.config, seen.dynamic)
                    if self._given
                    else recognise(seen)
                )
                self.dialect = with_gates(
                    evolve(found.as_trusted(), bearer=found.bearer or bearer), self._gates
                )

    def update_dialect(self, **changes: Any) -> None:
        """Fields of the dialect that the server has shown in its answers."""
        with self._lock:
            self.dialect = with_gates(evolve(self.dialect, **changes), self._gates)

    def observe_path(self, path: str) -> None:
        """What the path of saved weights tells: one server that looks like others behind some
            proxies has a scheme of its own.

        The key goes on as before: what was made with it belongs to whoever that form of it names.
        """
        if self._given is None and self.dialect.name != "twinkle" and path.startswith("twinkle://"):
            found = evolve(DIALECTS["twinkle"].as_trusted(), bearer=self.dialect.bearer)
            self.dialect = with_gates(found, self._gates)

    def note_probed(self, **fields: Any) -> None:
        """Fields of the dialect that a probe has found out by their effect."""
        with self._lock:
            self.dialect = with_gates(
                self.dialect.with_known(Evidence("probed"), **fields), self._gates
            )

    def forget_repeats(self) -> None:
        """The server has lost a session or was changed: nobody knows any more what it makes of a
        repeated request.
        """
        self.update_dialect(seq_id_repeats="unknown")

    def warn_once(self, words: str) -> bool:
        """Says something of the server that its user should know, the first time that it matters;
        returns whether it is that.
        """
        with self._lock:
            new = words not in self._said
            self._said.add(words)
        if new:
            logger.warning("%s: %s", self.dialect.name, words)
        return new

    def note_missing_route(self, refusal: APIStatusError) -> None:
        """Raises `UnsupportedByServer` where a refusal says that there is no such route, and
        remembers it.
        """
        operation = refusal.operation or ""
        if operation in OPTIONAL and is_missing_route(refusal.status_code, refusal.body):
            self.update_dialect(
                missing={**self.dialect.missing, operation: UNEXPECTEDLY_MISSING.get(operation, "")}
            )
            try:
                self.require(operation)
            except UnsupportedByServer as error:
                raise error from refusal

    def require(self, operation: str) -> None:
        """Raises `UnsupportedByServer` for an operation that it lacks."""
        if self.dialect.lacks(operation):
            name = self.dialect.name
            raise UnsupportedByServer(
                f"{'this server' if name == UNKNOWN.name else name} has no {operation}",
                server=name,
                operation=operation,
                advice=self.dialect.missing[operation] or "Use another server for it.",
            )


_servers: WeakValueDictionary[str, Server] = WeakValueDictionary()
_servers_lock = threading.Lock()


def server_for(config: Config) -> Server:
    """The one of this base URL, kept for as long as a client uses it; one of its own where the user
    knows better.
    """
    if config.dialect is not None or config.feature_gates:
        return Server(config.dialect, config.feature_gates)
    with _servers_lock:
        return _servers.setdefault(config.base_url, Server())
