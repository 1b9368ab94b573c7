"""Events: values that describe what happens between a client and its server.

A program attaches handlers to them, for example for a log, a dashboard or a test.
docs/telemetry.md lists all events; their names and fields are stable. `tinkex.telemetry` has
handlers that are ready to use.

Example:
    def show(event: events.Event) -> None:
        print(event.name, event)

    events.attach(show)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, ParamSpec, TypeAlias

from attrs import field, frozen

from tinkex.renamed import warn_renamed

logger = logging.getLogger("tinkex")
P = ParamSpec("P")

Owner = Literal["program", "turn", "network", "queue", "computation"]
"""The cause of a wait.

`program`: the event loop of this program did not run. `turn`: an earlier call of the same client
has not ended. `network`: the network, or a server that fails or does not answer. `queue`: the queue
of the server. `computation`: the computation itself.
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
    """The state of a wait. `str()` is the sentence that logs and errors show.

    Example:
        try:
            trainer.forward_backward(data, "cross_entropy").result()
        except TinkexError as error:
            if error.wait is not None:
                print(error.wait.age, error.wait.main_owner)
    """

    operation: str
    request_id: str | None = None
    awaited: str = "its result"
    age: float = 0.0
    """The duration of the wait so far, in seconds."""
    owner: Owner = "computation"
    """The present cause of the wait."""
    activity: str = ""
    """A description of what happens now."""
    seconds: Mapping[Owner, float] = field(factory=dict[Owner, float])
    """The seconds that each cause has taken."""
    queue_state: str | None = None
    queue_state_reason: str | None = None
    last_status: int | None = None
    """The HTTP status of the server's last answer; None before the first answer."""
    tries: int = 0
    """The number of HTTP requests sent for the call."""
    stalled_by: str | None = None
    """The line of this program that blocked the event loop longest during the wait."""

    @property
    def main_owner(self) -> Owner:
        """The cause that has taken the most seconds."""
        split: dict[Owner, float] = {self.owner: 0.0, **self.seconds}
        return max(split, key=lambda owner: split[owner])

    @property
    def whose(self) -> Owner:
        """The old name of `owner`."""
        warn_renamed("WaitFacts.whose", "owner")
        return self.owner

    @property
    def mostly(self) -> Owner:
        """The old name of `main_owner`."""
        warn_renamed("WaitFacts.mostly", "main_owner")
        return self.main_owner

    @property
    def what(self) -> str:
        """The old name of `activity`."""
        warn_renamed("WaitFacts.what", "activity")
        return self.activity

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
        stall = f" by {self.stalled_by}" if self.stalled_by else ""
        reason = f" ({self.queue_state_reason})" if self.queue_state_reason else ""
        program = self.seconds.get("program", 0.0)
        return [
            f"{_NAMES[self.owner]}{f', {self.activity}' if self.activity else ''}",
            *([f"queue_state {self.queue_state}{reason}"] if self.queue_state else []),
            f"last HTTP status {self.last_status or 'none'}, try {self.tries}",
            *(
                [f"the event loop of this program was blocked for {program:.0f} s{stall}"]
                if program >= _WORTH_SAYING
                else []
            ),
            *([f"so far {', '.join(split)}"] if len(split) > 1 else []),
        ]


@frozen(kw_only=True)
class HttpRequestStart:
    """An HTTP request that is about to be sent."""

    name: ClassVar[str] = "http.request.start"
    operation: str


@frozen(kw_only=True)
class HttpRequestStop:
    """An HTTP request that was answered."""

    name: ClassVar[str] = "http.request.stop"
    operation: str
    status: int
    seconds: float


@frozen(kw_only=True)
class HttpRequestException:
    """An HTTP request without an answer: the connection failed, or the task was cancelled.

    `error` is the name of the exception's class.
    """

    name: ClassVar[str] = "http.request.exception"
    operation: str
    error: str
    seconds: float


@frozen(kw_only=True)
class Retry:
    """A failed request that will be sent again in `pause` seconds."""

    name: ClassVar[str] = "retry"
    operation: str
    attempt: int
    pause: float
    reason: str


@frozen(kw_only=True)
class QueueStateChange:
    """A change of the queue state of a request, as the server reports it."""

    name: ClassVar[str] = "queue.state_change"
    operation: str
    request_id: str | None
    queue_state: str | None
    reason: str | None


@frozen(kw_only=True)
class Wait:
    """A call that waits long, or a long wait that is `over`.

    `alike` is the number of other calls that wait for the same reason and get no event of their
    own.
    """

    name: ClassVar[str] = "wait"
    facts: WaitFacts
    alike: int = 0
    over: bool = False


@frozen(kw_only=True)
class TrainingStep:
    """A call of a training client that has ended: `forward_backward`, `optim_step`, `save_state`, …

    `error` is the name of the class of the exception it raised, or None.
    """

    name: ClassVar[str] = "training.step"
    operation: str
    request_id: str | None
    seconds: float
    error: str | None


@frozen(kw_only=True)
class SamplingDone:
    """A sampling call that has ended, with the number of its sequences and of all their tokens."""

    name: ClassVar[str] = "sampling.done"
    request_id: str | None
    sequences: int
    tokens: int
    seconds: float
    error: str | None


SessionState = Literal["begun", "lost", "success", "errored", "interrupted"]


@frozen(kw_only=True)
class Session:
    """A session that has begun, was lost by the server, or has ended."""

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
_changing = threading.RLock()  # guards changes; a signal handler may make one within another

trace_headers: Callable[[], Mapping[str, str]] | None = None
"""A function that returns the trace headers of a request, which join the spans of the server to
those of the client; `tinkex.telemetry.otel` sets it.
"""


def attach(handler: Handler, events: Iterable[str] | None = None) -> None:
    """Registers a handler, which is called for every event in the thread where the event happens.

    The handler must not block. A handler that raises is detached, with a warning in the log.

    Args:
        handler: a function of the event.
        events: names of the events to handle, or prefixes of names: `http.request` stands for all
            three events of HTTP requests. By default all events.
    """
    global _listeners
    names = None if events is None else tuple(events)
    with _changing:
        _listeners = (*_listeners, (handler, names))


def detach(handler: Handler) -> None:
    """Unregisters a handler. Does nothing for a handler that is not attached."""
    global _listeners
    with _changing:
        _listeners = tuple(listener for listener in _listeners if listener[0] != handler)


def emit(kind: Callable[P, Event], *args: P.args, **kwargs: P.kwargs) -> None:
    """Creates an event and publishes it. Creates nothing if no handler is attached."""
    if _listeners:
        publish(kind(*args, **kwargs))


def publish(event: Event) -> None:
    """Calls every handler that is attached for the event."""
    for handler, names in _listeners:
        if names is not None and not any(
            event.name == name or event.name.startswith(f"{name}.") for name in names
        ):
            continue
        try:
            handler(event)
        except Exception:
            logger.warning(
                "an event handler raised an exception and is now detached: %r",
                handler,
                exc_info=True,
            )
            detach(handler)
