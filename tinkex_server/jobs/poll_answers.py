"""`PollAnswer`: the answer to a poll, made from what is stored of the request."""

from __future__ import annotations

import orjson
from attrs import frozen

from tinkex_server.errors import Reason, Refused
from tinkex_server.jobs.saved_states import LostSteps
from tinkex_server.store import FutureRow


class UnknownRequest(Refused):
    """The server does not know the request, or the caller may not see it."""

    def __init__(self, request_id: str) -> None:
        super().__init__(Reason.NOT_FOUND, f"unknown request {request_id!r}")


@frozen
class PollAnswer:
    """The answer to a poll."""

    status: int
    body: bytes
    """The JSON of a failure or of "not yet"; of a result, the form in which it is stored."""
    result_of: str | None = None
    """The kind of request whose result this is, if it is a result."""
    media_type: str = "application/json"


def not_yet(request_id: str, reason: str | None) -> PollAnswer:
    """Returns the answer for a request without an outcome. `reason` says what it waits for."""
    body = {"type": "try_again", "request_id": request_id, "queue_state": "active"}
    if reason:
        body["queue_state_reason"] = reason
    return PollAnswer(408, orjson.dumps(body))


def outcome(row: FutureRow, lost_steps: LostSteps | None) -> PollAnswer:
    """Returns the answer for a request that has ended. Raises `Refused` if its outcome is not kept.

    Args:
        row: the request as it is stored.
        lost_steps: the lost steps because of which it failed, if it did.
    """
    if row.state == "done":
        return PollAnswer(200, row.result or b"{}", result_of=row.kind)
    if row.state == "failed":
        failure: dict[str, object] = {"error": row.error, "category": row.category}
        if lost_steps:
            failure["state_loss"] = lost_steps.number
        return PollAnswer(200, orjson.dumps(failure))
    if row.state == "expired":
        raise Refused(
            Reason.GONE,
            f"the result of request {row.request_id!r} has expired: the server no longer keeps it",
        )
    raise Refused(
        Reason.STORAGE_FULL,
        f"request {row.request_id!r} has ended, but its result could not be written to the data "
        "folder of the server",
    )
