"""`attach_logger`: a handler that logs each event as one line."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from attrs import fields

from tinkex.events import Event, Handler, attach

logger = logging.getLogger("tinkex.telemetry")


def attach_logger(level: int = logging.INFO, events: Iterable[str] | None = None) -> Handler:
    """Attaches a handler that logs one line for every event to the logger `tinkex.telemetry`.

    It returns the handler, which `detach` accepts.

    Args:
        level: the level of the log records.
        events: names of the events to log; by default all events.
    """

    def log(event: Event) -> None:
        logger.log(level, "%s", _line(event))

    attach(log, events)
    return log


def _line(event: Event) -> str:
    return " ".join(
        (event.name, *(f"{a.name}={_text(getattr(event, a.name))}" for a in fields(type(event))))
    )


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
