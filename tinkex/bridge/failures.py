"""Errors of the server behind the bridge, in the forms in which clients of the bridge get them.

Every client stops at them: a refusal of the server keeps its status and its words, and what the
server cannot do is refused with the words of `UnsupportedByServer`. An error that a retry may help
is answered with a status after which clients try again for some minutes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tinkex.errors import (
    APIConnectionError,
    APIStatusError,
    RateLimitError,
    RequestFailedError,
    TinkexError,
    UnsupportedByServer,
    WaitTimeoutError,
)
from tinkex_server.errors import Reason, Refused
from tinkex_server.jobs.requests import WorkFailed
from tinkex_server.wire.refusals import RefusedWithStatus

T = TypeVar("T")

_TRY_AGAIN = 2
"""The seconds after which a client may try again when the server behind the bridge is away."""


def refusal(error: TinkexError, url: str) -> Refused:
    """Returns the refusal of a request that could not be passed on to the server at `url`."""
    text = words(error, url)
    if isinstance(error, APIStatusError):
        after = _TRY_AGAIN if isinstance(error, RateLimitError) else None
        return RefusedWithStatus(_status(error.status_code), text, retry_after=after)
    if isinstance(error, (APIConnectionError, WaitTimeoutError)):
        return Refused(Reason.UNAVAILABLE, text, retry_after=_TRY_AGAIN)
    return Refused(Reason.BAD_REQUEST, text)


def failure(error: TinkexError, url: str) -> WorkFailed:
    """Returns the failure of a request that the bridge had accepted."""
    if isinstance(error, RequestFailedError) and error.category != "unknown":
        return WorkFailed(words(error, url), error.category)
    is_users = error.fault == "user" or isinstance(error, UnsupportedByServer)
    return WorkFailed(words(error, url), "user" if is_users else "server")


def words(error: TinkexError, url: str) -> str:
    """Returns the text of an error on one line, with the server that it comes from."""
    advice = f" {error.advice}" if error.advice else ""
    return " ".join(f"{error.message} (server {url}).{advice}".split())


@asynccontextmanager
async def refusing(url: str) -> AsyncGenerator[None]:
    """Turns the errors of the block into refusals of the request."""
    try:
        yield
    except TinkexError as error:
        raise refusal(error, url) from error


async def or_failure(url: str, call: Callable[[], Awaitable[T]]) -> T:
    """Returns the result of a call of the server at `url`; its errors become failures of the
    request. The call is made before anything is awaited, so calls keep their order.
    """
    try:
        return await call()
    except TinkexError as error:
        raise failure(error, url) from error


def _status(status: int) -> int:
    """Returns the status to answer with. Clients repeat a 409 for minutes, though it is final."""
    return {408: 503, 409: 400}.get(status, status)
