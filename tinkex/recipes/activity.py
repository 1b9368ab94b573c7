"""`Activity`: what a run does at this moment, and whose the wait is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tinkex import events
from tinkex.events import Event, Owner

_WORTH_SAYING = 2.0  # seconds
_OWNERS: Mapping[Owner, str] = {
    "program": "this program blocks its event loop",
    "turn": "earlier calls have not ended",
    "network": "the network, or a server that does not answer",
    "queue": "the server's queue",
    "computation": "the server computes",
}


class Activity:
    """The present work of a run. As a context manager it listens to what the client tells of its
    waits: the queue states of the server, retries, and long waits.
    """

    def __init__(self) -> None:
        self._doing = "starting"
        self._since = time.monotonic()
        self._cause = ""

    def now(self, doing: str) -> None:
        """Notes what the run does from now on, such as `"sampling 32 answers on the server"`."""
        self._doing, self._since, self._cause = doing, time.monotonic(), ""

    def describe(self) -> str:
        """Returns what the run has been doing for more than two seconds, or an empty text."""
        seconds = time.monotonic() - self._since
        if seconds < _WORTH_SAYING:
            return ""
        return f"{seconds:.0f} s {self._doing}" + (f": {self._cause}" if self._cause else "")

    def _note(self, event: Event) -> None:
        if isinstance(event, events.QueueStateChange):
            self._cause = _queue(event.queue_state, event.reason)
        elif isinstance(event, events.Retry):
            self._cause = f"try {event.attempt} failed, {event.reason}"
        elif isinstance(event, events.Wait) and not event.over:
            facts = event.facts
            self._cause = (
                _queue(facts.queue_state, facts.queue_state_reason)
                if facts.owner == "queue" and facts.queue_state
                else _OWNERS[facts.owner]
            )

    def __enter__(self) -> Self:
        events.attach(self._note, ["queue.state_change", "retry", "wait"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        events.detach(self._note)


def _queue(state: str | None, reason: str | None) -> str:
    if state is None or state == "active":
        return _OWNERS["computation"]
    return f"{_OWNERS['queue']}, {state}" + (f" ({reason})" if reason else "")
