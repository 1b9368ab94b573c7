"""Decisions of a recovery: whether to try another checkpoint, or to wait. Plain values: no I/O
here.
"""

from __future__ import annotations

from tinkex.config.recovery import is_recoverable
from tinkex.errors import (
    APIResponseValidationError,
    APIStatusError,
    CheckpointMismatchError,
    RequestFailedError,
    TinkexError,
)

_UNFIT_STATUSES = frozenset({400, 404, 409, 410, 422, 500})
_FIRST_PAUSE, _MAX_PAUSE = 1.0, 30.0  # seconds


def blames_checkpoint(error: TinkexError) -> bool:
    """Returns whether a load probably failed because of the checkpoint, so that another one may
    work.
    """
    if isinstance(error, APIStatusError):
        return error.status_code in _UNFIT_STATUSES
    return isinstance(
        error, (RequestFailedError, APIResponseValidationError, CheckpointMismatchError)
    )


def may_pass(error: TinkexError) -> bool:
    """Returns whether a failed load may work later, when the server has recovered."""
    return error.retryable or is_recoverable(error)


def pause(attempt: int) -> float:
    """Returns the seconds to wait after so many attempts to reload."""
    return min(_FIRST_PAUSE * 2.0 ** (attempt - 1), _MAX_PAUSE)


def checkpoint_name(step: int, token: str) -> str:
    """Returns the name of the checkpoint before `step`.

    `token` makes it unique, since a run may reach a step more than once.
    """
    return f"step-{step:06d}-{token}"
