"""`MissingSeqIds`: fails the requests that wait for a seq_id which does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tinkex_server.jobs.lanes import Lanes
from tinkex_server.jobs.requests import ActiveRequest

MISSING_SECONDS = 600.0
"""Seconds that a request waits for a missing seq_id before its own: twice as long as clients try to
send a request.
"""


class MissingSeqIds:
    """The seq_ids that did not come in time, by lane. To be used on the event loop's thread."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._overdue: dict[str, int] = {}

    def watch(self, request: ActiveRequest, fail: Callable[[str], None]) -> None:
        """Removes the request from its lane and calls `fail` with the reason if it waits too long.

        A request that waits for a seq_id which is overdue already fails at once.
        """
        if request.lane is None or request.number is None:
            return
        missing = self._lanes.waits_for(request.lane, request.number)
        if missing is not None:
            is_overdue = self._overdue.get(request.lane) == missing
            self._check_later(0.0 if is_overdue else MISSING_SECONDS, request, missing, fail)

    def reason(self, request: ActiveRequest) -> str | None:
        """Returns a text that says which seq_id the request waits for, or None."""
        if request.lane is None:
            return None
        missing = self._lanes.waits_for(request.lane, request.number)
        if missing is None:
            return None
        return f"seq_id {request.number} waits for seq_id {missing}, which has not come"

    def forget(self, lane: str) -> None:
        """Drops what is kept of a lane that gets no more requests."""
        self._overdue.pop(lane, None)

    def _check_later(
        self, seconds: float, request: ActiveRequest, missing: int, fail: Callable[[str], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._check, request, missing, fail)

    def _check(self, request: ActiveRequest, missing: int, fail: Callable[[str], None]) -> None:
        if request.over.is_set() or request.lane is None or request.number is None:
            return
        now_missing = self._lanes.waits_for(request.lane, request.number)
        if now_missing is None:
            return
        if now_missing != missing:
            self._check_later(MISSING_SECONDS, request, now_missing, fail)
            return
        self._overdue[request.lane] = missing
        self._lanes.give_up(request.lane, request.number)
        fail(_never_came(request.number, missing))


def _never_came(number: int, missing: int) -> str:
    return (
        f"seq_id {number} was not run: it waited for seq_id {missing}, which did not arrive within "
        f"{MISSING_SECONDS:.0f} s. That request was lost on its way, or refused before it could be "
        "read. Until it arrives, later requests fail at once. Continue with a new training client, "
        "from the last checkpoint"
    )
