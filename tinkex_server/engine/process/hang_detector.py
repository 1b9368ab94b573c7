"""When an engine's process counts as hung. Plain values: no clock, no thread, no process.

A forward pass may be as long as it likes, so that a call which takes long says nothing. What can be
told is a process that shows no life, and one that lives, has calls to send, and neither answers
nor computes. One that computes for ever cannot be told from one that computes for long, and is left
alone.
"""

from __future__ import annotations

from attrs import define, frozen

SILENT_TIMEOUT = 60.0
"""Seconds without a sign of life: many times what a collection of garbage, a library that keeps the
interpreter to itself, or a machine that swaps holds up a thread; and a client waits minutes for a
step anyway.
"""
IDLE_TIMEOUT = 600.0
"""Seconds without an send and without work: more than a slow disk, or a GPU that is shared with
others, keeps a call waiting with nothing for the processor to do.
"""
_WORK = 0.01
"""Seconds of processor time a second that are work: the signs of life take a hundredth of it."""


@frozen(kw_only=True)
class HangTimeouts:
    """How long a process may hang before it is killed, in seconds."""

    silent: float = SILENT_TIMEOUT
    idle: float = IDLE_TIMEOUT


@frozen
class Activity:
    """What a process has shown since it began, as counts, and whether it has calls to send."""

    busy: bool
    messages: int
    answers: int
    """Messages that send a call, in part or in whole."""
    cpu: float
    """Seconds of processor time, as it last said."""


@define
class HangDetector:
    """Looks at a process again and again, always after as long; it counts the times, and so no time
    in which it was itself stopped.
    """

    hang_timeouts: HangTimeouts
    period: float
    """Seconds from one look to the next."""
    _before: Activity = Activity(False, 0, 0, 0.0)
    _silent: float = 0.0
    _idle: float = 0.0

    def observe(self, now: Activity) -> str | None:
        """How the process hangs, if it does, in words that go on after "the engine's process"."""
        before, self._before = self._before, now
        waited_for = before.busy and now.busy
        lives = now.messages > before.messages
        works = now.answers > before.answers or now.cpu - before.cpu >= _WORK * self.period
        self._silent = self._silent + self.period if waited_for and not lives else 0.0
        self._idle = self._idle + self.period if waited_for and not works else 0.0
        if self._silent >= self.hang_timeouts.silent:
            return (
                f"gave no sign of life for {self._silent:.0f} s with calls to send, and was "
                "killed (it was stopped, or held up)"
            )
        if self._idle >= self.hang_timeouts.idle:
            return (
                f"neither answered nor computed for {self._idle:.0f} s with calls to send, and "
                "was killed (it waited for ever)"
            )
        return None
