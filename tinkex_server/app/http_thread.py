"""`HttpThread`: the thread and the event loop that an HTTP server runs on."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from starlette.types import ASGIApp

from tinkex_server.app.event_loop import run_on_fast_loop
from tinkex_server.app.expiry import sweep_regularly
from tinkex_server.app.uvicorn_server import HttpServer
from tinkex_server.lasting_pool import LastingPool
from tinkex_server.state import CommonState


class HttpThread(ABC):
    """A thread that runs one HTTP server until `stop` is called. A derived class says what it
    serves.
    """

    loop: asyncio.AbstractEventLoop
    """The event loop of the thread, once the server has started."""

    def __init__(self, name: str, listener: socket.socket, *, access_log: bool) -> None:
        self._listener = listener
        self._access_log = access_log
        self._started: Future[None] = Future()
        self._stop_requested: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: run_on_fast_loop(self._run()),
            name=name,
            daemon=True,  # a script that forgets to close the server still ends
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wait_until_started(self) -> None:
        """Returns when the server answers requests. Raises the error that kept it from starting."""
        self._started.result()

    def wait(self) -> None:
        """Returns when the thread has ended."""
        while self._thread.is_alive():
            # A short sleep, so that signals are handled on every platform. A join that a signal
            # interrupts would take the thread for ended.
            time.sleep(0.5)

    def stop(self) -> None:
        """Stops the server, and returns when its thread has ended. A second call does nothing."""
        if not self._stop_requested.done():
            self._stop_requested.set_result(None)
        self._thread.join()

    @abstractmethod
    def _make_app(self) -> ASGIApp:
        """Makes the application. It is called on the event loop, before any request."""

    @abstractmethod
    def _states(self) -> Sequence[CommonState]:
        """Returns the states of the application, whose expired content is removed regularly."""

    @abstractmethod
    def _answer_polls(self) -> None:
        """Answers all polls at once, since the server is about to stop."""

    @abstractmethod
    async def _close(self) -> None:
        """Ends what the application has under way, after the last request."""

    async def _run(self) -> None:
        try:
            await self._serve()
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_default_executor(LastingPool(thread_name_prefix="tinkex-server"))
        server = HttpServer(self._make_app(), self._started, access_log=self._access_log)
        stopping = asyncio.create_task(self._stop_on_request(server))
        sweeping = asyncio.create_task(sweep_regularly(self._states))
        await server.serve(sockets=[self._listener])
        stopping.cancel()
        sweeping.cancel()
        await self._close()

    async def _stop_on_request(self, server: HttpServer) -> None:
        await asyncio.wrap_future(self._stop_requested)
        self._answer_polls()
        server.stop()
