"""`Reporter`: sends telemetry to the server, if `Config.telemetry` enables it.

It never blocks other work, and never raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import uuid
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from attrs import asdict, define, field
from tinkex_api.api.server import send_telemetry
from tinkex_api.models import TelemetryEvent, TelemetryEventEventData, TelemetrySendRequest

from tinkex import events
from tinkex._version import __version__
from tinkex.errors import TinkexError
from tinkex.transport.transport import Transport

logger = logging.getLogger("tinkex")

_PROCESS = str(uuid.uuid4())
_BATCH = 100  # events per request
_MAX_WAITING = 10_000  # events that wait to be sent; the oldest ones are dropped beyond that
_INTERVAL = 10.0  # seconds between requests
_TIMEOUT = 5.0  # seconds per request
_SHUTDOWN_TIMEOUT = 5.0  # seconds for the remaining events when the session ends

Severity = Literal["INFO", "ERROR"]


@define(eq=False)
class Reporter:
    """The telemetry of one session, sent in batches.

    It consists of names, numbers and ids: no headers, keys, data or error messages.
    """

    transport: Transport
    session_id: str
    _waiting: deque[TelemetryEvent] = field(
        init=False, factory=lambda: deque[TelemetryEvent](maxlen=_MAX_WAITING)
    )
    _count: int = field(init=False, default=0)
    _began: float = field(init=False)
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    _unwanted: bool = field(init=False, default=False)
    """Whether the server answered that it takes no telemetry."""

    def __attrs_post_init__(self) -> None:
        self._began = self.transport.clock.now()

    def begin(self) -> None:
        """Starts to listen to the transport's events, and to send them."""
        self._add("SESSION_START")
        self.transport.listeners.append(self.record)
        self._task = asyncio.create_task(self._send_periodically(), name="tinkex telemetry")

    def record(self, event: events.Event) -> None:
        """Adds an event of this client, if it is one of those that are sent."""
        if isinstance(event, (events.TrainingStep, events.SamplingDone)):
            facts: Mapping[str, Any] = asdict(event)
            severity: Severity = "ERROR" if event.error else "INFO"
            self._add(
                "GENERIC_EVENT",
                severity,
                event_name=event.name,
                event_data=TelemetryEventEventData.from_dict(facts),
            )

    def stop_listening(self) -> None:
        """Takes no more events of this client. A second call does nothing."""
        if self.record in self.transport.listeners:
            self.transport.listeners.remove(self.record)

    async def finish(self, error_type: str | None) -> None:
        """Sends the remaining events, and the end of the session.

        Args:
            error_type: the class of the exception that ended the program, if one did.
        """
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.stop_listening()
        if error_type is not None:
            self._add("UNHANDLED_EXCEPTION", "ERROR", error_type=error_type, error_message="")
        self._add(
            "SESSION_END", duration=str(timedelta(seconds=self.transport.clock.now() - self._began))
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                while self._waiting and await self._send():
                    pass

    def _add(self, kind: str, severity: Severity = "INFO", **facts: Any) -> None:
        if not self._unwanted:
            now = datetime.now(UTC).isoformat()
            self._waiting.append(
                TelemetryEvent(
                    kind, self.transport.clock.new_id(), self._count, severity, now, **facts
                )
            )
            self._count += 1

    async def _send_periodically(self) -> None:
        while not self._unwanted:
            await self.transport.clock.sleep(_INTERVAL)
            while self._waiting and await self._send():
                pass

    async def _send(self) -> bool:
        """Sends one batch, and returns whether the server took it. A failed one is dropped."""
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        body = TelemetrySendRequest(
            batch, platform.system(), __version__, self.session_id, _PROCESS
        )
        try:
            response = await self.transport.send_once(
                send_telemetry.request(body=body), timeout=_TIMEOUT
            )
        except TinkexError as error:
            logger.debug("could not send telemetry: %s", error)
            return False
        if response.status_code in (404, 405):
            self._unwanted = True
            self._waiting.clear()
        return response.is_success
