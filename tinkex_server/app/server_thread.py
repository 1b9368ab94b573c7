"""`ServerThread`: the thread that an embedded server runs on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from starlette.types import ASGIApp

from tinkex_server.app.app import make_app
from tinkex_server.app.faults import FaultInjector, Faults
from tinkex_server.app.http_thread import HttpThread
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


class ServerThread(HttpThread):
    """A thread that runs one embedded server until `stop` is called."""

    state: ServerState
    """The state of the server, once it has started."""

    def __init__(
        self,
        listener: socket.socket,
        engine: Engine,
        store: Store,
        data_dir: Path,
        settings: Settings,
    ) -> None:
        super().__init__("tinkex-server", listener, access_log=settings.access_log)
        self._engine = engine
        self._store = store
        self._data_dir = data_dir
        self._settings = settings

    def _make_app(self) -> ASGIApp:
        self.state = _open_state(self._engine, self._store, self._data_dir, self._settings)
        return _make_app(self.state, self._settings)

    def _states(self) -> Sequence[ServerState]:
        return [self.state]

    def _answer_polls(self) -> None:
        self.state.futures.stop()

    async def _close(self) -> None:
        await self.state.lanes.close()


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
