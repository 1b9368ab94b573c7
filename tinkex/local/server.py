"""`serve`: starts the server in a background thread of this process; `Server` is the handle to it."""

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
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from attrs import evolve, frozen
from starlette.types import ASGIApp

from tinkex.local.app import make_app
from tinkex.local.backend import Backend
from tinkex.local.disk import sizes_of
from tinkex.local.engine.base import BaseModel, Engine
from tinkex.local.engine.named import EngineName, named_engine
from tinkex.local.expiry import keep_sweeping, sweep
from tinkex.local.fast_loop import run_on_fast_loop
from tinkex.local.faults import Faults, Faulty
from tinkex.local.keys import Exposed
from tinkex.local.limits import Limits
from tinkex.local.profiles import TINKEX, Profile, find_profile
from tinkex.local.profiles.engine import with_warped_logprobs
from tinkex.local.store import Store

logger = logging.getLogger("tinkex.local")

_GRACE = 5  # seconds that answers under way get when the server stops


def serve(
    model: str | Sequence[str] = "tinkex/tiny",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    data_dir: Path | str | None = None,
    api_key: str | Sequence[str] = (),
    engine: EngineName | Engine = "torch",
    device: str | None = None,
    dtype: str | None = None,
    hold: float | None = None,
    profile: str | Profile = TINKEX,
    limits: Limits | None = None,
    exchange_keys: bool = False,
    faults: Faults | None = None,
    access_log: bool = False,
) -> Server:
    """A running server, which answers by the time this returns. Leave it as a context manager, or call `close`.

    Example:
        with tinkex.local.serve() as server:
            client = tinkex.ServiceClient(base_url=server.base_url)

    Args:
        model: base models, each by a shipped name, a transformers folder, or a hub id.
        host, port: where to listen; port 0 takes a free one.
        data_dir: where the database and the checkpoints are kept; by default a temporary folder, removed at the end.
        api_key: what clients must send as X-API-Key, or several such keys, each of which sees its own sessions and what was made in
            them, and what others published. By default anything is accepted, and all see all.
        engine: what trains and samples. "torch" does so in a process of its own; "fake" answers at once, by arithmetic, which is enough
            to test a client; an object is used as it is, in this process, and stays open when the server ends.
        device: where torch computes: "cpu", "cuda" or "mps"; by default the best that is there.
        dtype: the base models' precision, "float32" or "bfloat16"; by default what suits the device.
        hold: seconds that a poll waits for a result before it is answered "not yet"; by default the profile's.
        profile: the kind of Tinker server to look like on the wire, by a name in `tinkex.local.profiles.PROFILES` or as a value.
        limits: how much it takes on, and how long it keeps what nobody asks for.
        exchange_keys: tell clients to send, in the place of their key, a token that it is exchanged for and that holds for an hour.
        faults: what goes wrong on purpose, to test clients.
        access_log: log every request, to the logger `uvicorn.access`.

    Raises:
        UnknownProfile: there is no such profile.
        ImportError: the extra `local`, or torch, is not installed.
        InvalidRequest: a model cannot be loaded.
        EngineDied: the engine's process ended before it was ready.
        OSError: the address cannot be listened on, or the data folder not written.
        StoreError: the data folder is of another release.
        Exposed: others than this machine could reach it, and no key is asked for.
        BadKeys: a key could not be sent as a header, or there are several with a profile.
    """
    profile = find_profile(profile) if isinstance(profile, str) else profile
    if hold is not None:
        profile = evolve(profile, hold=hold)
    api_keys = [api_key] if isinstance(api_key, str) else list(api_key)
    listener = _listen(host, port, guarded=bool(api_keys))
    with ExitStack() as on_failure:
        on_failure.callback(listener.close)
        owns_engine = isinstance(engine, str)
        if isinstance(engine, str):
            engine = named_engine(engine, [model] if isinstance(model, str) else list(model), device, dtype)
            on_failure.callback(engine.close)
        if profile.sampling.warped_logprobs:
            engine = with_warped_logprobs(engine)
        settings = _Settings(api_keys, profile, limits or Limits(), exchange_keys, faults, access_log, owns_engine)
        server = Server(listener, engine, data_dir, settings)
        on_failure.pop_all()
    return server


@frozen
class _Settings:
    """What `serve` was told of how to serve."""

    api_keys: Sequence[str]
    profile: Profile
    limits: Limits
    exchange_keys: bool
    faults: Faults | None
    access_log: bool
    owns_engine: bool
    """Whether it was made for this server, and ends with it."""

    def app(self, backend: Backend) -> ASGIApp:
        app = make_app(backend, self.api_keys, self.profile)
        return Faulty(app, self.faults) if self.faults else app

    def backend(self, engine: Engine, store: Store, data_dir: Path) -> Backend:
        return Backend(
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
    models: Sequence[BaseModel]
    data_dir: Path

    def __init__(self, listener: socket.socket, engine: Engine, data_dir: Path | str | None, settings: _Settings) -> None:
        self.models = engine.base_models
        self.base_url = _url(listener)
        with ExitStack() as resources:
            self.data_dir = Path(data_dir or resources.enter_context(tempfile.TemporaryDirectory(prefix="tinkex-"))).absolute()
            self.data_dir.mkdir(parents=True, exist_ok=True)
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
            self._started.result()
            self._resources = resources.pop_all()

    def wait(self) -> None:
        """Returns when the server has stopped."""
        while self._thread.is_alive():
            # short, so that a signal is seen on every platform; a join that it interrupts takes the thread for ended
            time.sleep(0.5)

    def close(self) -> None:
        """Stops: polls are answered 503, engine calls under way end, threads are joined. Again does nothing."""
        self._resources.close()

    def sweep(self, now: float | None = None) -> None:
        """Removes what is past its time at `now`, in seconds since 1970, without waiting for it to be done in the background."""
        asyncio.run_coroutine_threadsafe(sweep(self._backend, time.time() if now is None else now), self._loop).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.base_url} {', '.join(model.name for model in self.models)}>"

    def _join(self) -> None:
        if not self._stop_requested.done():
            self._stop_requested.set_result(None)
        self._thread.join()

    async def _run(self, listener: socket.socket, engine: Engine, store: Store, settings: _Settings) -> None:
        try:
            backend = settings.backend(engine, store, self.data_dir)
            config = uvicorn.Config(
                settings.app(backend),
                interface="asgi3",
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=settings.access_log,
                timeout_graceful_shutdown=_GRACE,
            )
            server = _Uvicorn(config, self._started)
            stopping = asyncio.create_task(self._stop(server, backend))
            self._backend, self._loop = backend, asyncio.get_running_loop()
            sweeping = asyncio.create_task(keep_sweeping(backend))
            await server.serve(sockets=[listener])
            stopping.cancel()
            sweeping.cancel()
            await backend.close()
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _stop(self, server: uvicorn.Server, backend: Backend) -> None:
        await asyncio.wrap_future(self._stop_requested)
        backend.stop()
        server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Says when it has begun to answer."""

    def __init__(self, config: uvicorn.Config, begun: Future[None]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun.set_result(None)


def _listen(host: str, port: int, *, guarded: bool) -> socket.socket:
    """A bound socket: what is wrong with the address shows here, in the caller's thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # by its protocol asyncio knows that it may send small answers at once; else each waits 40 ms for the client's acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        if not guarded:
            _check_private(listener)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def _check_private(listener: socket.socket) -> None:
    """By the address that the name of the host came to."""
    address = listener.getsockname()[0]
    if not ip_address(address).is_loopback:
        raise Exposed(
            f"{address} can be reached from other machines, and whoever reaches the server could use it and read all that it keeps: "
            "give it an API key, or have it listen on 127.0.0.1"
        )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
