"""Decides what to do about a training request whose answer did not come.

Plain values: no I/O here. A request has three outcomes, not two: done, failed, unknown. Whether it
may be sent again depends on the point at which the exchange failed, on whether the request changes
the model, and on what the server does with a (model, seq_id) that it has already received
(`Dialect.seq_id_repeats`).
"""

from __future__ import annotations

import re
from typing import Literal

from tinkex.dialects.dialect import SeqIdRepeats
from tinkex.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    FailurePoint,
    NotATinkerServerError,
    TinkexError,
    WaitTimeoutError,
)

Effect = Literal["changes", "reads"]
"""Whether a request changes the model, or only reads or copies it."""
Decision = Literal["resend", "resend_once", "unknown"]
"""The next step: resend until the server answers; resend once, and interpret the refusal; or report
an unknown outcome.
"""
RefusalMeaning = Literal["applied", "state_lost", "unclear"]
"""The outcome of a request, as told by the refusal of its repetition."""

StatusMeaning = Literal["taken", "refused", "unknown"]
"""Whether the server accepted a request that was answered with a given status."""

_REFUSED = frozenset(
    {301, 307, 308, *range(400, 408), *range(409, 419), *range(421, 427), 428, 429, 431, 451}
)
"""The statuses whose definition says that the request was not carried out. 408 and the statuses
that proxies invented (499, 460) mean that a machine on the way stopped waiting, and the server may
have received the request all the same.
"""
_SENT_BY_THE_SERVER = frozenset({400, 404, 409, 410, 413, 422})
"""The statuses that, with a JSON object, come from the server itself. It would have answered a
repeated request as it answered the first one.
"""

_CHANGING = frozenset({"forward_backward", "optim_step", "load_weights"})
_ORDER = re.compile(r"expected\D{0,20}(\d+)\D{1,20}got\D{0,20}(\d+)", re.IGNORECASE)


def effect_of(operation: str) -> Effect:
    return "changes" if operation in _CHANGING else "reads"


def decide(failure_point: FailurePoint, operation: str, repeats: SeqIdRepeats) -> Decision:
    """Returns what to do about a model's numbered request whose exchange failed at this point."""
    if failure_point in ("connecting", "unsent") or repeats == "repeats":
        return "resend"
    if repeats == "refuses":
        return "resend_once"
    if repeats == "ignores" and effect_of(operation) == "reads":
        return "resend"  # a second execution does no harm, and the server counts no numbers
    return "unknown"


def status_meaning(status: int) -> StatusMeaning:
    """Returns what a status says of the request when the body says nothing."""
    if 200 <= status <= 299:
        return "taken"
    return "refused" if status in _REFUSED else "unknown"


def failure_point_of(error: TinkexError) -> FailurePoint | None:
    """Returns where the exchange failed if the server may have accepted the request, else None."""
    if isinstance(error, APIConnectionError):
        return error.failure_point if error.sent else None
    if isinstance(error, (APIResponseValidationError, NotATinkerServerError)):
        return "answered"
    if isinstance(error, WaitTimeoutError):
        return "unanswered"
    if isinstance(error, APIStatusError) and status_meaning(error.status_code) == "unknown":
        return "answered"
    return None


def refuses_all_attempts(error: TinkexError) -> bool:
    """Returns whether the refusal of a repeated request also holds for its earlier attempts, whose
    answers did not come.
    """
    return (
        isinstance(error, APIStatusError)
        and error.status_code in _SENT_BY_THE_SERVER
        and isinstance(error.body, dict)
    )


def expected_number(text: str) -> int | None:
    """Returns the seq_id that a server asks for in a refusal such as "expected 3, got 2"."""
    found = _ORDER.search(text)
    return int(found[1]) if found else None


def meaning_of_refusal(text: str, seq_id: int) -> RefusalMeaning:
    """Returns what the refusal of a request that was sent twice says of the first one.

    Args:
        text: the server's message.
        seq_id: the number under which both were sent.
    """
    expected = expected_number(text)
    if expected is None or expected == seq_id:
        return "unclear"
    return "applied" if expected > seq_id else "state_lost"
