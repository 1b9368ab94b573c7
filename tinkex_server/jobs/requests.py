"""Requests that the server has accepted, as values: by what a repeat is recognized, what they do,
and the errors by which they fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from attrs import define, field, frozen

from tinkex_server.engine.interface import EngineDied, InvalidRequest, SampleResult
from tinkex_server.jobs.saved_states import LostSteps
from tinkex_server.store import Category, Ending, FutureRow

Work = Callable[[], Awaitable[bytes]]
"""A function that returns the result in the form in which it is stored, see `protobuf.LOSSES`. It
raises `InvalidRequest` for a fault of the sender; any other error is the server's fault.
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
class RequestIdentity:
    """The values by which a request is recognized as a repeat of an earlier one."""

    scope: str
    """The id of a model, a session or a sampler: seq_ids are unique within it."""
    seq_id: int | None
    """The request's number in its scope; None for a request that cannot be repeated."""
    kind: str
    fingerprint: str
    owner: str

    def row(self, request_id: str, ending: Ending | None = None) -> FutureRow:
        """Returns the request as it is stored, without an outcome or with this one."""
        named = (request_id, self.scope, self.seq_id, self.kind, self.fingerprint, self.owner)
        if ending is None:
            return FutureRow(*named)
        return FutureRow(*named, ending.state, ending.result, ending.error, ending.category)


@define(eq=False)
class ActiveRequest:
    """A request that was accepted and has no outcome yet."""

    identity: RequestIdentity
    lane: str | None = None
    """The lane that it waits or runs in; None for work outside any lane."""
    number: int | None = None
    """The number at whose turn it runs in its lane, if it has one."""
    since: float = field(factory=time.time)
    """The time of arrival, in seconds since 1970."""
    started_at: float | None = None
    task: asyncio.Task[None] | Future[SampleResult] | None = None
    """The task to cancel when the request is cancelled."""
    over: asyncio.Event = field(factory=asyncio.Event)
    """An event that is set when the request has ended, or the server stops."""
    ending: Ending | None = None
    """Its ending, once that is stored."""


@frozen
class PendingRequest:
    """A request that has no outcome yet, for the status page."""

    identity: RequestIdentity
    since: float
    """The time of arrival, in seconds since 1970."""
    state: str
    """A text that says what the request waits for."""
    lane: str | None = None
    number: int | None = None
    """The number at whose turn it runs in its lane, if it has one."""
    started_at: float | None = None
    waits_for_missing: bool = False
    """Whether it waits for a request that has not come."""
