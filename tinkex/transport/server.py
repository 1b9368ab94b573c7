"""`Server`: what is known about the server at a base URL. Its clients share it."""

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
    """The dialect of a server, which is refined with each observation. Thread-safe."""

    def __init__(self, given: Dialect | None = None, gates: tuple[str, ...] = ()) -> None:
        self.dialect = with_gates((given or UNKNOWN).as_trusted(), gates)
        self._given = given
        self._gates = gates
        self._observed: FirstAnswers | None = None
        self._warnings: set[str] = set()
        self._lock = threading.Lock()

    @property
    def is_known(self) -> bool:
        """Whether the dialect is known: from the server's own answers, or given by the user."""
        return self._observed is not None or self._given is not None

    @property
    def observed(self) -> FirstAnswers | None:
        """The server's answers at the last first contact."""
        return self._observed

    def observe(self, answers: FirstAnswers) -> None:
        """Takes the dialect from the server's answers at first contact.

        If they equal the last ones, the dialect stays as it is, with all that was found out since.
        """
        with self._lock:
            if answers != self._observed:
                # the form of the key may have been found out during this very contact
                bearer = self._observed is None and self.dialect.bearer
                self._observed = answers
                found = (
                    with_flags(self._given, answers.config, answers.dynamic)
                    if self._given
                    else recognise(answers)
                )
                self.dialect = with_gates(
                    evolve(found.as_trusted(), bearer=found.bearer or bearer), self._gates
                )

    def update_dialect(self, **changes: Any) -> None:
        """Changes fields of the dialect, as the server's answers have shown."""
        with self._lock:
            self.dialect = with_gates(evolve(self.dialect, **changes), self._gates)

    def observe_path(self, path: str) -> None:
        """Recognises Twinkle by its checkpoint paths, where a proxy hides its other signs.

        The form of the key stays, since what was created so far belongs to the account it names.
        """
        if self._given is None and self.dialect.name != "twinkle" and path.startswith("twinkle://"):
            found = evolve(DIALECTS["twinkle"].as_trusted(), bearer=self.dialect.bearer)
            self.dialect = with_gates(found, self._gates)

    def note_probed(self, **fields: Any) -> None:
        """Changes fields of the dialect that a probe has found out, by their effect."""
        with self._lock:
            self.dialect = with_gates(
                self.dialect.with_known(Evidence("probed"), **fields), self._gates
            )

    def forget_repeats(self) -> None:
        """Makes unknown what the server does with repeated requests.

        It is called when the server has lost a session, for it may then be another release.
        """
        self.update_dialect(seq_id_repeats="unknown")

    def warn_once(self, words: str) -> bool:
        """Logs a warning about the server, unless it was logged before. Returns whether it was
        logged now.
        """
        with self._lock:
            new = words not in self._warnings
            self._warnings.add(words)
        if new:
            logger.warning("%s: %s", self.dialect.name, words)
        return new

    def note_missing_route(self, refusal: APIStatusError) -> None:
        """Remembers a route that the server lacks, if a refusal says so, and raises
        `UnsupportedByServer` then.
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
        """Raises `UnsupportedByServer` for an operation that the server is known to lack."""
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
    """Returns the shared server of a base URL, which is kept as long as a client uses it.

    A client whose settings give a dialect or feature gates gets a server of its own.
    """
    if config.dialect is not None or config.feature_gates:
        return Server(config.dialect, config.feature_gates)
    with _servers_lock:
        return _servers.setdefault(config.base_url, Server())
