"""`serve`: starts the engine, and the server in a background thread of this process."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from tinkex_server.access.api_keys import ApiKeyRequired
from tinkex_server.engine.factory import EngineName, create_engine
from tinkex_server.engine.interface import Engine
from tinkex_server.limits import Limits
from tinkex_server.profiles import TINKEX, Profile, find_profile
from tinkex_server.profiles.warped_engine import with_warped_logprobs

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
    hold: float | None = None,
    profile: str | Profile = TINKEX,
    limits: Limits | None = None,
    exchange_keys: bool = False,
    faults: Faults | None = None,
    access_log: bool = False,
    allow_hosts: Sequence[str] = (),
) -> Server:
    """A running server, which answers by the time this returns. Leave it as a context manager, or
    call `close`.

    Its engine may still be starting, which takes torch some seconds: what needs it waits meanwhile,
    and fails when it cannot start.

    Example:
        with tinkex.local.serve() as server:
            client = tinkex.ServiceClient(base_url=server.base_url)

    Args:
        model: base models, each by a shipped name, a transformers folder, or a hub id;
            `NAME=FOLDER` has clients call it by another
            name, as in "meta-llama/Llama-3.2-1B=./llama".
        host, port: where to listen; port 0 takes a free one.
        data_dir: where the database and the checkpoints are kept; by default a temporary folder,
            removed at the end.
        api_key: what clients must send as X-API-Key, or several such keys, each of which sees its
            own sessions and what was made in
            them, and what others published. By default anything is accepted, and all see all.
        engine: what trains and samples. "torch" does so in a process of its own; "fake" answers at
            once, by arithmetic, which is enough
            to test a client; an object is used as it is, in this process, and stays open when the
            server ends.
        device: where torch computes: "cpu", "cuda" or "mps"; by default the best that is there.
        dtype: the base models' precision, "float32" or "bfloat16"; by default what suits the
            device.
        hold: seconds that a poll waits for a result before it is answered "not yet"; by default the
            profile's.
        profile: the kind of Tinker server to look like on the wire, by a name in
            `tinkex_server.profiles.PROFILES` or as a value.
        limits: how much it takes on, and how long it keeps what nobody asks for.
        exchange_keys: tell clients to send, in the place of their key, a token that it is exchanged
            for and that holds for an hour.
        faults: what goes wrong on purpose, to test clients.
        access_log: log every request, to the logger `uvicorn.access`.
        allow_hosts: names that clients may call it by where no key is asked for, beside localhost
            and `host`: what a web page could
            have a resolver make up is refused otherwise.

    Raises:
        UnknownProfile: there is no such profile.
        ImportError: the extra `local`, or torch, is not installed.
        InvalidRequest: a model is not to be found. What else may keep the engine from starting is
            told by `Server.ready`.
        OSError: the address cannot be listened on, or the data folder not written.
        StoreError: the data folder is of another release.
        ApiKeyRequired: others than this machine could reach it, and no key is asked for.
        InvalidApiKeys: a key could not be sent as a header, or there are several with a profile.
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
            engine = create_engine(
                engine, [model] if isinstance(model, str) else list(model), device, dtype
            )
            on_failure.callback(engine.close)
        # here, since it takes longer to import than all else: the engine's process starts meanwhile
        from tinkex_server.app.server import Server, Settings

        if profile.sampling.warped_logprobs:
            engine = with_warped_logprobs(engine)
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


def _listen(host: str, port: int, *, guarded: bool) -> socket.socket:
    """A bound socket: what is wrong with the address shows here, in the caller's thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # by its protocol asyncio knows that it may send small answers at once; else each waits 40 ms
    # for the client's acknowledgement
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
        raise ApiKeyRequired(
            f"{address} can be reached from other machines, and whoever reaches the server could "
            "use it and read all that it keeps: "
            "give it an API key, or have it listen on 127.0.0.1"
        )
