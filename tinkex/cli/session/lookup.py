"""Suggestions for misspelt ids of sessions."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

from tinkex.cli.suggestions import suggesting

if TYPE_CHECKING:
    from tinkex import RestClient

_SEARCHED = 200  # sessions among which a misspelt id is looked for


def suggesting_sessions(rest: RestClient, session_id: str) -> AbstractContextManager[None]:
    """Turns a `NotFoundError` into a failure that names a session like the given one."""
    return suggesting(
        "session",
        session_id,
        lambda: islice(rest.iter_sessions(), _SEARCHED),
        "tinkex session list",
    )
