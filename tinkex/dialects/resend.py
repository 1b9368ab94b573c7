"""What becomes of a training request whose answer did not come. Plain values: no I/O here.

There are three outcomes, not two: done, failed, unknown. What may be sent again depends on where
the exchange died, on what the request changes, and on what the server does with a (model, seq_id)
that it has had already (`Dialect.seq_id_repeats`).
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
Verdict = Literal["resend", "resend_once", "unknown"]
"""Send it again until it is answered; once, and read the refusal; or leave it, since nobody knows.
"""
Refusal = Literal["applied", "state_lost", "unclear"]
"""What the refusal of a repeated request says of the first one."""

StatusMeaning = Literal["taken", "refused", "doubt"]
"""A request with an answer of this status was taken on, or not, or nobody knows."""

_REFUSED = frozenset(
    {301, 307, 308, *range(400, 408), *range(409, 419), *range(421, 427), 428, 429, 431, 451}
)
"""The statuses whose definition says that the request was not carried out. 408 and those that
proxies have made up for themselves (499, 460) come when somebody on the way lost patience, and the
server may have it all the same.
"""
_TOLD_BY_THE_SERVER = frozenset({400, 404, 409, 410, 413, 422})
"""With a JSON object they come from what reads the request itself, which would have answered a
repeated one as it did the first.
"""

_CHANGING = frozenset({"forward_backward", "optim_step", "load_weights"})
_ORDER = re.compile(r"expected\D{0,20}(\d+)\D{1,20}got\D{0,20}(\d+)", re.IGNORECASE)


def effect_of(operation: str) -> Effect:
    return "changes" if operation in _CHANGING else "reads"


def verdict(failure_point: FailurePoint, operation: str, repeats: SeqIdRepeats) -> Verdict:
    """What to do about a numbered request of a model that died at `failure_point`."""
    if failure_point in ("connecting", "unsent") or repeats == "repeats":
        return "resend"
    if repeats == "refuses":
        return "resend_once"
    if repeats == "ignores" and effect_of(operation) == "reads":
        return "resend"  # it does no harm twice, and the server counts nothing
    return "unknown"


def status_meaning(status: int) -> StatusMeaning:
    """What any status of an answer says of the request, where its body says nothing."""
    if 200 <= status <= 299:
        return "taken"
    return "refused" if status in _REFUSED else "doubt"


def failure_point_of(error: TinkexError) -> FailurePoint | None:
    """Where a request died that may have been taken on; None where it certainly was not, or was
    never sent.
    """
    if isinstance(error, APIConnectionError):
        return error.failure_point if error.sent else None
    if isinstance(error, (APIResponseValidationError, NotATinkerServerError)):
        return "answered"
    if isinstance(error, WaitTimeoutError):
        return "unanswered"
    if isinstance(error, APIStatusError) and status_meaning(error.status_code) == "doubt":
        return "answered"
    return None


def settles(error: TinkexError) -> bool:
    """Whether the refusal of a repeated request says that the ones before it, whose answers did not
    come, were not taken on either.
    """
    return (
        isinstance(error, APIStatusError)
        and error.status_code in _TOLD_BY_THE_SERVER
        and isinstance(error.body, dict)
    )


def expected_number(text: str) -> int | None:
    """The seq_id that a server wants, from the words with which it refuses another: "expected 3,
    got 2".
    """
    found = _ORDER.search(text)
    return int(found[1]) if found else None


def read_refusal(text: str, seq_id: int) -> Refusal:
    """What the refusal of a request that was sent twice under `seq_id` says of the first one."""
    expected = expected_number(text)
    if expected is None or expected == seq_id:
        return "unclear"
    return "applied" if expected > seq_id else "state_lost"
