"""`Canceller`: tells the server of samples that nobody wants any more, and makes nobody wait for
that.
"""

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
_LAST_WORDS = 2.0  # seconds for those that are left when the client is closed


@define(eq=False)
class Canceller:
    """Sends cancellations, so many at once as the server allows. For one event loop.

    Its task is begun before there is anything to send: one that began while the event loop ends
    would be left behind.
    """

    _transport: Transport
    _given_up: deque[str] = field(factory=lambda: deque[str]())
    _wanted: asyncio.Event = field(factory=asyncio.Event)
    _idle: asyncio.Event = field(factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._task is None:
            self._idle.set()
            self._task = asyncio.create_task(self._run(), name="tinkex cancellations")

    def cancel(self, request_id: str) -> None:
        """Has the server told, soon; one that cannot be reached is not told."""
        if self._task is not None and not self._task.done():
            self._given_up.append(request_id)
            self._idle.clear()
            self._wanted.set()

    async def close(self) -> None:
        """Sends what is left, in a short time, and ends."""
        if self._task is None:
            return
        task, self._task = self._task, None
        if not task.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _LAST_WORDS)
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._given_up:
                at_once = min(len(self._given_up), self._transport.server.dialect.cancels_at_once)
                calls = (self._tell(self._given_up.popleft()) for _ in range(at_once))
                await asyncio.gather(
                    *(asyncio.create_task(call, name="tinkex cancellation") for call in calls)
                )
            self._idle.set()

    async def _tell(self, request_id: str) -> None:
        request = cancel_future.request(body=FutureCancelRequest(request_id))
        try:
            response = await self._transport.send_once(request, timeout=_TIMEOUT)
        except TinkexError as error:
            logger.debug(
                "the server was not told that %s is not wanted any more: %s", request_id, error
            )
        else:
            logger.debug("request %s cancelled: %d", request_id, response.status_code)
