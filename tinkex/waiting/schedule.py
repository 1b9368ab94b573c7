"""The times at which long waits are logged: after 10 s, then ever more rarely. No clock here."""

from __future__ import annotations

from attrs import define

FIRST = 10.0  # seconds
_FACTOR = 2.0
_MAX_INTERVAL = 600.0  # seconds


@define
class LogSchedule:
    """The log lines of one wait: at an age of 10, 20, 40, 80, … s, and finally every 600 s."""

    next_at: float = FIRST

    def due(self, age: float) -> bool:
        """Returns whether a line is due, and schedules the next one if so."""
        if age < self.next_at:
            return False
        while self.next_at <= age:
            self.next_at += min(self.next_at * (_FACTOR - 1), _MAX_INTERVAL)
        return True
