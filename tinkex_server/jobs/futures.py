"""`Futures`: runs each accepted request once, in its lane, keeps its outcome, and wakes the polls
that wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary

from tinkex_server.access.ownership import Access
from tinkex_server.engine.interface import EngineDied, SampleResult
from tinkex_server.errors import Reason, Refused
from tinkex_server.ids import Ids
from tinkex_server.jobs.ended_requests import EndedRequests, wait_for
from tinkex_server.jobs.endings import failed, failed_by
from tinkex_server.jobs.lanes import Job, Lanes
from tinkex_server.jobs.missing_seq_ids import MissingSeqIds
from tinkex_server.jobs.poll_answers import PollAnswer, UnknownRequest, not_yet, outcome
from tinkex_server.jobs.requests import (
    ActiveRequest,
    PendingRequest,
    RequestIdentity,
    StepsLost,
    Work,
)
from tinkex_server.jobs.saved_states import LostSteps
from tinkex_server.loop_calls import call_on_loop
from tinkex_server.store import EndedFuture, Ending, FutureRow, Store, StoreWriteError


class Futures:
    """All futures of a server. To be used on the event loop's thread."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        hold: float,
        ids: Ids,
        conflict: Reason,
        most_pending: int,
        engine_ready: Future[str],
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._hold = hold  # seconds that a poll waits
        self._ids = ids
        self._conflict = conflict
        self._most_pending = most_pending
        self._engine_ready = engine_ready
        self._active: dict[str, ActiveRequest] = {}  # by request id
        self._ended = EndedRequests(store)
        self._missing = MissingSeqIds(lanes)
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
            raise Refused(self._conflict, text)
        return row.request_id

    def submit(
        self, identity: RequestIdentity, work: Work, *, lane: str, number: int | None
    ) -> str:
        """Queues work in a lane, for the turn of its number; returns the request id.

        Raises `Refused` when too many requests are pending, unless others of the lane wait
        for this number.
        """
        if not self._lanes.is_awaited(lane, number):
            self.check_capacity()
        request = ActiveRequest(identity, lane, number)
        request_id = self._accept(request)
        self._lanes.put(lane, number, Job(request_id, partial(self._run, request_id, work)))
        self._missing.watch(request, partial(self._fail, request_id))
        return request_id

    def adopt(self, row: FutureRow, work: Work) -> None:
        """Starts the rest of the work of a request that an earlier process accepted."""
        identity = RequestIdentity(row.scope, row.seq_id, row.kind, row.fingerprint, row.owner)
        request = self._active[row.request_id] = ActiveRequest(identity, None, None)
        request.task = asyncio.get_running_loop().create_task(self._run(row.request_id, work))

    def start(self, identity: RequestIdentity, work: Work) -> str:
        """Starts work at once, outside any lane; returns the request id. Such work can be cancelled
        while it runs.

        Raises `Refused` when too many requests are pending.
        """
        self.check_capacity()
        request = ActiveRequest(identity)
        request_id = self._accept(request)
        request.task = asyncio.get_running_loop().create_task(self._run(request_id, work))
        return request_id

    def follow(self, identity: RequestIdentity, sample: Future[SampleResult]) -> None:
        """Counts a streamed sample as pending until it ends; the sample is cancelled when the
        server stops.
        """
        request_id, loop = self._ids.new_request(), asyncio.get_running_loop()
        self._active[request_id] = ActiveRequest(identity, started_at=time.time(), task=sample)

        def forget(_: Future[SampleResult]) -> None:  # called on a thread of the engine
            call_on_loop(loop, self._active.pop, request_id, None)

        sample.add_done_callback(forget)
        if self._stopping.is_set():
            sample.cancel()

    def check_capacity(self) -> None:
        """Raises `Refused` when too many requests are pending."""
        if len(self._active) >= self._most_pending:
            text = (
                f"the server has {len(self._active)} pending requests, as many as it accepts; send "
                "this one again later"
            )
            raise Refused(Reason.TOO_MANY_PENDING, text, retry_after=1)

    def _accept(self, request: ActiveRequest) -> str:
        request_id, identity = self._ids.new_request(), request.identity
        self._store.futures.add(identity.row(request_id), request.since)
        self._active[request_id] = request
        return request_id

    async def wait(
        self, request_id: str, access: Access, *, hold: float | None = None
    ) -> PollAnswer:
        """Returns the outcome as soon as it is known, or "not yet" after `hold` seconds (by
        default the server's).

        Raises `UnknownRequest` for an id unknown to the caller, and `Refused` for an outcome that
        is not kept, or when the server stops.
        """
        request = self._active.get(request_id)
        if request and not access.sees(request.identity.owner):
            request = None
        if request and not self._stopping.is_set():
            await wait_for(request.over, self._hold if hold is None else hold)
        if request and request.ending:
            row = request.identity.row(request_id, request.ending)
        else:
            row = self._visible(request_id, access)
        if row.state == "pending" and self._stopping.is_set():
            raise Refused(Reason.UNAVAILABLE, "the server is stopping")
        lost_steps = self._lost_steps.get(request_id)
        if lost_steps:
            lost_steps.note_told(time.monotonic())
        if row.state == "pending" and (request := self._active.get(request_id)):
            return not_yet(request_id, self._missing.reason(request) or self._starting())
        return outcome(row, lost_steps)

    async def wait_for_any(
        self, scope: str, numbers: range, after: int, timeout: float | None
    ) -> tuple[int, Sequence[EndedFuture]]:
        """Waits for requests of a scope; see `EndedRequests.wait`. A `timeout` beyond the time that
        the server holds polls is cut to it.
        """
        seconds = self._hold if timeout is None else min(self._hold, timeout)
        return await self._ended.wait(scope, numbers, after, seconds)

    async def wait_without_result(self) -> None:
        """Waits as long as a poll whose result does not come, or until the server stops."""
        await wait_for(self._stopping, self._hold)

    @property
    def activity(self) -> tuple[int, int]:
        """A value that changes whenever a request comes, begins or ends."""
        started = sum(request.started_at is not None for request in self._active.values())
        return len(self._active), started

    async def stopping_within(self, seconds: float) -> bool:
        """Returns whether the server stops, as soon as it does, or after this time."""
        await wait_for(self._stopping, seconds)
        return self._stopping.is_set()

    def is_pending(self, request_id: str) -> bool:
        """Returns whether the request has no outcome yet."""
        return request_id in self._active

    def pending(self, access: Access) -> Sequence[PendingRequest]:
        """Returns the caller's requests without an outcome, in order of arrival."""
        return [
            PendingRequest(
                request.identity,
                request.since,
                self._state(request),
                request.lane,
                request.number,
                request.started_at,
                self._missing.reason(request) is not None,
            )
            for request in self._active.values()
            if access.sees(request.identity.owner)
        ]

    def _visible(self, request_id: str, access: Access) -> FutureRow:
        row = self._store.futures.get(request_id)
        if row is None or not access.sees(row.owner):
            raise UnknownRequest(request_id)
        return row

    def _state(self, request: ActiveRequest) -> str:
        if request.started_at is not None:
            return self._starting() or "runs"
        return self._missing.reason(request) or "waits for earlier requests of its model"

    def _starting(self) -> str | None:
        return None if self._engine_ready.done() else "waits for the engine to start"

    def cancel(self, request_id: str, access: Access) -> None:
        """Cancels a sample, or a request that has not begun. Any other request runs to its end."""
        self._visible(request_id, access)
        request = self._active.get(request_id)
        if request and (request.task or request.started_at is None):
            self._fail(request_id, "cancelled")
            if request.task:
                request.task.cancel()

    def fail_early(self, lane: str, reason: str) -> None:
        """Fails the requests of a lane that wait for a missing number, as no more will come."""
        self._missing.forget(lane)
        for job in self._lanes.drop_early(lane):
            if job.request_id in self._active:
                self._fail(job.request_id, reason)

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
                self._end_by(request_id, error)
        return bool(here)

    def forget_ended(self, scope: str) -> None:
        """Frees the memory kept for bulk polls of a scope."""
        self._ended.forget(scope)

    def stop(self) -> None:
        """Answers all polls now, and cancels the samples and streams under way."""
        self._stopping.set()
        self._ended.stop()
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
            result = await work()
        except Exception as error:  # noqa: BLE001  whatever it is, the client is told
            self._end_by(request_id, error)
        else:
            self._end(request_id, Ending("done", result))

    def _fail(self, request_id: str, reason: str) -> None:
        """Ends a request that cannot run, for a reason that lies with its sender."""
        self._end(request_id, failed(reason, "user"))

    def _end_by(self, request_id: str, error: Exception) -> None:
        """Ends a request that failed with this error."""
        if isinstance(error, StepsLost):
            self._lost_steps[request_id] = error.lost_steps
        self._end(request_id, failed_by(error, self._active[request_id].identity, request_id))

    def _end(self, request_id: str, ending: Ending) -> None:
        request = self._active.pop(request_id)
        # the store has logged it, and `wait` tells the polls
        with suppress(StoreWriteError):
            self._store.futures.end(request_id, ending, request.started_at, time.time())
            request.ending = ending
        request.over.set()
        self._ended.add(request.identity, request_id, ending)
