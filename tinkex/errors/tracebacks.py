"""Tracebacks of errors that reach the user: without the frames of this package and its
libraries.
"""

from __future__ import annotations

import logging
from types import TracebackType

from tinkex.errors import TinkexError

logger = logging.getLogger("tinkex")

_OURS = frozenset(
    {
        *(
            "tinkex",
            "tinkex_api",
            "httpx",
            "httpx_aiohttp",
            "aiohttp",
            "aiohappyeyeballs",
            "tenacity",
        ),
        *("anyio", "asyncio", "concurrent", "contextlib", "ssl", "socket", "threading"),
    }
)
"""Packages in which a user has nothing to look for."""


def shorten(error: BaseException) -> None:
    """Takes the frames of this package out of an error of its own that is raised where the user
    called.

    They, and those of its causes, go to the log at level DEBUG instead, so that the lines that
    remain are the user's and the message. A frame of the user's own code, as of a function that was
    passed in, keeps the whole traceback of its error.
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
