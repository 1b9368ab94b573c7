"""`Futures`: runs each accepted request once, in its lane, keeps its outcome, and wakes the polls
that wait for it.
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
from tinkex_server.jobs.saved_states import LostSteps
from tinkex_server.loop_calls import call_on_loop
from tinkex_server.store import Category, EndedFuture, Ending, FutureRow, Store, StoreWriteError

logger = logging.getLogger("tinkex.local")

Work = Callable[[], Awaitable[bytes]]
"""A function that returns the result in the form in which it is stored, see `protobuf.LOSSES`. It
raises `InvalidRequest` for a fault of the sender; any other error is the server's fault.
"""

MISSING_SECONDS = 600.0
"""Seconds that a request waits for a missing seq_id before its own: twice as long as clients try to
send a request.
"""


class OutOfTurn(InvalidRequest):
    """The request's seq_id is not the model's next."""


class WorkFailed(RuntimeError):
    """The failure of a request, with a text for its sender and the side that caused it."""

    def __init__(self, message: str, category: Category) -> None:
        super().__init__(message)
        self.category: Category = category


class StepsLost(EngineDied):
    """The request failed because steps of its model were lost. Its client knows of them once a poll
    was answered with this failure.
    """

    def __init__(self, lost_steps: LostSteps) -> None:
        super().__init__(lost_steps.message)
        self.lost_steps = lost_steps


@frozen
class PollAnswer:
    """The answer to a poll."""

    status: int
    body: bytes
    """The JSON of a failure or of "not yet"; of a result, the form in which it is stored."""
    result_of: str | None = None
    """The kind of request whose result this is, if it is a result."""
    media_type: str = "application/json"


@frozen
class RequestIdentity:
    """The values by which a request is recognized as a repeat of an earlier one."""

    scope: str
    """The id of a model, a session or a sampler: seq_ids are unique within it."""
    seq_id: int | None
    """The request's number in its scope; None for a request that cannot be repeated."""
    kind: str
    fingerprint: str
    owner: str


@frozen
class PendingRequest:
    """A request that has no outcome yet, for the status page."""

    identity: RequestIdentity
    since: float
    """The time of arrival, in seconds since 1970."""
    state: str
    """A text that says what the request waits for."""


@define(eq=False)
class _ActiveRequest:
    identity: RequestIdentity
    lane: str | None
    number: int | None
    since: float = field(factory=time.time)
    started_at: float | None = None
    over: asyncio.Event = field(factory=asyncio.Event)  # set when it has ended or the server stops
    task: asyncio.Task[None] | Future[SampleResult] | None = None
    """The task to cancel when the request is cancelled."""


@define(eq=False)
class _EndedLog:
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


class Futures:
    """All futures of a server. To be used on the event loop's thread."""

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
        self._hold = hold  # seconds that a poll waits
        self._ids = ids
        self._conflict_status = conflict_status
        self._most_pending = most_pending
        self._engine_ready = engine_ready
        self._active: dict[str, _ActiveRequest] = {}  # by request id
        self._logs: dict[str, _EndedLog] = {}  # by scope, once somebody has asked for it
        self._gaps: dict[str, int] = {}  # by lane, the number that did not come in time
        # by request id
        self._lost_steps: WeakValueDictionary[str, LostSteps] = WeakValueDictionary()
        self._stopping = asyncio.Event()

    def find_repeated(self, identity: RequestIdentity) -> str | None:
        """Returns the request id of an earlier request with this identity, or None.

        Raises `Refused` when the number was used for a different request.
        """
        if identity.seq_id is None:
            return None
        row = self._store.futures.by_number(identity.scope, identity.seq_id)
        if row is None:
            return None
        if (row.kind, row.fingerprint) != (identity.kind, identity.fingerprint):
            text = (
                f"number {identity.seq_id} of {identity.scope} was already used for a different "
                f"{row.kind} request"
            )
            raise Refused(self._conflict_status, text)
        return row.request_id

    def submit(
        self, identity: RequestIdentity, work: Work, *, lane: str, number: int | None
    ) -> str:
        """Queues work in a lane, for the turn of its number; returns the request id.

        Raises `Refused` (429) when too many requests are pending, unless others of the lane wait
        for this number.
        """
        if not self._lanes.is_awaited(lane, number):
            self.check_capacity()
        request_id = self._accept(_ActiveRequest(identity, lane, number))
        self._lanes.put(lane, number, Job(request_id, lambda: self._run(request_id, work)))
        if (missing := self._lanes.waits_for(lane, number)) is not None:
            self._watch_gap(
                request_id, missing, 0.0 if self._gaps.get(lane) == missing else MISSING_SECONDS
            )
        return request_id

    def _watch_gap(self, request_id: str, missing: int, seconds: float) -> None:
        """Fails the request if it still waits for that number after so many seconds."""
        asyncio.get_running_loop().call_later(seconds, self._end_gap, request_id, missing)

    def _end_gap(self, request_id: str, missing: int) -> None:
        request = self._active.get(request_id)
        if request is None or request.lane is None or request.number is None:
            return
        now_missing = self._lanes.waits_for(request.lane, request.number)
        if now_missing is None:
            return
        if now_missing != missing:
            self._watch_gap(request_id, now_missing, MISSING_SECONDS)
            return
        self._gaps[request.lane] = missing
        self._lanes.give_up(request.lane, request.number)
        self._end(request_id, _failed(_never_came(request.number, missing), "user"))

    def start(self, identity: RequestIdentity, work: Work) -> str:
        """Starts work at once, outside any lane; returns the request id. Such work can be cancelled
        while it runs.

        Raises `Refused` (429) when too many requests are pending.
        """
        self.check_capacity()
        request = _ActiveRequest(identity, None, None)
        request_id = self._accept(request)
        request.task = asyncio.get_running_loop().create_task(self._run(request_id, work))
        return request_id

    def follow(self, identity: RequestIdentity, sample: Future[SampleResult]) -> None:
        """Counts a streamed sample as pending until it ends; the sample is cancelled when the
        server stops.
        """
        request_id, loop = self._ids.new_request(), asyncio.get_running_loop()
        self._active[request_id] = _ActiveRequest(
            identity, None, None, started_at=time.time(), task=sample
        )

        def forget(_: Future[SampleResult]) -> None:  # called on a thread of the engine
            call_on_loop(loop, self._active.pop, request_id, None)

        sample.add_done_callback(forget)
        if self._stopping.is_set():
            sample.cancel()

    def check_capacity(self) -> None:
        """Raises `Refused` (429) when too many requests are pending."""
        if len(self._active) >= self._most_pending:
            text = (
                f"the server has {len(self._active)} pending requests, as many as it accepts; send "
                "this one again later"
            )
            raise Refused(429, text, retry_after=1)

    def _accept(self, request: _ActiveRequest) -> str:
        request_id, identity = self._ids.new_request(), request.identity
        row = FutureRow(
            request_id,
            identity.scope,
            identity.seq_id,
            identity.kind,
            identity.fingerprint,
            identity.owner,
        )
        self._store.futures.add(row, request.since)
        self._active[request_id] = request
        return request_id

    async def wait(
        self, request_id: str, access: Access, *, hold: float | None = None
    ) -> PollAnswer:
        """Returns the outcome as soon as it is known, or "not yet" after `hold` seconds (by
        default the server's).

        Raises `Refused` for an id unknown to the caller.
        """
        request = self._active.get(request_id)
        if request and access.sees(request.identity.owner) and not self._stopping.is_set():
            await _wait_for(request.over, self._hold if hold is None else hold)
        row = self._visible(request_id, access)
        if row.state == "pending" and self._stopping.is_set():
            raise Refused(503, "the server is stopping")
        if lost_steps := self._lost_steps.get(request_id):
            lost_steps.note_told(time.monotonic())
        return self._answer(row)

    async def wait_for_any(
        self, scope: str, numbers: range, after: int, timeout: float | None
    ) -> tuple[int, Sequence[EndedFuture]]:
        """Waits for requests of a scope with these numbers that end after position `after` in the
        order of ending.

        Returns the last position, to be passed as `after` the next time, and the requests; none
        when the wait timed out.
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

    def pending(self, access: Access) -> Sequence[PendingRequest]:
        """Returns the caller's requests without an outcome, in order of arrival."""
        return [
            PendingRequest(request.identity, request.since, self._state(request))
            for request in self._active.values()
            if access.sees(request.identity.owner)
        ]

    def _state(self, request: _ActiveRequest) -> str:
        if request.started_at is not None:
            return self._starting() or "runs"
        return self._gap(request) or "waits for earlier requests of its model"

    def _log(self, scope: str) -> _EndedLog:
        if scope not in self._logs:
            self._logs[scope] = _EndedLog(self._store.futures.ended(scope))
        return self._logs[scope]

    async def wait_without_result(self) -> None:
        """Waits as long as a poll whose result does not come, or until the server stops."""
        await _wait_for(self._stopping, self._hold)

    def _visible(self, request_id: str, access: Access) -> FutureRow:
        row = self._store.futures.get(request_id)
        if row is None or not access.sees(row.owner):
            raise not_found(f"unknown request {request_id!r}")
        return row

    def cancel(self, request_id: str, access: Access) -> None:
        """Cancels a sample, or a request that has not begun. Any other request runs to its end."""
        self._visible(request_id, access)
        request = self._active.get(request_id)
        if request and (request.task or request.started_at is None):
            self._end(request_id, _failed("cancelled", "user"))
            if request.task:
                request.task.cancel()

    def fail_early(self, lane: str, reason: str) -> None:
        """Fails the requests of a lane that wait for a missing number, as no more will come."""
        self._gaps.pop(lane, None)
        for job in self._lanes.drop_early(lane):
            if job.request_id in self._active:
                self._end(job.request_id, _failed(reason, "user"))

    def forget_ended(self, scope: str) -> None:
        """Frees the memory kept for bulk polls of a scope."""
        self._logs.pop(scope, None)

    def fail_waiting(self, lane: str, error: EngineDied) -> bool:
        """Fails the requests of a lane that have not begun, as the server's fault.

        Returns whether the lane has any pending request, begun or not.
        """
        here = [
            (request_id, request)
            for request_id, request in self._active.items()
            if request.lane == lane
        ]
        for request_id, request in here:
            if request.started_at is None:
                self._end(request_id, self._died(request_id, error))
        return bool(here)

    def stop(self) -> None:
        """Answers all polls now, and cancels the samples and streams under way."""
        self._stopping.set()
        for log in self._logs.values():
            log.wake()
        for request in self._active.values():
            request.over.set()
            if request.task:
                request.task.cancel()

    async def _run(self, request_id: str, work: Work) -> None:
        request = self._active.get(request_id)
        if request is None:  # cancelled
            return
        request.started_at = time.time()
        try:
            ending = Ending("done", await work())
        except OutOfTurn as error:
            ending = _failed(str(error), "order")
        except InvalidRequest as error:
            ending = _failed(str(error), "user")
        except WorkFailed as error:
            ending = _failed(str(error), error.category)
        except EngineDied as error:
            ending = self._died(request_id, error)
        except Exception as error:
            kind, scope = request.identity.kind, request.identity.scope
            logger.exception("%s of %s failed (request %s)", kind, scope, request_id)
            ending = _failed(
                f"{kind} failed in the server: {type(error).__name__}: {_short(error)}", "server"
            )
        self._end(request_id, ending)

    def _died(self, request_id: str, error: EngineDied) -> Ending:
        if isinstance(error, StepsLost):
            self._lost_steps[request_id] = error.lost_steps
        return _failed(str(error), "server")

    def _end(self, request_id: str, ending: Ending) -> None:
        request = self._active.pop(request_id)
        # the store has logged it, and `_answer` tells the polls
        with suppress(StoreWriteError):
            self._store.futures.end(request_id, ending, request.started_at, time.time())
        request.over.set()
        if log := self._logs.get(request.identity.scope):
            log.add(
                EndedFuture(
                    request_id, request.identity.seq_id, ending.state, len(ending.result or b"")
                )
            )

    def _answer(self, row: FutureRow) -> PollAnswer:
        if row.state == "done":
            return PollAnswer(200, row.result or b"{}", result_of=row.kind)
        if row.state == "failed":
            failure: dict[str, object] = {"error": row.error, "category": row.category}
            if lost_steps := self._lost_steps.get(row.request_id):
                failure["state_loss"] = lost_steps.number
            return PollAnswer(200, orjson.dumps(failure))
        if row.state == "expired":
            raise Refused(
                410,
                f"the result of request {row.request_id!r} has expired: the server no longer "
                "keeps it",
            )
        request = self._active.get(row.request_id)
        if request is None:
            raise Refused(
                507,
                f"request {row.request_id!r} has ended, but its result could not be written to "
                "the data folder of the server",
            )
        body = {"type": "try_again", "request_id": row.request_id, "queue_state": "active"}
        if reason := self._gap(request) or self._starting():
            body["queue_state_reason"] = reason
        return PollAnswer(408, orjson.dumps(body))

    def _gap(self, request: _ActiveRequest) -> str | None:
        missing = self._lanes.waits_for(request.lane, request.number) if request.lane else None
        return (
            None
            if missing is None
            else f"seq_id {request.number} waits for seq_id {missing}, which has not come"
        )

    def _starting(self) -> str | None:
        return None if self._engine_ready.done() else "waits for the engine to start"


def _never_came(number: int, missing: int) -> str:
    return (
        f"seq_id {number} was not run: it waited for seq_id {missing}, which did not arrive within "
        f"{MISSING_SECONDS:.0f} s. That request was lost on its way, or refused before it could be "
        "read. Until it arrives, later requests fail at once. Continue with a new training client, "
        "from the last checkpoint"
    )


def _short(error: Exception) -> str:
    """Returns the first line, for the client; the log has the whole text."""
    return (str(error).splitlines() or ["no message"])[0][:300]


def _failed(error: str, category: Category) -> Ending:
    return Ending("failed", error=error, category=category)


async def _wait_for(event: asyncio.Event, timeout: float) -> None:
    """Waits until the event is set, or for `timeout` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
