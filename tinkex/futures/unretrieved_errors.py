"""`UnretrievedErrors`: logs the errors of failed futures that nobody has retrieved."""

from __future__ import annotations

import atexit
import logging
from typing import Protocol
from weakref import WeakSet

from tinkex.errors import ClientClosedError, ClientPoisonedError, RequestSkippedError, TinkexError

logger = logging.getLogger("tinkex")

_FOLLOW_FROM_ANOTHER = (RequestSkippedError, ClientPoisonedError, ClientClosedError)
"""Errors that need no log line: another future has their cause, or the user closed the client."""


class Failed(Protocol):
    """A future that failed."""

    def log_if_unretrieved(self) -> None: ...


class UnretrievedErrors:
    """The failed futures of one session. They are logged when it ends, at the latest when the
    interpreter exits.
    """

    def __init__(self) -> None:
        self._futures: WeakSet[Failed] = WeakSet()
        _all_sessions.add(self)

    def add(self, future: Failed) -> None:
        self._futures.add(future)

    def log_all(self) -> None:
        """Logs each error that was not retrieved, once."""
        for future in list(self._futures):
            future.log_if_unretrieved()
        self._futures.clear()


def log_unretrieved(operation: str, error: BaseException) -> None:
    """Logs the first line of an unretrieved error, unless it only follows from another one."""
    if isinstance(error, _FOLLOW_FROM_ANOTHER) or (
        isinstance(error, TinkexError) and error.delivered
    ):
        return
    first_line = (str(error).splitlines() or [""])[0]
    logger.error(
        "%s failed, and its error was never retrieved: %s: %s",
        operation,
        type(error).__name__,
        first_line,
    )


_all_sessions: WeakSet[UnretrievedErrors] = WeakSet()


@atexit.register
def _log_all() -> None:
    for failures in list(_all_sessions):
        failures.log_all()
