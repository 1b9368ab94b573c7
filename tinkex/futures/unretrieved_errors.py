"""`UnretrievedErrors`: logs the errors of failed futures that nobody has retrieved, and the calls
that had not ended when their session did.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections import Counter
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from tinkex.errors import ClientClosedError, ClientPoisonedError, RequestSkippedError, TinkexError

logger = logging.getLogger("tinkex")

_FOLLOW_FROM_ANOTHER = (RequestSkippedError, ClientPoisonedError, ClientClosedError)
"""Errors that need no log line: another future has their cause, or the user closed the client."""


class Failed(Protocol):
    """A future that failed."""

    def log_if_unretrieved(self) -> None: ...


class UnretrievedErrors:
    """The failed futures of one session, and the training calls that have not ended. They are
    logged when it ends, at the latest when the interpreter exits.
    """

    def __init__(self) -> None:
        self._futures: WeakSet[Failed] = WeakSet()
        self._begun: WeakKeyDictionary[asyncio.Future[Any], str] = WeakKeyDictionary()
        _all_sessions.add(self)

    def note_begun(self, task: asyncio.Future[Any], operation: str) -> None:
        """Notes a call whose effect is lost if the session ends before it."""
        self._begun[task] = operation

    def add(self, future: Failed) -> None:
        self._futures.add(future)

    def forget_begun(self) -> None:
        """Forgets the calls that have not ended, where the program knows that it ends early."""
        self._begun.clear()

    def log_unfinished(self) -> None:
        """Logs the calls that have not ended, once."""
        calls = Counter(name for task, name in list(self._begun.items()) if not task.done())
        self._begun.clear()
        if calls:
            named = ", ".join(f"{count} x {name}" for name, count in calls.items())
            logger.warning(
                "the client ends before these calls have, which may therefore be lost: %s. Ask for "
                "their results first, by .result() or await",
                named,
            )

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


def log_unfinished() -> None:
    """Logs the calls of all sessions that have not ended."""
    for failures in list(_all_sessions):
        failures.log_unfinished()


@atexit.register
def _log_all() -> None:
    for failures in list(_all_sessions):
        failures.log_all()
