"""What is made of the end of an engine's process: plain functions."""

from __future__ import annotations

import signal
from collections.abc import Sequence

PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
# seconds; a process that lives longer has worked, and the count of failures in a row begins anew
_AT_ONCE = 10.0
_MEMORY = (
    " (as the system does when memory runs out: smaller batches, or fewer models at once, may help)"
)


def failures_in_a_row(before: int, lived: float) -> int:
    """With the one that has just ended, after so many seconds."""
    return before + 1 if lived < _AT_ONCE else 1


def pause_before_restart(failures: int, pauses: Sequence[float]) -> float | None:
    """Seconds; None when it is not to be started again."""
    return pauses[failures - 1] if failures <= len(pauses) else None


def exit_reason(exit_code: int) -> str:
    """In words that go on after "the engine's process"."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}{_MEMORY if name == 'SIGKILL' else ''}"
