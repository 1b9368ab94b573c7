"""`UnretrievedErrors`: failed futures whose error nobody has asked for, which are told in the log
instead of never.
"""

from __future__ import annotations

import atexit
import logging
from typing import Protocol
from weakref import WeakSet

from tinkex.errors import ClientClosedError, ClientPoisonedError, RequestSkippedError, TinkexError

logger = logging.getLogger("tinkex")

_FOLLOW_FROM_ANOTHER = (RequestSkippedError, ClientPoisonedError, ClientClosedError)
"""Errors that say nothing new: the one that they follow from has a future of its own, or the user
closed the client.
"""


class Failed(Protocol):
    """A future that ended with an error."""

    def log_if_unretrieved(self) -> None: ...


class UnretrievedErrors:
    """The failed futures of one session. They are told when it ends, and at the latest when the
    interpreter exits.
    """

    def __init__(self) -> None:
        self._futures: WeakSet[Failed] = WeakSet()
        _all_sessions.add(self)

    def add(self, future: Failed) -> None:
        self._futures.add(future)

    def log_all(self) -> None:
        """Logs each failure that nobody has seen, once."""
        for future in list(self._futures):
            future.log_if_unretrieved()
        self._futures.clear()


def log_unretrieved(operation: str, error: BaseException) -> None:
    """Logs the first line of an error that nobody has seen, unless it only follows from another
    one.
    """
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
