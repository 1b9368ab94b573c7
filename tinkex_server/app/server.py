"""`Server`: the handle to a server that runs in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

from tinkex_server.app.expiry import sweep
from tinkex_server.app.listening import url_of
from tinkex_server.app.server_thread import ServerThread, Settings
from tinkex_server.data_dir.sizes import sizes_of
from tinkex_server.engine.interface import Engine, ModelInfo
from tinkex_server.store import Store

logger = logging.getLogger("tinkex.local")


class Server:
    """A running server, made by `serve`. Leaving it as a context manager stops it."""

    base_url: str
    models: Sequence[ModelInfo]
    """The base models."""
    data_dir: Path
    ready: Future[str]
    """A future that is done when the engine has started. Its result says what computes (device and
    dtype); its exception is the `EngineDied` that says why the engine cannot start.
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
        self.base_url = url_of(listener)
        with ExitStack() as resources:  # `close` ends them, from the last to the first
            self.data_dir = _open_data_dir(data_dir, resources)
            store = resources.enter_context(closing(Store(self.data_dir / "tinkex.db")))
            self._thread = ServerThread(listener, engine, store, self.data_dir, settings)
            if settings.owns_engine:
                resources.callback(engine.close)
            self._thread.start()
            resources.callback(self._thread.stop)
            if settings.owns_engine:
                resources.callback(_close_if_starting, engine)
            self._thread.wait_until_started()
            self._state = self._thread.state
            self._resources = resources.pop_all()

    def wait(self) -> None:
        """Returns when the server has stopped."""
        self._thread.wait()

    def close(self) -> None:
        """Stops the server. A second call does nothing.

        Polls are answered 503, calls of the engine that are under way end, and threads are joined.
        """
        self._resources.close()

    def sweep(self, now: float | None = None) -> None:
        """Removes at once what has expired by `now`, in seconds since 1970, which the server also
        does from time to time.
        """
        asyncio.run_coroutine_threadsafe(
            sweep(self._state, time.time() if now is None else now), self._thread.loop
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


def _open_data_dir(data_dir: Path | str | None, resources: ExitStack) -> Path:
    """Returns the data folder. None stands for a temporary one, which `resources` removes."""
    folder = data_dir or resources.enter_context(tempfile.TemporaryDirectory(prefix="tinkex-"))
    path = Path(folder).absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if logger.isEnabledFor(logging.INFO):  # to sum the sizes takes a stat of each file
        logger.info("data folder %s: %s", path, sizes_of(path))
    return path


def _close_if_starting(engine: Engine) -> None:
    """Closes an engine that is still starting, so that the server need not wait for calls that wait
    for the engine.
    """
    if not engine.ready.done():
        engine.close()
