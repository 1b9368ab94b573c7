"""Each reason of a refusal has one HTTP status, and refusals of other servers keep theirs."""

from __future__ import annotations

import orjson
import pytest

from tinkex_server.errors import Reason, Refused, malformed
from tinkex_server.wire.refusals import STATUSES, RefusedWithStatus, refusal_response, status_of


def test_each_reason_has_a_status_of_its_own() -> None:
    assert set(STATUSES) == set(Reason)
    assert len(set(STATUSES.values())) == len(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_is_answered_with_the_status_of_its_reason(reason: Reason) -> None:
    response = refusal_response(Refused(reason, "why", retry_after=7), {"X-Other": "1"})
    assert (response.status_code, orjson.loads(response.body)) == (
        STATUSES[reason],
        {"detail": "why"},
    )
    assert (response.headers["retry-after"], response.headers["x-other"]) == ("7", "1")


def test_words_are_appended_to_each_problem() -> None:
    refused = malformed("adam_params", "beta1", message="is 2")
    refused.append("; nothing was applied")
    [problem] = orjson.loads(refusal_response(refused).body)["detail"]
    assert problem["msg"] == "is 2; nothing was applied"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        *((status, reason) for reason, status in STATUSES.items()),
        (402, Reason.BAD_REQUEST),
        (418, Reason.BAD_REQUEST),
        (408, Reason.UNAVAILABLE),
        (425, Reason.UNAVAILABLE),
        (502, Reason.UNAVAILABLE),
    ],
)
def test_the_status_of_another_server_is_kept_and_has_a_reason(status: int, reason: Reason) -> None:
    refused = RefusedWithStatus(status, "its words")
    assert (status_of(refused), refused.reason) == (status, reason)
    assert refusal_response(refused).status_code == status
