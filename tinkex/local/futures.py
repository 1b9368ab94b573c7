"""Requests that were taken on: each once, run in its lane, its outcome kept, and those woken who wait for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

import orjson
from attrs import define, evolve, field, frozen

from tinkex.local.access import Access
from tinkex.local.engine.base import EngineDied, InvalidRequest
from tinkex.local.errors import Refused, not_found
from tinkex.local.ids import Ids
from tinkex.local.lanes import Job, Lanes
from tinkex.local.store import EndedFuture, FutureRow, Store

logger = logging.getLogger("tinkex.local")

Work = Callable[[], Awaitable[bytes]]
"""Gives the result as it is kept, see `protobuf.LOSSES`; `InvalidRequest` is the sender's fault, any other error the server's."""


class OutOfTurn(InvalidRequest):
    """The request's seq_id is not the model's next."""


@frozen
class Outcome:
    """The answer to a poll: a status and a body, and of which kind of request it is the result, if it is one: then as it is kept."""

    status: int
    body: bytes
    result_of: str | None = None
    media_type: str = "application/json"


@frozen
class Ticket:
    """What makes a request the same as an earlier one: a number in its scope (None: no number), and what it asks."""

    scope: str
    seq_id: int | None
    kind: str
    fingerprint: str
    owner: str


@frozen
class Pending:
    """A request that has no outcome yet, for people: since when, in seconds since 1970, and what it waits for."""

    ticket: Ticket
    since: float
    state: str


@define(eq=False)
class _Waiting:
    ticket: Ticket
    lane: str | None
    number: int | None
    since: float = field(factory=time.time)
    started_at: float | None = None
    ended: asyncio.Event = field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@define(eq=False)
class _Log:
    """The requests of one scope that have ended, in that order."""

    rows: list[EndedFuture]
    more: asyncio.Event = field(factory=asyncio.Event)

    def add(self, row: EndedFuture) -> None:
        self.rows.append(row)
        self.more.set()
        self.more = asyncio.Event()


class Futures:
    """The futures of a server. To be used on the event loop's thread."""

    def __init__(
        self, store: Store, lanes: Lanes, hold: float, ids: Ids, conflict_status: int, most_pending: int, engine_ready: Future[str]
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._hold = hold  # seconds; how long a poll waits
        self._ids = ids
        self._conflict_status = conflict_status
        self._most_pending = most_pending
        self._engine_ready = engine_ready
        self._waiting: dict[str, _Waiting] = {}
        self._logs: dict[str, _Log] = {}  # by scope, of those that were asked for
        self._stopping = asyncio.Event()

    def repeated(self, ticket: Ticket) -> str | None:
        """The request id that was given out for this ticket before, or None.

        Raises `Refused` when the number was used for something else.
        """
        if ticket.seq_id is None or (row := self._store.futures.numbered(ticket.scope, ticket.seq_id)) is None:
            return None
        if (row.kind, row.fingerprint) != (ticket.kind, ticket.fingerprint):
            text = f"number {ticket.seq_id} of {ticket.scope} was used before, for another {row.kind} request"
            raise Refused(self._conflict_status, text)
        return row.request_id

    def submit(self, ticket: Ticket, work: Work, *, lane: str, number: int | None) -> str:
        """Queues work in a lane, at its number's turn there; returns the request id.

        Raises `Refused` (429) when the server has enough to do, but for the number that those of the lane wait for.
        """
        if not self._lanes.is_awaited(lane, number):
            self._check_room()
        row = self._take_on(ticket, _Waiting(ticket, lane, number))
        self._lanes.put(lane, number, Job(row.request_id, lambda: self._run(row, work)))
        return row.request_id

    def start(self, ticket: Ticket, work: Work) -> str:
        """Begins work at once, beside all else; returns the request id. Cancelling it ends it, begun or not.

        Raises `Refused` (429) when the server has enough to do.
        """
        self._check_room()
        waiting = _Waiting(ticket, None, None)
        row = self._take_on(ticket, waiting)
        waiting.task = asyncio.get_running_loop().create_task(self._run(row, work))
        return row.request_id

    def _check_room(self) -> None:
        if len(self._waiting) >= self._most_pending:
            raise Refused(429, f"{len(self._waiting)} requests are under way here; send this one again", retry_after=1)

    def _take_on(self, ticket: Ticket, waiting: _Waiting) -> FutureRow:
        row = FutureRow(self._ids.new_request(), ticket.scope, ticket.seq_id, ticket.kind, ticket.fingerprint, owner=ticket.owner)
        self._store.futures.add(row, time.time())
        self._waiting[row.request_id] = waiting
        return row

    async def wait(self, request_id: str, access: Access, *, hold: float | None = None) -> Outcome:
        """The outcome as soon as it is there; "not yet" when it is not there in time. Raises `Refused` for an id unknown to the caller.

        `hold` goes before the server's own time.
        """
        if (waiting := self._waiting.get(request_id)) and access.sees(waiting.ticket.owner):
            await _first_of(waiting.ended, self._stopping, timeout=self._hold if hold is None else hold)
        row = self._visible(request_id, access)
        if row.state == "pending" and self._stopping.is_set():
            raise Refused(503, "the server is stopping")
        return self._outcome(row)

    async def wait_for_any(
        self, scope: str, numbers: range, after: int, timeout: float | None
    ) -> tuple[int, Sequence[EndedFuture]]:
        """Those of a scope with these numbers that ended after the place `after` in the order of ending, as soon as there are some.

        Returns the last place, too, which is to be given the next time; none may have come by then.
        """
        log = self._log(scope)
        after = after if 0 <= after <= len(log.rows) else 0
        deadline = time.monotonic() + min(self._hold, self._hold if timeout is None else timeout)
        while not (ended := [row for row in log.rows[after:] if row.seq_id in numbers]):
            left = deadline - time.monotonic()
            if left <= 0 or self._stopping.is_set():
                break
            await _first_of(log.more, self._stopping, timeout=left)
        return len(log.rows), ended

    def pending(self, access: Access) -> Sequence[Pending]:
        """What the caller has asked for and not got yet, in order of arrival."""
        mine = [waiting for waiting in self._waiting.values() if access.sees(waiting.ticket.owner)]
        return [Pending(waiting.ticket, waiting.since, self._state(waiting)) for waiting in mine]

    def _state(self, waiting: _Waiting) -> str:
        if waiting.started_at is not None:
            return self._starting() or "runs"
        return self._gap(waiting) or "waits for earlier requests of its model"

    def _log(self, scope: str) -> _Log:
        if scope not in self._logs:
            self._logs[scope] = _Log(self._store.futures.ended(scope))
        return self._logs[scope]

    async def hold(self) -> None:
        """Returns after the time that a poll waits for what does not come, or when the server stops."""
        await _first_of(self._stopping, timeout=self._hold)

    def _visible(self, request_id: str, access: Access) -> FutureRow:
        row = self._store.futures.get(request_id)
        if row is None or not access.sees(row.owner):
            raise not_found(f"unknown request {request_id!r}")
        return row

    def cancel(self, request_id: str, access: Access) -> None:
        """Gives up a sample, or a request that has not begun; any other that has runs on."""
        row = self._visible(request_id, access)
        waiting = self._waiting.get(request_id)
        if waiting and (waiting.task or waiting.started_at is None):
            self._end(evolve(row, state="failed", error="cancelled", category="user"))
            if waiting.task:
                waiting.task.cancel()

    def fail_early(self, lane: str, reason: str) -> None:
        """Fails what waits in a lane for a number that will not come."""
        for job in self._lanes.drop_early(lane):
            if job.request_id in self._waiting and (row := self._store.futures.get(job.request_id)):
                self._end(evolve(row, state="failed", error=reason, category="user"))

    def forget_ended(self, scope: str) -> None:
        """Frees what is kept in memory for those who wait for the requests of a scope."""
        self._logs.pop(scope, None)

    def fail_waiting(self, lane: str, reason: str) -> bool:
        """Fails what has not begun in a lane, by no fault of its senders. Whether anybody waits there, be it for what has begun."""
        here = [(request_id, waiting) for request_id, waiting in self._waiting.items() if waiting.lane == lane]
        for request_id, waiting in here:
            if waiting.started_at is None and (row := self._store.futures.get(request_id)):
                self._end(evolve(row, state="failed", error=reason, category="server"))
        return bool(here)

    def stop(self) -> None:
        """Answers all polls now, and gives up the samples under way."""
        self._stopping.set()
        for waiting in self._waiting.values():
            if waiting.task:
                waiting.task.cancel()

    async def _run(self, row: FutureRow, work: Work) -> None:
        waiting = self._waiting.get(row.request_id)
        if waiting is None:  # cancelled
            return
        waiting.started_at = time.time()
        try:
            ended = evolve(row, state="done", result=await work())
        except OutOfTurn as error:
            ended = evolve(row, state="failed", error=str(error), category="order")
        except InvalidRequest as error:
            ended = evolve(row, state="failed", error=str(error), category="user")
        except EngineDied as error:
            ended = evolve(row, state="failed", error=str(error), category="server")
        except Exception as error:
            logger.exception("%s of %s failed (request %s)", row.kind, row.scope, row.request_id)
            text = f"{row.kind} failed in the server: {type(error).__name__}: {_short(error)}"
            ended = evolve(row, state="failed", error=text, category="server")
        self._end(ended)

    def _end(self, row: FutureRow) -> None:
        waiting = self._waiting.pop(row.request_id)
        self._store.futures.end(row, waiting.started_at, time.time())
        waiting.ended.set()
        if log := self._logs.get(row.scope):
            log.add(EndedFuture(row.request_id, row.seq_id, row.state, len(row.result or b"")))

    def _outcome(self, row: FutureRow) -> Outcome:
        if row.state == "done":
            return Outcome(200, row.result or b"{}", result_of=row.kind)
        if row.state == "failed":
            return Outcome(200, orjson.dumps({"error": row.error, "category": row.category}))
        if row.state == "expired":
            raise Refused(410, f"the result of request {row.request_id!r} was kept for a time, and then dropped")
        waiting = self._waiting[row.request_id]
        body = {"type": "try_again", "request_id": row.request_id, "queue_state": "active"}
        if reason := self._gap(waiting) or self._starting():
            body["queue_state_reason"] = reason
        return Outcome(408, orjson.dumps(body))

    def _gap(self, waiting: _Waiting) -> str | None:
        missing = self._lanes.waits_for(waiting.lane, waiting.number) if waiting.lane else None
        return None if missing is None else f"seq_id {waiting.number} waits for seq_id {missing}, which has not come"

    def _starting(self) -> str | None:
        return None if self._engine_ready.done() else "waits for the engine to start"


def _short(error: Exception) -> str:
    """The first line, for a client; the log has all."""
    return (str(error).splitlines() or ["no message"])[0][:300]


async def _first_of(*events: asyncio.Event, timeout: float) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
