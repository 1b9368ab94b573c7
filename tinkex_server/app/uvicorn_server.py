"""`HttpServer`: uvicorn, which starts and stops at once rather than at its next tick."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from concurrent.futures import Future
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from tinkex_server.app.slow_peers import (
    TimedConnection,
    close_slow_connections,
    close_surplus_connections,
)

_SHUTDOWN_SECONDS = 5.0  # for the answers under way when the server stops
_TICK = 0.1  # seconds; the same as uvicorn's, which sets the Date header
_TICKS_PER_CHECK = 10  # between two checks of the connections' clocks
_NO_LIMIT = 1 << 20  # connections
# a value in a URL's query, except for the parameters of pages and polls
_VALUE = re.compile(r"((?<=[?&])(?!(?:limit|offset|timeout)=)[^=&]*)=[^&\s]+")
_SHUTDOWN_POLL = 0.005  # seconds; uvicorn has no event for the end of an answer


class HttpServer(uvicorn.Server):
    """A uvicorn server that bounds its connections and stops without delay.

    uvicorn itself sleeps twice for a tenth of a second before it stops, which is most of the time
    of a short test.
    """

    def __init__(self, app: ASGIApp, started: Future[None], *, access_log: bool) -> None:
        """Serves `app`. `started` is done when the server answers requests."""
        config = uvicorn.Config(
            app,
            http=TimedConnection,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=access_log,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.access").addFilter(_mask)
        self._most = most_connections()
        self._started_future = started
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `serve` after the answers under way."""
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started_future.set_result(None)

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            close_surplus_connections(self.server_state, self._most)
            if ticks % _TICKS_PER_CHECK == 0:
                close_slow_connections(self.server_state)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  there is no event for it
                    await asyncio.sleep(_SHUTDOWN_POLL)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()


def most_connections() -> int:
    """Returns the number of connections that may be open, so that enough files are left for the
    database, for saves and for the engine.
    """
    if os.name == "nt":  # Windows has no such limit
        return _NO_LIMIT
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NO_LIMIT if files == resource.RLIM_INFINITY else max(1, files // 2)


def _mask(record: logging.LogRecord) -> bool:
    """Hides what could be secret in a line of the access log: signatures, and all other values in a
    URL's query. Returns True, so that the line is logged.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            _VALUE.sub(r"\1=***", part) if isinstance(part, str) else part for part in record.args
        )
    return True
