"""`serve`: starts an engine, and a server in a background thread of this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from tinkex_server.app.listening import listen
from tinkex_server.engine.factory import EngineName, create_engine
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.ray.settings import RaySettings
from tinkex_server.engine.vllm.settings import VllmSettings
from tinkex_server.limits import Limits
from tinkex_server.profiles import TINKEX, Profile, find_profile
from tinkex_server.profiles.warped_engine import WarpedEngine

if TYPE_CHECKING:
    from tinkex_server.app.faults import Faults
    from tinkex_server.app.server import Server


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
    vllm: VllmSettings | None = None,
    hold: float | None = None,
    profile: str | Profile = TINKEX,
    limits: Limits | None = None,
    exchange_keys: bool = False,
    faults: Faults | None = None,
    access_log: bool = False,
    allow_hosts: Sequence[str] = (),
    ray: RaySettings | None = None,
) -> Server:
    """Starts a server and returns it when it answers requests.

    Leave it as a context manager, or call `close`. Its engine may still be starting, which takes
    some seconds with torch. Requests that need the engine wait for it, and fail if it cannot start.

    Example:
        with tinkex.local.serve() as server:
            client = tinkex.ServiceClient(base_url=server.base_url)

    Args:
        model: the base models, each as a shipped name, a transformers folder or a hub id. With
            `NAME=FOLDER` clients use another name, as in "meta-llama/Llama-3.2-1B=./llama".
        host, port: the address to listen on. Port 0 takes a free port.
        data_dir: the folder of the database and the checkpoints. By default it is a temporary
            folder, which is removed when the server stops.
        api_key: the text that clients must send as X-API-Key, or several such keys. Each key sees
            its own sessions, what was made in them, and what other keys have published. By default
            any key is accepted, and every client sees everything.
        engine: what trains and samples. "torch" does so in a process of its own. "fake" answers at
            once, by simple arithmetic, which is enough to test a client. An engine object is used
            as it is, in this process, and stays open when the server stops.
        device: the device of torch: "cpu", "cuda" or "mps". By default it is the best one that is
            available.
        dtype: the precision of the base models, "float32" or "bfloat16". By default it depends on
            the device.
        vllm: where vLLM is, if it is to sample in place of torch, which then trains only.
        hold: the seconds that a poll waits for a result before it is answered "not yet". By default
            the profile decides.
        profile: the kind of Tinker server to imitate, as a name in
            `tinkex_server.profiles.PROFILES` or as a value.
        limits: how much the server accepts, and how long it keeps what nobody asks for.
        exchange_keys: whether clients are told to exchange their API key for a token that is valid
            for an hour, and to send that instead.
        faults: deliberate faults, for tests of clients.
        access_log: whether each request is logged, by the logger `uvicorn.access`.
        allow_hosts: the names that clients may use for a server without an API key, beside
            localhost and `host`. Other names are refused, since a web page could make a resolver
            lead them here.
        ray: runs the engine on a Ray cluster, with a trainer and a pool of samplers for each base
            model. The checkpoints stay with this server. By default the engine is a process of this
            machine.

    Raises:
        UnknownProfile: there is no such profile.
        ImportError: torch, Ray, or the extra `local` is not installed.
        InvalidRequest: a model is not found. What else keeps the engine from starting is reported
            by `Server.ready`.
        OSError: the server cannot listen on the address, or cannot write the data folder.
        StoreError: the data folder was written by another release.
        ApiKeyRequired: other machines can reach the address, and there is no API key.
        InvalidApiKeys: a key cannot be sent as a header, or there are several with a profile.
    """
    profile = find_profile(profile) if isinstance(profile, str) else profile
    if hold is not None:
        profile = evolve(profile, hold=hold)
    api_keys = [api_key] if isinstance(api_key, str) else list(api_key)
    listener = listen(host, port, guarded=bool(api_keys))
    with ExitStack() as on_failure:
        on_failure.callback(listener.close)
        owns_engine = isinstance(engine, str)
        if isinstance(engine, str):
            engine = create_engine(
                engine,
                [model] if isinstance(model, str) else list(model),
                device,
                dtype,
                vllm=vllm,
                ray=ray,
            )
            on_failure.callback(engine.close)
        # imported here since it takes longest, and the engine process starts meanwhile
        from tinkex_server.app.server import Server
        from tinkex_server.app.server_thread import Settings

        if profile.sampling.warped_logprobs:
            engine = WarpedEngine(engine)
        settings = Settings(
            api_keys,
            profile,
            limits or Limits(),
            exchange_keys,
            faults,
            access_log,
            [host, *allow_hosts],
            owns_engine,
        )
        server = Server(listener, engine, data_dir, settings)
        on_failure.pop_all()
    return server
