"""Servers over real sockets, and clients of both facades."""

from __future__ import annotations

import os

# before torch: its threads would spin beside those of servers and clients
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # which share the cores among them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# no test stores its keys in the keyring of whoever runs it
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
import gc
import hashlib
import signal
import ssl
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

import tinkex.local
from tests.support.engine_forks import Forks
from tests.support.facades import ADMINS, FACADES, RESTS
from tests.support.recording_engine import RecordingEngine
from tinkex import Config
from tinkex.local import Limits, Server
from tinkex_server.access import api_keys
from tinkex_server.engine.factory import create_engine
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.process import child
from tinkex_server.engine.process.child import _spawn

# how fast examples are made and run says only how busy the machine is
settings.register_profile("tinkex", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tinkex")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as shells leave it for what they start in the background; tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

AT_START = Path(__file__).parent / "support" / "at_start"
OF_THE_NETWORK = {
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
}


def pytest_xdist_auto_num_workers() -> int:
    """Returns two workers more than there are cores, since tests also wait: for processes to start,
    and for time to pass. With one more, two cores were busy for four fifths of the run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Makes no garbage collections while tests are collected, which would take a quarter of the
    time, and leaves what is imported by then out of later ones: it stays until the end.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _home_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The settings and the keys of whoever runs the tests are not theirs, nor are the proxies of
    the network that they run in.
    """
    with pytest.MonkeyPatch.context() as patch:
        ours = ("TINKER_", "TINKEX_", "CLOUDFLARE_")
        for name in [
            name for name in os.environ if name.startswith(ours) or name.upper() in OF_THE_NETWORK
        ]:
            patch.delenv(name)
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _certificates_that_are_read_once(_home_of_nobody: None) -> Iterator[None]:
    """httpx reads all certificates that it trusts for each client, which takes longer than most of
    what tests ask a server for.
    """
    trusted = httpx.create_ssl_context()

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is True and cert is None and not os.environ.keys() & OF_THE_NETWORK:
            return trusted
        return httpx.create_ssl_context(verify, cert, trust_env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_hashes_of_keys() -> Iterator[None]:
    """A server hashes the keys that it is given as slowly as it can, which takes longer than most
    tests. `tests/server/access/test_keys.py` tests the hash itself.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            api_keys, "_hashed", lambda key, salt: hashlib.sha256(salt + key.encode()).digest()
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def forks(
    _home_of_nobody: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Forks]]:
    """The process that engine processes are forked from so that they start at once. Workers of
    xdist, which share it, start it first of all; alone, a test that needs it does.
    """
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp()
    place = (folder.parent if is_worker else folder) / "forks"
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        forks = cache(lambda: stack.enter_context(closing(Forks(place))))
        if sys.platform == "linux":
            patch.setattr(child, "_spawn", lambda: forks().start_engine())
            patch.setattr(sys, "path", [*sys.path, str(AT_START)])  # which engines get
            patch.setenv("PYTHONPATH", str(AT_START), prepend=os.pathsep)
            patch.setenv("FORKS_OF_TESTS", str(place))
            if is_worker:
                forks()
        yield forks


@pytest.fixture
def new_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engine processes are started as the product starts them: each is a new interpreter."""
    monkeypatch.setattr(child, "_spawn", _spawn)
    monkeypatch.delenv("FORKS_OF_TESTS", raising=False)


@pytest.fixture(scope="session")
def server_engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture(scope="session")
def server(server_engine: RecordingEngine) -> Iterator[Server]:
    """A server with an engine that does sums at once."""
    # each test leaves its own behind
    with tinkex.local.serve(engine=server_engine, limits=Limits(models=10_000)) as server:
        yield server


@pytest.fixture(scope="session")
def torch_engine() -> Iterator[Engine]:
    """An engine that really trains tinkex/tiny, for several servers."""
    engine = create_engine("torch", ["tinkex/tiny"], None, None)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def torch_server(torch_engine: Engine) -> Iterator[Server]:
    """A server that really trains tinkex/tiny."""
    with tinkex.local.serve(engine=torch_engine) as server:
        server.ready.result()  # so that no test has to wait for it
        yield server


@pytest.fixture(params=list(FACADES))
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes service clients, of each facade in turn, which are closed at the end."""
    with ExitStack() as stack:

        def connect(base_url: str, **settings: Any) -> Any:
            return stack.enter_context(
                FACADES[request.param](base_url=base_url, **{"api_key": "tml-test", **settings})
            )

        yield connect


@pytest.fixture(params=list(RESTS))
def connect_rest(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes REST clients without a service client, of each facade in turn, which are closed at the
    end.
    """
    with ExitStack() as stack:
        yield lambda base_url, **settings: stack.enter_context(
            RESTS[request.param](_config(base_url, settings))
        )


@pytest.fixture(params=list(ADMINS))
def connect_admin(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """The same for admin clients."""
    with ExitStack() as stack:
        yield lambda base_url, **settings: stack.enter_context(
            ADMINS[request.param](_config(base_url, settings))
        )


def _config(base_url: str, settings: dict[str, Any]) -> Config:
    return Config(base_url=base_url, **{"api_key": "tml-test", **settings})


@pytest.fixture
def service(connect: Callable[..., Any], server: Server, server_engine: RecordingEngine) -> Any:
    """A client of the server with the fake engine."""
    server_engine.gate.set()
    return connect(server.base_url)
