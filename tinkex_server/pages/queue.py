"""The requests that wait, with whose turn it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.jobs.requests import PendingRequest
from tinkex_server.pages.names import Subject, subject_of
from tinkex_server.state import CommonState


@frozen
class QueuedRequest:
    """A request without an outcome, with what it waits for."""

    kind: str
    subject: Subject
    seq_id: int | None
    since: float
    """The time of arrival, or of the begin if it runs."""
    is_running: bool
    turn: str


@frozen
class Queue:
    """The first pending requests, those that run before the others, and the number of all."""

    requests: Sequence[QueuedRequest]
    total: int
    running: int


def queue(state: CommonState, access: Access, most: int, scope: str | None = None) -> Queue:
    """Returns the pending requests that a caller may see, of one scope or of all."""
    pending = [
        request
        for request in state.futures.pending(access)
        if scope in (None, request.identity.scope)
    ]
    turns = _turns(pending)
    running = sum(request.started_at is not None for request in pending)
    pending.sort(key=lambda request: (request.started_at is None, turns[id(request)][0]))
    shown = [
        QueuedRequest(
            request.identity.kind,
            subject_of(state, request.identity.scope),
            request.identity.seq_id,
            request.started_at or request.since,
            request.started_at is not None,
            turns[id(request)][1],
        )
        for request in pending[:most]
    ]
    return Queue(shown, len(pending), running)


def _turns(pending: Sequence[PendingRequest]) -> Mapping[int, tuple[int, str]]:
    """Returns the place of each request in the order of its lane, and that place in words."""
    lanes: defaultdict[str | None, list[PendingRequest]] = defaultdict(list)
    for request in pending:
        lanes[request.lane].append(request)
    turns: dict[int, tuple[int, str]] = {}
    for lane in lanes.values():
        waiting = 0
        for request in sorted(lane, key=lambda one: (one.number is None, one.number or 0)):
            if request.started_at is not None:
                turns[id(request)] = 0, request.state
            elif request.waits_for_missing:
                turns[id(request)] = len(pending), request.state
            else:
                waiting += 1
                turns[id(request)] = waiting, _in_words(waiting)
    return turns


def _in_words(place: int) -> str:
    if place == 1:
        return "next"
    return f"{place - 1} before it"
