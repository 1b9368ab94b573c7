"""Turns the errors of requests into the endings that are stored, and told to clients."""

from __future__ import annotations

import logging

from tinkex_server.engine.interface import EngineDied, InvalidRequest
from tinkex_server.jobs.requests import OutOfTurn, RequestIdentity, WorkFailed
from tinkex_server.store import Category, Ending

logger = logging.getLogger("tinkex.local")


def failed(error: str, category: Category) -> Ending:
    """Returns the ending of a request that failed."""
    return Ending("failed", error=error, category=category)


def failed_by(error: Exception, identity: RequestIdentity, request_id: str) -> Ending:
    """Returns the ending of a request whose work raised this error. An unexpected error is logged
    with its traceback.
    """
    if isinstance(error, OutOfTurn):
        return failed(str(error), "order")
    if isinstance(error, InvalidRequest):
        return failed(str(error), "user")
    if isinstance(error, WorkFailed):
        return failed(str(error), error.category)
    if isinstance(error, EngineDied):
        return failed(str(error), "server")
    kind, scope = identity.kind, identity.scope
    logger.error("%s of %s failed (request %s)", kind, scope, request_id, exc_info=error)
    text = f"{kind} failed in the server: {type(error).__name__}: {_first_line(error)}"
    return failed(text, "server")


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's text, for the client; the log has the whole text."""
    return (str(error).splitlines() or ["no message"])[0][:300]
