"""The shortening of tracebacks: errors reach the user without the frames of this package."""

from __future__ import annotations

import logging
from types import TracebackType

from tinkex.errors import TinkexError

logger = logging.getLogger("tinkex")

_OURS = frozenset(
    {
        *("tinkex", "tinkex_api", "httpx", "tenacity", "uvloop"),
        *("anyio", "asyncio", "concurrent", "contextlib", "ssl", "socket", "threading"),
    }
)
"""Packages whose frames do not help a user."""


def shorten(error: BaseException) -> None:
    """Removes the frames of this package from a `TinkexError` and its causes.

    The traceback then shows only the user's code and the message. The full traceback goes to the
    log at level DEBUG. A traceback that contains a frame of the user's own code, such as a function
    passed as an argument, is kept whole.
    """
    if isinstance(error, TinkexError):
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", error, exc_info=error)
        link: BaseException | None = error
        while link is not None:
            if _is_ours(link.__traceback__):
                link.__traceback__ = None
            link = link.__cause__ or link.__context__


def _is_ours(trace: TracebackType | None) -> bool:
    while trace is not None:
        name: str = trace.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in _OURS:
            return False
        trace = trace.tb_next
    return True
