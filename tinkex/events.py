"""What happens between a client and its server, as values, for whoever listens: a log, a dashboard, a test.

They are listed in docs/telemetry.md; names and fields stay as they are. `tinkex.telemetry` has listeners that are ready to use.

Example:
    def show(event: events.Event) -> None:
        print(event.name, event)

    events.attach(show)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, ParamSpec, TypeAlias

from attrs import frozen

from tinkex.wait_facts import WaitFacts

logger = logging.getLogger("tinkex")
P = ParamSpec("P")


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
    """It was not answered: the connection failed, or the task was cancelled. `error` is the class of what was raised."""

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
    """Something waits for long, or has done so and is `over`. `alike` others wait in the same way, and get no event of their own."""

    name: ClassVar[str] = "wait"
    facts: WaitFacts
    alike: int = 0
    over: bool = False


@frozen(kw_only=True)
class TrainingStep:
    """A call of a training client is done: `forward_backward`, `optim_step`, `save_state`, … `error` is the class of what it raised."""

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
"""Gives the headers by which the server's trace of a request joins ours; `tinkex.telemetry.otel` sets it."""


def attach(handler: Handler, events: Iterable[str] | None = None) -> None:
    """Calls `handler(event)` for every event from now on, on the thread where it happens. It must not block.

    One that raises is detached, with a warning.

    Args:
        events: only those of these names, or whose names begin so: `http.request` stands for all three of its kind.
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
