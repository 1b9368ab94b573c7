"""What happens between a client and its server, as values, for whoever listens: a log, a dashboard, a test.

Example:
    def show(event: events.Event) -> None:
        print(event.name, event)

    events.attach(show)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar, ParamSpec, TypeAlias

from attrs import frozen

from tinkex.wait_facts import WaitFacts

logger = logging.getLogger("tinkex")
P = ParamSpec("P")


@frozen(kw_only=True)
class HttpRequest:
    """One HTTP request has ended. `status` is None where no answer came."""

    name: ClassVar[str] = "http.request"
    operation: str
    status: int | None
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


Event: TypeAlias = HttpRequest | Retry | QueueStateChange | Wait
Handler: TypeAlias = Callable[[Event], object]

_handlers: tuple[Handler, ...] = ()


def attach(handler: Handler) -> None:
    """Calls `handler(event)` for every event from now on, on the thread where it happens. It must not block.

    One that raises is detached, with a warning.
    """
    global _handlers
    _handlers = (*_handlers, handler)


def detach(handler: Handler) -> None:
    """Calls it no more; one that is not attached is ignored."""
    global _handlers
    _handlers = tuple(other for other in _handlers if other != handler)


def emit(kind: Callable[P, Event], *args: P.args, **kwargs: P.kwargs) -> None:
    """Makes an event and hands it to all who listen; makes none when nobody does."""
    if not _handlers:
        return
    event = kind(*args, **kwargs)
    for handler in _handlers:
        try:
            handler(event)
        except Exception:
            logger.warning("a handler of events raised, and is detached: %r", handler, exc_info=True)
            detach(handler)
