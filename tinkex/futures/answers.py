"""Classifies the answers of retrieve_future. Plain values: no I/O here.

Servers express "not yet" and "failed" in several ways; all known ones are accepted from each
server. Source: openapi/tinker.yaml, retrieve_future.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from attrs import frozen

from tinkex.errors import FailureCategory
from tinkex.events import Owner

Payload: TypeAlias = Mapping[str, Any] | bytes
"""A result: a JSON object's fields, or a protobuf message."""


@frozen
class Pending:
    """An answer "not yet", with the state and reason of the wait in the server's words."""

    queue_state: str | None = None
    reason: str | None = None

    @property
    def paused(self) -> bool:
        return (self.queue_state or "").startswith("paused")

    @property
    def owner(self) -> Owner:
        return "queue" if self.paused or self.reason else "computation"


@frozen
class Failed:
    """An answer that the work has failed."""

    message: str
    category: FailureCategory
    state_loss: int | None = None
    """The server's number of the loss of the model's state, if that was the reason."""


@frozen
class ResultLost:
    """An answer that the work is done, but its result was given out before and is not kept."""

    message: str


@frozen
class Finished:
    """An answer with the result."""

    result: Payload


Answer: TypeAlias = Pending | Failed | ResultLost | Finished

_GIVEN_OUT = re.compile(
    r"already (been )?(retrieved|consumed|delivered)|seen[ _]before", re.IGNORECASE
)


_FORGOTTEN = re.compile(r"(unknown )?((sampling )?session|future|model|request)\b", re.IGNORECASE)


def classify(status_code: int, body: Mapping[str, Any], *, by_kind: bool = False) -> Answer | None:
    """Returns the meaning of an answer; None if the server refused the poll itself.

    Args:
        status_code: the HTTP status.
        body: the fields of the JSON object in the body; empty if there is none.
        by_kind: whether a 404 may also mean that the work failed because something it needs does
            not exist.
    """
    if status_code == 408 or (status_code == 200 and _is_pending(body)):
        return Pending(body.get("queue_state"), body.get("queue_state_reason"))
    if status_code == 400 and body:
        return Failed(_message(body), "user")
    if by_kind and status_code == 404 and body and not _FORGOTTEN.match(_message(body)):
        return Failed(_message(body), "user")
    # a detail that is a list is about the poll itself
    if status_code in (409, 422) and isinstance(body.get("detail"), str):
        return Failed(_message(body), "unknown")
    if status_code != 200:
        return None
    if "seen_before" in body or _GIVEN_OUT.search(str(body.get("error") or "")):
        return ResultLost(_message(body))
    if (
        body.get("error")
        or body.get("error_message")
        or body.get("type") in ("request_failed", "RequestFailedResponse")
    ):
        return Failed(_message(body), _category(body.get("category")), body.get("state_loss"))
    return Finished(body)


def _is_pending(body: Mapping[str, Any]) -> bool:
    """Returns whether a body means "not yet". "complete_metadata" announces a large result, which
    the next poll brings.
    """
    return body.get("type") == "try_again" or body.get("status") == "complete_metadata"


def _message(body: Mapping[str, Any]) -> str:
    words = (body.get(name) for name in ("error", "error_message", "detail", "message"))
    return next((str(word) for word in words if word), "no reason given")


def _category(word: object) -> FailureCategory:
    text = str(word).lower()
    if "user" in text:
        return "user"
    return "server" if text in ("server", "application", "execution_error") else "unknown"


_MIN_PAUSE_OF_PAUSED_QUEUE = 1.0  # seconds between polls while the queue is paused


def pause_after(fast_polls: int, answer: Pending, shortest: float, longest: float) -> float:
    """Returns the seconds to wait before the next poll.

    The pause grows with the number of polls in a row that were answered at once, and is longer
    while the queue is paused.
    """
    if not fast_polls:
        return 0.0
    pause = min(shortest * 2.0 ** min(fast_polls - 1, 30), longest)
    return max(pause, min(_MIN_PAUSE_OF_PAUSED_QUEUE, longest)) if answer.paused else pause
