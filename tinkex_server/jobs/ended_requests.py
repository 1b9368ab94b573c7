"""`EndedRequests`: the requests of each scope in the order in which they ended, for bulk polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from attrs import define, field

from tinkex_server.jobs.requests import RequestIdentity
from tinkex_server.store import EndedFuture, Ending, Store


@define(eq=False)
class _Log:
    """The requests of one scope that have ended, in the order of ending."""

    rows: list[EndedFuture]
    more: asyncio.Event = field(factory=asyncio.Event)

    def add(self, row: EndedFuture) -> None:
        self.rows.append(row)
        self.wake()

    def wake(self) -> None:
        """Wakes all that wait for `more`."""
        self.more.set()
        self.more = asyncio.Event()


class EndedRequests:
    """The logs of the scopes that somebody has polled. To be used on the event loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._logs: dict[str, _Log] = {}
        self._stopped = False

    def add(self, identity: RequestIdentity, request_id: str, ending: Ending) -> None:
        """Adds a request that has ended, and wakes the polls of its scope."""
        if log := self._logs.get(identity.scope):
            size = len(ending.result or b"")
            log.add(EndedFuture(request_id, identity.seq_id, ending.state, size))

    async def wait(
        self, scope: str, numbers: range, after: int, timeout: float
    ) -> tuple[int, Sequence[EndedFuture]]:
        """Waits for requests of a scope with these numbers that end after position `after`.

        Returns the last position, to be passed as `after` the next time, and the requests; none
        when the wait timed out, or the server stops.
        """
        log = self._log(scope)
        after = after if 0 <= after <= len(log.rows) else 0
        deadline = time.monotonic() + timeout
        while not (ended := [row for row in log.rows[after:] if row.seq_id in numbers]):
            left = deadline - time.monotonic()
            if left <= 0 or self._stopped:
                break
            await wait_for(log.more, left)
        return len(log.rows), ended

    def forget(self, scope: str) -> None:
        """Frees the memory of a scope."""
        self._logs.pop(scope, None)

    def stop(self) -> None:
        """Ends all waits."""
        self._stopped = True
        for log in self._logs.values():
            log.wake()

    def _log(self, scope: str) -> _Log:
        if scope not in self._logs:
            self._logs[scope] = _Log(self._store.futures.ended(scope))
        return self._logs[scope]


async def wait_for(event: asyncio.Event, timeout: float) -> None:
    """Returns when the event is set, or after `timeout` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
