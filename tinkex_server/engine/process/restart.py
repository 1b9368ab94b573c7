"""Rules for the restart of an engine process: plain functions."""

from __future__ import annotations

import signal
from collections.abc import Sequence

PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
# seconds; a process that lives longer resets the count of failures in a row
_AT_ONCE = 10.0
_MEMORY = " (perhaps because memory ran out: try smaller batches, or fewer models at once)"


def failures_in_a_row(before: int, lived: float) -> int:
    """Returns the number of failures in a row, including the process that has just exited after
    `lived` seconds.
    """
    return before + 1 if lived < _AT_ONCE else 1


def pause_before_restart(failures: int, pauses: Sequence[float]) -> float | None:
    """Returns the pause in seconds; None if the process must not be restarted."""
    return pauses[failures - 1] if failures <= len(pauses) else None


def exit_reason(exit_code: int) -> str:
    """Returns the reason of an exit, as a phrase that follows "the engine process"."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return killed_by(-exit_code, _MEMORY)


def killed_by(number: int, memory: str) -> str:
    """Returns which signal ended a process, as a phrase that follows its name, and after SIGKILL
    the note `memory`.
    """
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"was killed by {name}{memory if name == 'SIGKILL' else ''}"
