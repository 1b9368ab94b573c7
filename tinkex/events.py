"""What happens between a client and its server, as values, for whoever listens: a log, a dashboard,
a test.

They are listed in docs/telemetry.md; names and fields stay as they are. `tinkex.telemetry` has
listeners that are ready to use.

Example:
    def show(event: events.Event) -> None:
        print(event.name, event)

    events.attach(show)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, ParamSpec, TypeAlias, TypeVar

from attrs import field, frozen

logger = logging.getLogger("tinkex")
P = ParamSpec("P")
T = TypeVar("T")

Owner = Literal["program", "turn", "network", "queue", "computation"]
"""Who owns a wait: this program, whose event loop did not run; an earlier call of the same client;
the network, or a server that fails or says nothing; the server's queue; the computation.
"""

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
    """The facts of a wait, as it stands; `str()` is the sentence that logs and errors show."""

    operation: str
    request_id: str | None = None
    awaited: str = "its result"
    age: float = 0.0
    """Seconds."""
    owner: Owner = "computation"
    """The owner of the wait now."""
    activity: str = ""
    """What happens now, in words."""
    seconds: Mapping[Owner, float] = field(factory=dict[Owner, float])
    """How long each owner had it, in seconds."""
    queue_state: str | None = None
    queue_state_reason: str | None = None
    last_status: int | None = None
    """The HTTP status of the server's last answer; None while there is none."""
    tries: int = 0
    """HTTP requests that were sent for it."""
    stalled_by: str | None = None
    """The line of this program that held up the event loop longest, while this waited."""

    @property
    def main_owner(self) -> Owner:
        """The owner of the longest share of the wait."""
        split: dict[Owner, float] = {self.owner: 0.0, **self.seconds}
        return max(split, key=lambda owner: split[owner])

    @property
    def whose(self) -> Owner:
        """The old name of `owner`."""
        return _renamed("whose", "owner", self.owner)

    @property
    def mostly(self) -> Owner:
        """The old name of `main_owner`."""
        return _renamed("mostly", "main_owner", self.main_owner)

    @property
    def what(self) -> str:
        """The old name of `activity`."""
        return _renamed("what", "activity", self.activity)

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return (
            f"{self.operation}{request} has waited {self.age:.0f} s for {self.awaited}: "
            f"{'; '.join(self._clauses())}"
        )

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
            f"{_NAMES[self.owner]}{f', {self.activity}' if self.activity else ''}",
            *([f"queue_state {self.queue_state}{reason}"] if self.queue_state else []),
            f"last HTTP status {self.last_status or 'none'}, try {self.tries}",
            *(
                [f"the event loop of this program stood still for {program:.0f} s{stall}"]
                if program >= _WORTH_SAYING
                else []
            ),
            *([f"so far {', '.join(split)}"] if len(split) > 1 else []),
        ]


def _renamed(old: str, new: str, value: T) -> T:
    """Returns the value of a field that is asked for by its old name, and warns of that."""
    warnings.warn(
        f"WaitFacts.{old} is now {new}; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
    return value


@frozen(kw_only=True)
class HttpRequestStart:
    """One HTTP request is about to be sent."""

    name: ClassVar[str] = "http.request.start"
    operation: str


@frozen(kw_only=True)
class HttpRequestStop:
    """It was answered."""

    name: ClassVar[str] = "http.request.stop"
    operation: str
    status: int
    seconds: float


@frozen(kw_only=True)
class HttpRequestException:
    """It was not answered: the connection failed, or the task was cancelled. `error` is the class
    of what was raised.
    """

    name: ClassVar[str] = "http.request.exception"
    operation: str
    error: str
    seconds: float


@frozen(kw_only=True)
class Retry:
    """A request has failed and is to be sent again in `pause` seconds."""

    name: ClassVar[str] = "retry"
    operation: str
    attempt: int
    pause: float
    reason: str


@frozen(kw_only=True)
class QueueStateChange:
    """The server says that a request waits in another way than before."""

    name: ClassVar[str] = "queue.state_change"
    operation: str
    request_id: str | None
    queue_state: str | None
    reason: str | None


@frozen(kw_only=True)
class Wait:
    """Something waits for long, or has done so and is `over`. `alike` others wait in the same way,
    and get no event of their own.
    """

    name: ClassVar[str] = "wait"
    facts: WaitFacts
    alike: int = 0
    over: bool = False


@frozen(kw_only=True)
class TrainingStep:
    """A call of a training client is done: `forward_backward`, `optim_step`, `save_state`, …
    `error` is the class of what it raised.
    """

    name: ClassVar[str] = "training.step"
    operation: str
    request_id: str | None
    seconds: float
    error: str | None


@frozen(kw_only=True)
class SamplingDone:
    """A sample is there, of `sequences` with `tokens` in all, or has failed."""

    name: ClassVar[str] = "sampling.done"
    request_id: str | None
    sequences: int
    tokens: int
    seconds: float
    error: str | None


SessionState = Literal["begun", "lost", "success", "errored", "interrupted"]


@frozen(kw_only=True)
class Session:
    """A session has begun, was lost by the server, or has ended in this way."""

    name: ClassVar[str] = "session"
    session_id: str
    state: SessionState


Event: TypeAlias = (
    HttpRequestStart
    | HttpRequestStop
    | HttpRequestException
    | Retry
    | QueueStateChange
    | Wait
    | TrainingStep
    | SamplingDone
    | Session
)
Handler: TypeAlias = Callable[[Event], object]

_listeners: tuple[tuple[Handler, tuple[str, ...] | None], ...] = ()

trace_headers: Callable[[], Mapping[str, str]] | None = None
"""Gives the headers by which the server's trace of a request joins ours; `tinkex.telemetry.otel`
sets it.
"""


def attach(handler: Handler, events: Iterable[str] | None = None) -> None:
    """Calls `handler(event)` for every event from now on, on the thread where it happens. It must
    not block.

    One that raises is detached, with a warning.

    Args:
        events: only those of these names, or whose names begin so: `http.request` stands for all
            three of its kind.
    """
    global _listeners
    _listeners = (*_listeners, (handler, None if events is None else tuple(events)))


def detach(handler: Handler) -> None:
    """Calls it no more; one that is not attached is ignored."""
    global _listeners
    _listeners = tuple(listener for listener in _listeners if listener[0] != handler)


def emit(kind: Callable[P, Event], *args: P.args, **kwargs: P.kwargs) -> None:
    """Makes an event and hands it to all who listen; makes none when nobody does."""
    if _listeners:
        publish(kind(*args, **kwargs))


def publish(event: Event) -> None:
    """Hands an event to all who listen."""
    for handler, names in _listeners:
        if names is not None and not any(
            event.name == name or event.name.startswith(f"{name}.") for name in names
        ):
            continue
        try:
            handler(event)
        except Exception:
            logger.warning(
                "a handler of events raised, and is detached: %r", handler, exc_info=True
            )
            detach(handler)
