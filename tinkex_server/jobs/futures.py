"""Requests that were taken on: each once, run in its lane, its outcome kept, and those woken who
wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from weakref import WeakValueDictionary

import orjson
from attrs import define, field, frozen

from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import EngineDied, InvalidRequest, SampleResult
from tinkex_server.errors import Refused, not_found
from tinkex_server.ids import Ids
from tinkex_server.jobs.lanes import Job, Lanes
from tinkex_server.jobs.saved_states import Loss
from tinkex_server.store import Category, EndedFuture, Ending, FutureRow, Store, StoreWriteError

logger = logging.getLogger("tinkex.local")

Work = Callable[[], Awaitable[bytes]]
"""Gives the result as it is kept, see `protobuf.LOSSES`; `InvalidRequest` is the sender's fault,
any other error the server's.
"""


MISSING_SECONDS = 600.0
"""How long a request waits for one before it that does not come: twice as long as clients try to
send one.
"""


class OutOfTurn(InvalidRequest):
    """The request's seq_id is not the model's next."""


class Lost(EngineDied):
    """The request failed by a loss of its model, which its sender knows of once this was told."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.words)
        self.loss = loss


@frozen
class Outcome:
    """The answer to a poll: a status and a body, and of which kind of request it is the result, if
    it is one: then as it is kept.
    """

    status: int
    body: bytes
    result_of: str | None = None
    media_type: str = "application/json"


@frozen
class Ticket:
    """What makes a request the same as an earlier one: a number in its scope (None: no number), and
    what it asks.
    """

    scope: str
    seq_id: int | None
    kind: str
    fingerprint: str
    owner: str


@frozen
class Pending:
    """A request that has no outcome yet, for people: since when, in seconds since 1970, and what it
    waits for.
    """

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
    over: asyncio.Event = field(factory=asyncio.Event)  # it has ended, or the server stops
    task: asyncio.Task[None] | Future[SampleResult] | None = None
    """What ends it when it is cancelled."""


@define(eq=False)
class _Log:
    """The requests of one scope that have ended, in that order."""

    rows: list[EndedFuture]
    more: asyncio.Event = field(factory=asyncio.Event)

    def add(self, row: EndedFuture) -> None:
        self.rows.append(row)
        self.wake()

    def wake(self) -> None:
        """Has those who wait for more look again."""
        self.more.set()
        self.more = asyncio.Event()


class Futures:
    """The futures of a server. To be used on the event loop's thread."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        hold: float,
        ids: Ids,
        conflict_status: int,
        most_pending: int,
        engine_ready: Future[str],
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
        self._gaps: dict[str, int] = {}  # by lane, the number that did not come in time
        self._losses: WeakValueDictionary[str, Loss] = WeakValueDictionary()  # by request
        self._stopping = asyncio.Event()

    def repeated(self, ticket: Ticket) -> str | None:
        """The request id that was given out for this ticket before, or None.

        Raises `Refused` when the number was used for something else.
        """
        if (
            ticket.seq_id is None
            or (row := self._store.futures.by_number(ticket.scope, ticket.seq_id)) is None
        ):
            return None
        if (row.kind, row.fingerprint) != (ticket.kind, ticket.fingerprint):
            text = (
                f"number {ticket.seq_id} of {ticket.scope} was used before, for another "
                f"{row.kind} request"
            )
            raise Refused(self._conflict_status, text)
        return row.request_id

    def submit(self, ticket: Ticket, work: Work, *, lane: str, number: int | None) -> str:
        """Queues work in a lane, at its number's turn there; returns the request id.

        Raises `Refused` (429) when the server has enough to do, but for the number that those of
        the lane wait for.
        """
        if not self._lanes.is_awaited(lane, number):
            self.check_room()
        request_id = self._take_on(_Waiting(ticket, lane, number))
        self._lanes.put(lane, number, Job(request_id, lambda: self._run(request_id, work)))
        if (missing := self._lanes.waits_for(lane, number)) is not None:
            self._watch_gap(
                request_id, missing, 0.0 if self._gaps.get(lane) == missing else MISSING_SECONDS
            )
        return request_id

    def _watch_gap(self, request_id: str, missing: int, seconds: float) -> None:
        """Fails the request when it still waits for that number after so long."""
        asyncio.get_running_loop().call_later(seconds, self._end_gap, request_id, missing)

    def _end_gap(self, request_id: str, missing: int) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is None or waiting.lane is None or waiting.number is None:
            return
        now_missing = self._lanes.waits_for(waiting.lane, waiting.number)
        if now_missing is None:
            return
        if now_missing != missing:
            self._watch_gap(request_id, now_missing, MISSING_SECONDS)
            return
        self._gaps[waiting.lane] = missing
        self._lanes.give_up(waiting.lane, waiting.number)
        self._end(request_id, _failed(_never_came(waiting.number, missing), "user"))

    def start(self, ticket: Ticket, work: Work) -> str:
        """Begins work at once, beside all else; returns the request id. Cancelling it ends it,
        begun or not.

        Raises `Refused` (429) when the server has enough to do.
        """
        self.check_room()
        waiting = _Waiting(ticket, None, None)
        request_id = self._take_on(waiting)
        waiting.task = asyncio.get_running_loop().create_task(self._run(request_id, work))
        return request_id

    def follow(self, ticket: Ticket, sample: Future[SampleResult]) -> None:
        """Counts a stream among what is under way until its sample ends, which it does when the
        server stops.
        """
        name, loop = self._ids.new_request(), asyncio.get_running_loop()
        self._waiting[name] = _Waiting(ticket, None, None, started_at=time.time(), task=sample)
        sample.add_done_callback(
            lambda _: (
                None
                if loop.is_closed()
                else loop.call_soon_threadsafe(self._waiting.pop, name, None)
            )
        )
        if self._stopping.is_set():
            sample.cancel()

    def check_room(self) -> None:
        """Raises `Refused` (429) when the server has enough to do."""
        if len(self._waiting) >= self._most_pending:
            raise Refused(
                429,
                f"{len(self._waiting)} requests are under way here; send this one again",
                retry_after=1,
            )

    def _take_on(self, waiting: _Waiting) -> str:
        request_id, ticket = self._ids.new_request(), waiting.ticket
        row = FutureRow(
            request_id, ticket.scope, ticket.seq_id, ticket.kind, ticket.fingerprint, ticket.owner
        )
        self._store.futures.add(row, waiting.since)
        self._waiting[request_id] = waiting
        return request_id

    async def wait(self, request_id: str, access: Access, *, hold: float | None = None) -> Outcome:
        """The outcome as soon as it is there; "not yet" when it is not there in time. Raises
        `Refused` for an id unknown to the caller.

        `hold` goes before the server's own time.
        """
        waiting = self._waiting.get(request_id)
        if waiting and access.sees(waiting.ticket.owner) and not self._stopping.is_set():
            await _wait_for(waiting.over, self._hold if hold is None else hold)
        row = self._visible(request_id, access)
        if row.state == "pending" and self._stopping.is_set():
            raise Refused(503, "the server is stopping")
        if loss := self._losses.get(request_id):
            loss.tell(time.monotonic())
        return self._outcome(row)

    async def wait_for_any(
        self, scope: str, numbers: range, after: int, timeout: float | None
    ) -> tuple[int, Sequence[EndedFuture]]:
        """Those of a scope with these numbers that ended after the place `after` in the order of
        ending, as soon as there are some.

        Returns the last place, too, which is to be given the next time; none may have come by then.
        """
        log = self._log(scope)
        after = after if 0 <= after <= len(log.rows) else 0
        deadline = time.monotonic() + min(self._hold, self._hold if timeout is None else timeout)
        while not (ended := [row for row in log.rows[after:] if row.seq_id in numbers]):
            left = deadline - time.monotonic()
            if left <= 0 or self._stopping.is_set():
                break
            await _wait_for(log.more, left)
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
        """Returns after the time that a poll waits for what does not come, or when the server
        stops.
        """
        await _wait_for(self._stopping, self._hold)

    def _visible(self, request_id: str, access: Access) -> FutureRow:
        row = self._store.futures.get(request_id)
        if row is None or not access.sees(row.owner):
            raise not_found(f"unknown request {request_id!r}")
        return row

    def cancel(self, request_id: str, access: Access) -> None:
        """Gives up a sample, or a request that has not begun; any other that has runs on."""
        self._visible(request_id, access)
        waiting = self._waiting.get(request_id)
        if waiting and (waiting.task or waiting.started_at is None):
            self._end(request_id, _failed("cancelled", "user"))
            if waiting.task:
                waiting.task.cancel()

    def fail_early(self, lane: str, reason: str) -> None:
        """Fails what waits in a lane for a number that will not come, nor any other."""
        self._gaps.pop(lane, None)
        for job in self._lanes.drop_early(lane):
            if job.request_id in self._waiting:
                self._end(job.request_id, _failed(reason, "user"))

    def forget_ended(self, scope: str) -> None:
        """Frees what is kept in memory for those who wait for the requests of a scope."""
        self._logs.pop(scope, None)

    def fail_waiting(self, lane: str, error: EngineDied) -> bool:
        """Fails what has not begun in a lane, by no fault of its senders. Whether anybody waits
        there, be it for what has begun.
        """
        here = [
            (request_id, waiting)
            for request_id, waiting in self._waiting.items()
            if waiting.lane == lane
        ]
        for request_id, waiting in here:
            if waiting.started_at is None:
                self._end(request_id, self._died(request_id, error))
        return bool(here)

    def stop(self) -> None:
        """Answers all polls now, and gives up the samples and the streams under way."""
        self._stopping.set()
        for log in self._logs.values():
            log.wake()
        for waiting in self._waiting.values():
            waiting.over.set()
            if waiting.task:
                waiting.task.cancel()

    async def _run(self, request_id: str, work: Work) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is None:  # cancelled
            return
        waiting.started_at = time.time()
        try:
            ending = Ending("done", await work())
        except OutOfTurn as error:
            ending = _failed(str(error), "order")
        except InvalidRequest as error:
            ending = _failed(str(error), "user")
        except EngineDied as error:
            ending = self._died(request_id, error)
        except Exception as error:
            kind, scope = waiting.ticket.kind, waiting.ticket.scope
            logger.exception("%s of %s failed (request %s)", kind, scope, request_id)
            ending = _failed(
                f"{kind} failed in the server: {type(error).__name__}: {_short(error)}", "server"
            )
        self._end(request_id, ending)

    def _died(self, request_id: str, error: EngineDied) -> Ending:
        if isinstance(error, Lost):
            self._losses[request_id] = error.loss
        return _failed(str(error), "server")

    def _end(self, request_id: str, ending: Ending) -> None:
        waiting = self._waiting.pop(request_id)
        # which the store has logged, and `_outcome` tells those who wait
        with suppress(StoreWriteError):
            self._store.futures.end(request_id, ending, waiting.started_at, time.time())
        waiting.over.set()
        if log := self._logs.get(waiting.ticket.scope):
            log.add(
                EndedFuture(
                    request_id, waiting.ticket.seq_id, ending.state, len(ending.result or b"")
                )
            )

    def _outcome(self, row: FutureRow) -> Outcome:
        if row.state == "done":
            return Outcome(200, row.result or b"{}", result_of=row.kind)
        if row.state == "failed":
            loss = self._losses.get(row.request_id)
            told = {"state_loss": loss.number} if loss else {}
            return Outcome(
                200, orjson.dumps({"error": row.error, "category": row.category, **told})
            )
        if row.state == "expired":
            raise Refused(
                410,
                f"the result of request {row.request_id!r} was kept for a time, and then dropped",
            )
        waiting = self._waiting.get(row.request_id)
        if waiting is None:
            raise Refused(
                507,
                f"request {row.request_id!r} has ended, but what came of it could not be written "
                "to the data folder",
            )
        body = {"type": "try_again", "request_id": row.request_id, "queue_state": "active"}
        if reason := self._gap(waiting) or self._starting():
            body["queue_state_reason"] = reason
        return Outcome(408, orjson.dumps(body))

    def _gap(self, waiting: _Waiting) -> str | None:
        missing = self._lanes.waits_for(waiting.lane, waiting.number) if waiting.lane else None
        return (
            None
            if missing is None
            else f"seq_id {waiting.number} waits for seq_id {missing}, which has not come"
        )

    def _starting(self) -> str | None:
        return None if self._engine_ready.done() else "waits for the engine to start"


def _never_came(number: int, missing: int) -> str:
    return (
        f"seq_id {number} was not run: it waited for seq_id {missing}, which has not come in "
        f"{MISSING_SECONDS:.0f} s. That request was "
        "lost on its way, or refused before it could be read; what is sent after it fails at "
        "once, until it comes. Go on with a new "
        "training client, from the last checkpoint"
    )


def _short(error: Exception) -> str:
    """The first line, for a client; the log has all."""
    return (str(error).splitlines() or ["no message"])[0][:300]


def _failed(error: str, category: Category) -> Ending:
    return Ending("failed", error=error, category=category)


async def _wait_for(event: asyncio.Event, timeout: float) -> None:
    """Returns when the event is set, or when it was not in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
