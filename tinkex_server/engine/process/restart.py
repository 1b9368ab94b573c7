"""`Restarts`: whether what has died is started again; and phrases that say how it died."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from attrs import define

PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
# seconds; a process that lives longer resets the count of failures in a row
_AT_ONCE = 10.0
_MEMORY = " (perhaps because memory ran out: try smaller batches, or fewer models at once)"


@define
class Restarts:
    """The restarts of one part of an engine, such as a process or an actor, which is given up when
    it dies too often in a row.
    """

    pauses: Sequence[float] = PAUSES
    """Seconds before each restart in a row of a part that lives only for seconds."""
    _failures: int = 0

    def pause(self, lived: float) -> float | None:
        """Returns the seconds to wait before the restart of a part that has just died after
        `lived` seconds; None if it must not be restarted.
        """
        self._failures = self._failures + 1 if lived < _AT_ONCE else 1
        return self.pauses[self._failures - 1] if self._failures <= len(self.pauses) else None

    def given_up(self, what: str) -> str:
        """Returns the text for people about a part that is not restarted, given what happened to
        it last.
        """
        return (
            f"{what}, {self._failures} times in a row, and is not restarted any more: restart the "
            "server"
        )


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
