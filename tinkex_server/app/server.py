"""`Server`: the handle to a server that runs in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen
from starlette.types import ASGIApp

from tinkex_server.app.app import make_app
from tinkex_server.app.event_loop import run_on_fast_loop
from tinkex_server.app.expiry import keep_sweeping, sweep
from tinkex_server.app.faults import Faults, Faulty
from tinkex_server.app.uvicorn_server import HttpServer
from tinkex_server.data_dir.sizes import sizes_of
from tinkex_server.engine.interface import Engine, ModelInfo
from tinkex_server.limits import Limits
from tinkex_server.profiles import Profile
from tinkex_server.state import ServerState, open_state
from tinkex_server.store import Store

logger = logging.getLogger("tinkex.local")


@frozen
class Settings:
    """What `serve` was told of how to serve."""

    api_keys: Sequence[str]
    profile: Profile
    limits: Limits
    exchange_keys: bool
    faults: Faults | None
    access_log: bool
    names: Sequence[str]
    """What it may be called by where no key is asked for, beside localhost."""
    owns_engine: bool
    """Whether it was made for this server, and ends with it."""

    def app(self, state: ServerState) -> ASGIApp:
        app = make_app(state, self.api_keys, self.profile, self.names)
        return Faulty(app, self.faults) if self.faults else app

    def state(self, engine: Engine, store: Store, data_dir: Path) -> ServerState:
        return open_state(
            engine,
            store,
            data_dir,
            hold=self.profile.hold,
            ids=self.profile.ids,
            seq_ids=self.profile.seq_ids,
            limits=self.limits,
            exchange_keys=self.exchange_keys,
        )


class Server:
    """A server that runs in a thread of this process. Made by `serve`."""

    base_url: str
    models: Sequence[ModelInfo]
    data_dir: Path
    ready: Future[str]
    """Done when the engine has started, with what computes; `EngineDied` says what keeps it from
    that.
    """

    def __init__(
        self,
        listener: socket.socket,
        engine: Engine,
        data_dir: Path | str | None,
        settings: Settings,
    ) -> None:
        self.models = engine.base_models
        self.ready = engine.ready
        self.base_url = _url(listener)
        with ExitStack() as resources:
            self.data_dir = Path(
                data_dir or resources.enter_context(tempfile.TemporaryDirectory(prefix="tinkex-"))
            ).absolute()
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            logger.info("data folder %s takes %s", self.data_dir, sizes_of(self.data_dir))
            store = resources.enter_context(closing(Store(self.data_dir / "tinkex.db")))
            self._stop_requested: Future[None] = Future()
            self._thread = threading.Thread(
                target=lambda: run_on_fast_loop(self._run(listener, engine, store, settings)),
                name="tinkex-server",
                daemon=True,  # a script that forgets to close it still ends
            )
            self._started: Future[None] = Future()
            if settings.owns_engine:
                resources.callback(engine.close)
            self._thread.start()
            resources.callback(self._join)
            if settings.owns_engine:
                resources.callback(self._give_up_start, engine)
            self._started.result()
            self._resources = resources.pop_all()

    def wait(self) -> None:
        """Returns when the server has stopped."""
        while self._thread.is_alive():
            # short, so that a signal is seen on every platform; a join that it interrupts takes the
            # thread for ended
            time.sleep(0.5)

    def close(self) -> None:
        """Stops: polls are answered 503, engine calls under way end, threads are joined. Again does
        nothing.
        """
        self._resources.close()

    def sweep(self, now: float | None = None) -> None:
        """Removes what is past its time at `now`, in seconds since 1970, without waiting for it to
        be done in the background.
        """
        asyncio.run_coroutine_threadsafe(
            sweep(self._state, time.time() if now is None else now), self._loop
        ).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.base_url} {', '.join(model.name for model in self.models)}>"

    def _give_up_start(self, engine: Engine) -> None:
        """Calls under way are waited for; not so when they have to wait for the engine to start."""
        if not engine.ready.done():
            engine.close()

    def _join(self) -> None:
        if not self._stop_requested.done():
            self._stop_requested.set_result(None)
        self._thread.join()

    async def _run(
        self, listener: socket.socket, engine: Engine, store: Store, settings: Settings
    ) -> None:
        try:
            state = settings.state(engine, store, self.data_dir)
            server = HttpServer(settings.app(state), self._started, access_log=settings.access_log)
            stopping = asyncio.create_task(self._stop(server, state))
            self._state, self._loop = state, asyncio.get_running_loop()
            sweeping = asyncio.create_task(keep_sweeping(state))
            await server.serve(sockets=[listener])
            stopping.cancel()
            sweeping.cancel()
            await state.lanes.close()
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _stop(self, server: HttpServer, state: ServerState) -> None:
        await asyncio.wrap_future(self._stop_requested)
        state.futures.stop()
        server.stop()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
