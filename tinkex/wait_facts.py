"""`WaitFacts`: what is known of a wait, for a log line, an event, or the error at its bound. Plain values: no I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

Owner = Literal["program", "turn", "network", "queue", "computation"]
"""Whose a wait is: this program's own, whose event loop did not run; an earlier call's of the same client; the network's, or of a
server that fails or says nothing; the server's queue; the computation's."""

_NAMES: Mapping[Owner, str] = {
    "program": "this program",
    "turn": "the calls before it",
    "network": "network",
    "queue": "the server's queue",
    "computation": "computation",
}
_WORTH_SAYING = 1.0  # seconds


@frozen(kw_only=True)
class WaitFacts:
    """A wait as it stands; `str()` is the sentence that logs and errors show."""

    operation: str
    request_id: str | None = None
    awaited: str = "its result"
    age: float = 0.0
    """Seconds."""
    whose: Owner = "computation"
    """Whose it is now."""
    what: str = ""
    """What happens now, in words."""
    seconds: Mapping[Owner, float] = field(factory=dict[Owner, float])
    """How long it was whose."""
    queue_state: str | None = None
    queue_state_reason: str | None = None
    last_status: int | None = None
    """The HTTP status of the server's last answer; None while there is none."""
    tries: int = 0
    """HTTP requests that were sent for it."""
    stalled_by: str | None = None
    """The line of this program that held up the event loop longest, while this waited."""

    @property
    def mostly(self) -> Owner:
        """Whose most of it was."""
        split: dict[Owner, float] = {self.whose: 0.0, **self.seconds}
        return max(split, key=lambda owner: split[owner])

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.operation}{request} has waited {self.age:.0f} s for {self.awaited}: {'; '.join(self._clauses())}"

    def _clauses(self) -> list[str]:
        split = [
            f"{_NAMES[owner]} {spent:.0f} s"
            for owner, spent in self.seconds.items()
            if spent >= _WORTH_SAYING
        ]
        stall = f", held up by {self.stalled_by}" if self.stalled_by else ""
        reason = f" ({self.queue_state_reason})" if self.queue_state_reason else ""
        program = self.seconds.get("program", 0.0)
        return [
            f"{_NAMES[self.whose]}{f', {self.what}' if self.what else ''}",
            *([f"queue_state {self.queue_state}{reason}"] if self.queue_state else []),
            f"last HTTP status {self.last_status or 'none'}, try {self.tries}",
            *(
                [f"the event loop of this program stood still for {program:.0f} s{stall}"]
                if program >= _WORTH_SAYING
                else []
            ),
            *([f"so far {', '.join(split)}"] if len(split) > 1 else []),
        ]
