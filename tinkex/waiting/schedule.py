"""When a wait says what it waits for: after 10 s, and then ever more rarely. Plain values: no clock
here.
"""

from __future__ import annotations

from attrs import define

FIRST = 10.0  # seconds
_FACTOR = 2.0
_RAREST = 600.0  # seconds between two lines


@define
class LogSchedule:
    """The lines of one wait: at 10, 20, 40, 80, … s of age, and every 600 s in the end."""

    next_at: float = FIRST

    def due(self, age: float) -> bool:
        """Whether a line is due; it is then taken as said."""
        if age < self.next_at:
            return False
        while self.next_at <= age:
            self.next_at += min(self.next_at * (_FACTOR - 1), _RAREST)
        return True
