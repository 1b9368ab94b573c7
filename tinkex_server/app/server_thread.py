"""`ServerThread`: the thread and the event loop that a server runs on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from attrs import frozen
from starlette.types import ASGIApp

from tinkex_server.app.app import make_app
from tinkex_server.app.event_loop import run_on_fast_loop
from tinkex_server.app.expiry import sweep_regularly
from tinkex_server.app.faults import FaultInjector, Faults
from tinkex_server.app.uvicorn_server import HttpServer
from tinkex_server.engine.interface import Engine
from tinkex_server.limits import Limits
from tinkex_server.profiles import Profile
from tinkex_server.state import ServerState, open_state
from tinkex_server.store import Store


@frozen
class Settings:
    """The settings of a server, as `serve` was given them."""

    api_keys: Sequence[str]
    profile: Profile
    limits: Limits
    exchange_keys: bool
    faults: Faults | None
    access_log: bool
    names: Sequence[str]
    """The names that clients may use beside localhost, where the server asks for no API key."""
    owns_engine: bool
    """Whether the engine was made for this server, and is closed with it."""


class ServerThread:
    """A thread that runs one server until `stop` is called."""

    loop: asyncio.AbstractEventLoop
    """The event loop of the thread, once the server has started."""

    def __init__(
        self,
        listener: socket.socket,
        engine: Engine,
        store: Store,
        data_dir: Path,
        settings: Settings,
    ) -> None:
        self._listener = listener
        self._engine = engine
        self._store = store
        self._data_dir = data_dir
        self._settings = settings
        self._started: Future[None] = Future()
        self._stop_requested: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: run_on_fast_loop(self._run()),
            name="tinkex-server",
            daemon=True,  # a script that forgets to close the server still ends
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wait_until_started(self) -> ServerState:
        """Returns when the server answers requests. Raises the error that kept it from starting."""
        self._started.result()
        return self._state

    def is_alive(self) -> bool:
        """Returns whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stops the server, and returns when its thread has ended."""
        if not self._stop_requested.done():
            self._stop_requested.set_result(None)
        self._thread.join()

    async def _run(self) -> None:
        try:
            await self._serve()
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._state = _open_state(self._engine, self._store, self._data_dir, self._settings)
        app = _make_app(self._state, self._settings)
        server = HttpServer(app, self._started, access_log=self._settings.access_log)
        stopping = asyncio.create_task(self._stop_on_request(server))
        sweeping = asyncio.create_task(sweep_regularly(lambda: [self._state]))
        await server.serve(sockets=[self._listener])
        stopping.cancel()
        sweeping.cancel()
        await self._state.lanes.close()

    async def _stop_on_request(self, server: HttpServer) -> None:
        await asyncio.wrap_future(self._stop_requested)
        self._state.futures.stop()
        server.stop()


def _open_state(engine: Engine, store: Store, data_dir: Path, settings: Settings) -> ServerState:
    return open_state(
        engine,
        store,
        data_dir,
        hold=settings.profile.hold,
        ids=settings.profile.ids,
        seq_ids=settings.profile.seq_ids,
        limits=settings.limits,
        exchange_keys=settings.exchange_keys,
    )


def _make_app(state: ServerState, settings: Settings) -> ASGIApp:
    app = make_app(state, settings.api_keys, settings.profile, settings.names)
    return FaultInjector(app, settings.faults) if settings.faults else app
