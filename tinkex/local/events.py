"""Server-sent events: what a job in a worker thread tells, on its way to a client as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import orjson
from tinkex_api.models import SampleStreamEvent

_SILENCE = 10.0  # seconds; then a comment, so that nobody takes the connection for dead
_COMMENT = b": waiting\n\n"


class EventStream:
    """Events for one client. `tell` and `end` may be called in any thread; the rest on the event loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.left = False
        """Whether the client has closed the connection."""

    def tell(self, event: SampleStreamEvent) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, b"data: %s\n\n" % orjson.dumps(event.to_dict()))

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The bytes to send. When it is closed the client has left."""
        try:
            while (event := await self._next()) is not None:
                yield event
        finally:
            self.left = True

    async def _next(self) -> bytes | None:
        try:
            return await asyncio.wait_for(self._queue.get(), _SILENCE)
        except TimeoutError:
            return _COMMENT
