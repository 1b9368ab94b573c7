"""Refusals as HTTP answers: the status of each reason, and the body `{"detail": …}`."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from tinkex_server.errors import Detail, Reason, Refused
from tinkex_server.wire.responses import json_response

STATUSES: Mapping[Reason, int] = {
    Reason.BAD_REQUEST: 400,
    Reason.UNAUTHENTICATED: 401,
    Reason.FORBIDDEN: 403,
    Reason.NOT_FOUND: 404,
    Reason.CONFLICT: 409,
    Reason.GONE: 410,
    Reason.TOO_LARGE: 413,
    Reason.UNSUPPORTED_MEDIA_TYPE: 415,
    Reason.MALFORMED: 422,
    Reason.TOO_MANY_PENDING: 429,
    Reason.SERVER_FAULT: 500,
    Reason.UNAVAILABLE: 503,
    Reason.STORAGE_FULL: 507,
}
"""The status with which a request is refused for each reason."""
_REASONS = {status: reason for reason, status in STATUSES.items()}
_SENT_AGAIN = (408, 425)  # statuses of other servers, after which clients send a request again


class RefusedWithStatus(Refused):
    """A refusal with the status of another server: one that the embedded server imitates, or the
    one behind the bridge. It may be a status that the embedded server never answers.
    """

    def __init__(self, status: int, detail: Detail, *, retry_after: int | None = None) -> None:
        """Refuses with an HTTP status. `retry_after` is the seconds until a retry makes sense."""
        super().__init__(_reason_of(status), detail, retry_after=retry_after)
        self.status = status


def status_of(refused: Refused) -> int:
    """Returns the HTTP status of a refusal."""
    return refused.status if isinstance(refused, RefusedWithStatus) else STATUSES[refused.reason]


def headers_of(refused: Refused) -> dict[str, str]:
    """Returns the headers of a refusal, which say when a retry makes sense."""
    return {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}


def refusal_response(refused: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """Returns the answer to a refused request, with `headers` beside those of the refusal."""
    return json_response(
        status_of(refused), {"detail": refused.detail}, {**headers_of(refused), **(headers or {})}
    )


def _reason_of(status: int) -> Reason:
    """Returns the reason that a status stands for. Other statuses mean that the request is at fault
    if they are final and below 500, and else that the server cannot serve it now.
    """
    if status in _REASONS:
        return _REASONS[status]
    is_final = 400 <= status < 500 and status not in _SENT_AGAIN
    return Reason.BAD_REQUEST if is_final else Reason.UNAVAILABLE
