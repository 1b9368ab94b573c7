"""`note_refusal`: keeps the reason for which a request was refused, for the status page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import cast

from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.errors import Detail, Reason, Refused
from tinkex_server.state import CommonState
from tinkex_server.wire.scope import PREFIX

_TRANSIENT = Reason.TOO_MANY_PENDING, Reason.UNAVAILABLE
"""The reasons after which a request is to be sent again as it is."""


def note_refusal(
    state: CommonState, access: Access, path: str, body: object, error: Refused | InvalidRequest
) -> None:
    """Keeps a refusal, unless the client is to send the same request again. `body` is None if it
    could not be read.
    """
    if isinstance(error, Refused) and error.reason in _TRANSIENT:
        return
    reason = _text(error.detail) if isinstance(error, Refused) else str(error)
    subject = _subject(body) or (_subject_of_fields(error) if isinstance(error, Refused) else "")
    operation = path.removeprefix(f"{PREFIX}/")
    state.refusals.add(access.new_owner, subject, operation, reason, time.time())


def _subject(body: object) -> str:
    names = (getattr(body, field, None) for field in ("model_id", "session_id"))
    return next((name for name in names if isinstance(name, str)), "")


def _subject_of_fields(refusal: Refused) -> str:
    model_id = refusal.fields.get("model_id")
    return model_id if isinstance(model_id, str) else ""


def _text(detail: Detail) -> str:
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{_place(problem)} {problem['msg']}" for problem in detail)


def _place(problem: Mapping[str, object]) -> str:
    """Returns the place of a problem in the body, as in "adam_params.learning_rate"."""
    location = cast("Sequence[object]", problem["loc"])
    return ".".join(str(part) for part in location[1:])
