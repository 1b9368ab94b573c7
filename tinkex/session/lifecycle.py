"""`SessionLifecycle`: sends the heartbeats of a session, and finishes it on the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from functools import partial
from typing import Literal, Protocol

from attrs import define, field
from tinkex_api.api.sessions import finish_session, session_heartbeat
from tinkex_api.models import FinishReason, FinishSessionRequest, SessionHeartbeatRequest

from tinkex import events
from tinkex.errors import GoneError, NotFoundError, TinkexError
from tinkex.futures.unretrieved_errors import UnretrievedErrors
from tinkex.session.reporter import Reporter
from tinkex.transport.answers import parse
from tinkex.transport.failures import status_error
from tinkex.transport.transport import Transport
from tinkex.waiting.schedule import LogSchedule

logger = logging.getLogger("tinkex")

Outcome = Literal["success", "errored", "interrupted"]
_HEARTBEAT_TIMEOUT = 10.0  # seconds
_WARN_AFTER = 120.0  # seconds without a successful heartbeat
_NOT_CLOSED = "the client was dropped without being closed"
_LOOP_ENDED = "the client's event loop ended before the client was closed"


class SessionPart(Protocol):
    """An object that a higher layer keeps in a session. It is closed before the session ends."""

    def __init__(self, transport: Transport, /) -> None: ...

    async def close(self) -> None: ...


@define(eq=False)
class SessionLifecycle:
    """The start, heartbeats and end of one session. For one event loop.

    It holds no reference to the user's objects, so that it can finish the session when they are
    garbage-collected.
    """

    transport: Transport
    session_id: str
    parts: Mapping[type[SessionPart], SessionPart]
    failures: UnretrievedErrors
    lost: bool = False
    """Whether the server answered that it no longer knows the session, or has finished it."""
    _heartbeats: asyncio.Task[None] | None = field(init=False, default=None)
    _reporter: Reporter | None = field(init=False, default=None)

    def begin(self) -> None:
        """Starts the heartbeats, and the telemetry if it is enabled."""
        self._heartbeats = asyncio.create_task(self._run_heartbeats(), name="tinkex heartbeats")
        events.emit(events.Session, session_id=self.session_id, state="begun")
        transport = self.transport
        if transport.config.sends_telemetry and not transport.server.dialect.lacks(
            "send_telemetry"
        ):
            self._reporter = Reporter(transport, self.session_id)
            self._reporter.begin()

    async def finish(self, outcome: Outcome, detail: str | None = None) -> bool:
        """Stops the heartbeats, and finishes the session on the server, unless it is lost.

        Args:
            outcome: how the program ended.
            detail: the name of the error that ended it.

        Returns:
            False if the server has no call for this.
        """
        if outcome == "success":
            self.failures.log_unfinished()
        else:
            self.failures.forget_begun()
        self.failures.log_all()
        for part in list(self.parts.values()):  # a client may be made meanwhile, with another part
            await part.close()
        if self._heartbeats is None:
            return True
        await self._stop_heartbeats()
        events.emit(events.Session, session_id=self.session_id, state=outcome)
        if self._reporter is not None:
            await self._reporter.finish(detail if outcome == "errored" else None)
        return self.lost or await self._finish_on_server(outcome, detail)

    def finish_later(self) -> None:
        """Schedules `finish` for a session that was not closed. Safe from any thread."""
        self.transport.schedule_shut_down(partial(self.finish, "interrupted", _NOT_CLOSED))

    async def is_lost(self) -> bool:
        """Asks the server, and returns whether it has lost the session; False if it does not
        tell.
        """
        if not self.lost:
            try:
                await self._send_heartbeat()
            except TinkexError as error:
                self._note_failure(error)
        if self.lost:
            await self._stop_heartbeats()
        return self.lost

    def _note_failure(self, error: TinkexError) -> None:
        """Marks the session as lost after a heartbeat that was answered 404 or 410."""
        if isinstance(error, (GoneError, NotFoundError)):
            self.lost = True
            if self._reporter is not None:  # the session in its place has one of its own
                self._reporter.stop_listening()
            events.emit(events.Session, session_id=self.session_id, state="lost")
            logger.warning("session %s is lost: %s", self.session_id, error.message)
            self.transport.server.forget_repeats()

    async def _stop_heartbeats(self) -> None:
        if self._heartbeats is None:
            return
        heartbeats, self._heartbeats = self._heartbeats, None
        heartbeats.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await heartbeats

    async def _finish_on_server(self, outcome: Outcome, detail: str | None) -> bool:
        if self.transport.server.dialect.lacks("finish_session"):
            return False
        body = FinishSessionRequest(FinishReason(outcome), detail)
        try:
            response = await self.transport.send_once(
                finish_session.request(self.session_id, body=body), timeout=_HEARTBEAT_TIMEOUT
            )
        except TinkexError as error:
            logger.info("could not finish session %s on the server: %s", self.session_id, error)
            return True
        logger.debug("session %s finished: %s %d", self.session_id, outcome, response.status_code)
        return response.status_code not in (404, 405)

    async def _run_heartbeats(self) -> None:
        try:
            await self._send_heartbeats()
        except asyncio.CancelledError:
            if self._heartbeats is not None:  # it was not `finish` that cancelled it
                self.failures.log_unfinished()
                await self._finish_on_server("interrupted", _LOOP_ENDED)
                await self.transport.aclose()
            raise

    async def _send_heartbeats(self) -> None:
        clock, last, lines = (
            self.transport.clock,
            self.transport.clock.now(),
            LogSchedule(_WARN_AFTER),
        )
        while not self.lost:
            await clock.sleep(self.transport.config.heartbeat_interval)
            try:
                await self._send_heartbeat()
            except TinkexError as error:
                self._note_failure(error)
                if not self.lost and lines.due(clock.now() - last):
                    logger.warning(
                        "no heartbeat has succeeded for %.0f s: %s", clock.now() - last, error
                    )
            else:
                last, lines = clock.now(), LogSchedule(_WARN_AFTER)

    async def _send_heartbeat(self) -> None:
        request = session_heartbeat.request(body=SessionHeartbeatRequest(self.session_id))
        response = await self.transport.send_once(request, timeout=_HEARTBEAT_TIMEOUT)
        if not response.is_success:
            raise status_error(response, request.operation)
        parse(request, response)  # raises for a web page with status 200
