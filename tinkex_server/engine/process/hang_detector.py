"""Decides when an engine process counts as hung: plain values, without a clock, a thread or a
process.

A call may take any time, so a slow call alone proves nothing. A process is hung if it sends no
heartbeat, or if it has pending calls and neither replies nor uses the processor. An endless
computation cannot be told from a long one, and is left alone.
"""

from __future__ import annotations

from attrs import define, frozen

SILENT_TIMEOUT = 60.0
"""Seconds without a heartbeat. Garbage collection, a library that holds the interpreter lock, or
swapping delay a thread for far less, and clients wait minutes for a step.
"""
IDLE_TIMEOUT = 600.0
"""Seconds without a reply and without work: longer than a slow disk or a shared GPU keeps the
processor idle.
"""
_WORK = 0.01
"""Seconds of processor time per second that count as work; heartbeats use a hundredth of it."""


@frozen(kw_only=True)
class HangTimeouts:
    """The times, in seconds, that a process may hang before it is killed."""

    silent: float = SILENT_TIMEOUT
    idle: float = IDLE_TIMEOUT


@frozen
class Activity:
    """The activity of a process since its start, as counts, and whether it has pending calls."""

    busy: bool
    messages: int
    answers: int
    """The number of messages that reply to a call, in part or in whole."""
    cpu: float
    """The processor time in seconds, as last reported."""


@define
class HangDetector:
    """A detector that observes a process at regular intervals. It counts observations rather than
    time, so that its own pauses do not count.
    """

    hang_timeouts: HangTimeouts
    period: float
    """The seconds between two observations."""
    _before: Activity = Activity(False, 0, 0, 0.0)
    _silent: float = 0.0
    _idle: float = 0.0

    def observe(self, now: Activity) -> str | None:
        """Returns how the process hangs, as a phrase that follows "the engine process"; None if
        it does not hang.
        """
        before, self._before = self._before, now
        waited_for = before.busy and now.busy
        lives = now.messages > before.messages
        works = now.answers > before.answers or now.cpu - before.cpu >= _WORK * self.period
        self._silent = self._silent + self.period if waited_for and not lives else 0.0
        self._idle = self._idle + self.period if waited_for and not works else 0.0
        if self._silent >= self.hang_timeouts.silent:
            return (
                f"sent no heartbeat for {self._silent:.0f} s while calls waited, and was "
                "killed (it was suspended or blocked)"
            )
        if self._idle >= self.hang_timeouts.idle:
            return (
                f"neither answered nor used the CPU for {self._idle:.0f} s while calls waited, "
                "and was killed (it was probably deadlocked)"
            )
        return None
