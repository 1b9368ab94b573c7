"""`HttpServer`: uvicorn, which begins and ends when it is told to, and not at its next look at the
clock.
"""

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

_GRACE = 5.0  # seconds that answers under way get when the server stops
_TICK = 0.1  # seconds; uvicorn's own, for the Date header
_CLOCK = 10  # ticks between looks at the peers' clocks
_NO_LIMIT = 1 << 20  # connections
# of a query, but for what pages are asked by
_VALUE = re.compile(r"((?<=[?&])(?!(?:limit|offset|timeout)=)[^=&]*)=[^&\s]+")
# seconds between looks at whether the answers under way are done, of which uvicorn tells nobody
_LOOK = 0.005


class HttpServer(uvicorn.Server):
    """uvicorn sleeps for a tenth of a second twice before it has stopped, which is most of a short
    test.
    """

    def __init__(self, app: ASGIApp, begun: Future[None], *, access_log: bool) -> None:
        """`begun` is done when it answers."""
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
            close_surplus_connections(self.server_state, self._most)
            if ticks % _CLOCK == 0:
                close_slow_connections(self.server_state)
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


def most_connections() -> int:
    """How many can be open, so that files are left for the database, for saves and for the
    engine.
    """
    if os.name == "nt":  # which has no such limit
        return _NO_LIMIT
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _NO_LIMIT if files == resource.RLIM_INFINITY else max(1, files // 2)


def _mask(record: logging.LogRecord) -> bool:
    """Takes what could be a secret out of a line of the access log: signatures, and whatever else
    stands in a URL's query.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            _VALUE.sub(r"\1=***", part) if isinstance(part, str) else part for part in record.args
        )
    return True
