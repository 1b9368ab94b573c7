"""`Canceller`: cancels samples on the server in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress

from attrs import define, field
from tinkex_api.api.futures import cancel_future
from tinkex_api.models import FutureCancelRequest

from tinkex.errors import TinkexError
from tinkex.transport.transport import Transport

logger = logging.getLogger("tinkex")

_TIMEOUT = 10.0  # seconds for one call
_CLOSE_TIMEOUT = 2.0  # seconds for all that are left when the client is closed


@define(eq=False)
class Canceller:
    """The sender of cancellations, as many at once as the server allows. For one event loop.

    Its task is started before there is anything to send: a task that is started while the event
    loop ends would never run.
    """

    _transport: Transport
    _pending: deque[str] = field(factory=lambda: deque[str]())
    _has_pending: asyncio.Event = field(factory=asyncio.Event)
    _idle: asyncio.Event = field(factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._idle.set()
            self._task = asyncio.create_task(self._run(), name="tinkex cancellations")

    def cancel(self, request_id: str) -> None:
        """Cancels a request on the server soon; does nothing when the server cannot be reached."""
        if self._task is not None and not self._task.done():
            self._pending.append(request_id)
            self._idle.clear()
            self._has_pending.set()

    async def close(self) -> None:
        """Sends the cancellations that are left, within a short time, and ends the task."""
        if self._task is None:
            return
        task, self._task = self._task, None
        if not task.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _CLOSE_TIMEOUT)
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            while self._pending:
                at_once = min(len(self._pending), self._transport.server.dialect.cancels_at_once)
                calls = (self._send(self._pending.popleft()) for _ in range(at_once))
                await asyncio.gather(
                    *(asyncio.create_task(call, name="tinkex cancellation") for call in calls)
                )
            self._idle.set()

    async def _send(self, request_id: str) -> None:
        request = cancel_future.request(body=FutureCancelRequest(request_id))
        try:
            response = await self._transport.send_once(request, timeout=_TIMEOUT)
        except TinkexError as error:
            logger.debug("request %s could not be cancelled on the server: %s", request_id, error)
        else:
            logger.debug("request %s cancelled: status %d", request_id, response.status_code)
