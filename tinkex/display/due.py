"""`DueLines`: when a pipe or a file, where nothing can be redrawn, gets a line about progress."""

from __future__ import annotations

import time

from attrs import define, field

LINE_SECONDS = 10.0  # at most, between two lines of a loop that goes on
_PARTS = 10  # of the whole, after each of which a line is due


@define
class DueLines:
    """The times of the lines about something that advances: one for each tenth of the whole, and
    one whenever 10 seconds have passed without a line.
    """

    total: int | None
    """The size of the whole; None if it is not known. Then time alone counts."""
    done: int = 0
    """The part that was done at the last line, or at the beginning."""
    _written_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._written_at = time.monotonic()

    def take(self, done: int) -> bool:
        """Returns whether a line is due now that so much is done. If it is, the caller writes it,
        and it counts as written.
        """
        is_late = time.monotonic() - self._written_at >= LINE_SECONDS
        if not is_late and self._parts(done) <= self._parts(self.done):
            return False
        self._written_at, self.done = time.monotonic(), done
        return True

    def _parts(self, done: int) -> int:
        return done * _PARTS // self.total if self.total else 0
