"""`HttpServer`: uvicorn, which begins and ends when it is told to, and not at its next look at the clock."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

_GRACE = 5.0  # seconds that answers under way get when the server stops
_TICK = 0.1  # seconds; uvicorn's own, for the Date header
_LOOK = 0.005  # seconds between looks at whether the answers under way are done, of which uvicorn tells nobody


class HttpServer(uvicorn.Server):
    """uvicorn sleeps for a tenth of a second twice before it has stopped, which is most of a short test."""

    def __init__(self, app: ASGIApp, begun: Future[None], *, access_log: bool) -> None:
        """`begun` is done when it answers."""
        super().__init__(uvicorn.Config(app, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=access_log))
        self._begun = begun
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun.set_result(None)

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(_GRACE):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  there is no event for it
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
