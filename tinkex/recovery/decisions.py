"""What a run does about a reload that failed, and what it calls its checkpoints. Plain values: no
I/O here.
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
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds


def blames_checkpoint(error: TinkexError) -> bool:
    """Whether a failed load is the fault of the checkpoint, as far as one can tell, and another one
    may be loaded.
    """
    if isinstance(error, APIStatusError):
        return error.status_code in _UNFIT_STATUSES
    return isinstance(
        error, (RequestFailedError, APIResponseValidationError, CheckpointMismatchError)
    )


def may_pass(error: TinkexError) -> bool:
    """Whether a failed load may work later, when the server is itself again."""
    return error.retryable or is_recoverable(error)


def pause(attempt: int) -> float:
    """Seconds to wait for the server after so many attempts to reload."""
    return min(_FIRST_PAUSE * 2.0 ** (attempt - 1), _LONGEST_PAUSE)


def checkpoint_name(step: int, token: str) -> str:
    """The name of the state before `step`; `token` makes it unique, since a step may be reached
    more than once.
    """
    return f"step-{step:06d}-{token}"
