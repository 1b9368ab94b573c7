"""What an answer of retrieve_future means. Plain values: no I/O here.

Servers say "not yet" and "failed" in several ways; all that are known are read alike. Source: openapi/tinker.yaml, retrieve_future.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from attrs import frozen

from tinkex.errors import FailureCategory

Payload: TypeAlias = Mapping[str, Any] | bytes
"""A result: a JSON object's fields, or a protobuf message."""


@frozen
class Pending:
    """Not yet; how and why it waits, in the server's words."""

    queue_state: str | None = None
    reason: str | None = None


@frozen
class Failed:
    """The work failed, for good."""

    message: str
    category: FailureCategory


@frozen
class Finished:
    """The result, of the type that belongs to the request."""

    result: Payload


Answer: TypeAlias = Pending | Failed | Finished


def classify(status_code: int, body: Mapping[str, Any]) -> Answer | None:
    """What the answer says; None where its status is a refusal of the call itself, not word of the work."""
    if status_code == 408 or (status_code == 200 and body.get("type") == "try_again"):
        return Pending(body.get("queue_state"), body.get("queue_state_reason"))
    if status_code == 400 and body:
        return Failed(_message(body), "user")
    if status_code != 200:
        return None
    if body.get("error") or body.get("error_message"):
        return Failed(_message(body), _category(body.get("category")))
    return Finished(body)


def _message(body: Mapping[str, Any]) -> str:
    words = (body.get(name) for name in ("error", "error_message", "detail", "message"))
    return next((str(word) for word in words if word), "no reason given")


def _category(word: object) -> FailureCategory:
    text = str(word).lower()
    if "user" in text:
        return "user"
    return "server" if text in ("server", "application", "execution_error") else "unknown"


def pause_after(fast_polls: int, answer: Pending, shortest: float, longest: float) -> float:
    """Seconds before the next poll, after so many in a row that were answered at once; longest while the queue is paused."""
    if (answer.queue_state or "").startswith("paused"):
        return longest
    return min(shortest * 2.0 ** (fast_polls - 1), longest) if fast_polls else 0.0
