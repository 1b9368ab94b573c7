"""What an answer of retrieve_future means. Plain values: no I/O here.

Servers say "not yet" and "failed" in several ways; all that are known are read alike. Source:
openapi/tinker.yaml, retrieve_future.
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
    """Not yet; how and why it waits, in the server's words."""

    queue_state: str | None = None
    reason: str | None = None

    @property
    def paused(self) -> bool:
        return (self.queue_state or "").startswith("paused")

    @property
    def whose(self) -> Owner:
        return "queue" if self.paused or self.reason else "computation"


@frozen
class Failed:
    """The work failed, for good."""

    message: str
    category: FailureCategory
    state_loss: int | None = None
    """The number of the loss of the model's state that was the reason."""


@frozen
class ResultLost:
    """The work is done, and its result was given out before and is not kept."""

    message: str


@frozen
class Finished:
    """The result, of the type that belongs to the request."""

    result: Payload


Answer: TypeAlias = Pending | Failed | ResultLost | Finished

_GIVEN_OUT = re.compile(
    r"already (been )?(retrieved|consumed|delivered)|seen[ _]before", re.IGNORECASE
)


_FORGOTTEN = re.compile(r"(unknown )?((sampling )?session|future|model|request)\b", re.IGNORECASE)


def classify(status_code: int, body: Mapping[str, Any], *, by_kind: bool = False) -> Answer | None:
    """What the answer says; None where its status is a refusal of the call itself, not word of the
    work.

    Args:
        body: the fields of a JSON object, none where there is no such.
        by_kind: whether the server says by 404 that the work needed what there is not, and not only
            that it has no such work.
    """
    if status_code == 408 or (status_code == 200 and _is_pending(body)):
        return Pending(body.get("queue_state"), body.get("queue_state_reason"))
    if status_code == 400 and body:
        return Failed(_message(body), "user")
    if by_kind and status_code == 404 and body and not _FORGOTTEN.match(_message(body)):
        return Failed(_message(body), "user")
    # a list tells what is wrong with the call
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
    """Or done and large, told of beforehand to a client that asks for that; the next poll brings
    the result.
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


_SHORTEST_PAUSED = 1.0  # seconds between polls while the queue is paused, at least


def pause_after(fast_polls: int, answer: Pending, shortest: float, longest: float) -> float:
    """Seconds before the next poll, after so many in a row that were answered at once: more and
    more, and longer while the queue is paused.
    """
    if not fast_polls:
        return 0.0
    pause = min(shortest * 2.0 ** min(fast_polls - 1, 30), longest)
    return max(pause, min(_SHORTEST_PAUSED, longest)) if answer.paused else pause
