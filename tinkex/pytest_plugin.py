"""The pytest plugin: fixtures for servers and clients, configured by the marker `tinkex`.

docs/testing.md shows how to use it. pytest loads it in every run if tinkex is installed, so that
the imports are inside the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tinkex import AsyncServiceClient, Config, ServiceClient
    from tinkex.local import Server

_SERVER = {"engine": "fake", "model": "tinkex/tiny", "profile": "tinkex"}
_FAULTS = ("delay", "rate_limit", "server_errors", "lost_answers", "operations")
_MARKER = (
    "tinkex(*, engine, model, profile, delay, rate_limit, server_errors, lost_answers, operations)"
    ": the server of the fixtures tinkex_server, tinkex_service and tinkex_async_service; see "
    "docs/testing.md of tinkex"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def tinkex_server(
    request: pytest.FixtureRequest, _tinkex_torch_servers: _TorchServers
) -> Iterator[Server]:
    """An embedded server with the settings of the marker `tinkex`, by default with the fake engine.

    Each test has a server of its own, with one exception: a server with the torch engine takes
    seconds to start, so that tests with the same settings and no faults share one.
    """
    import tinkex.local

    asked = _asked(request.node)
    faults = {name: value for name, value in asked.items() if name in _FAULTS}
    settings: dict[str, Any] = {
        **_SERVER,
        **{name: value for name, value in asked.items() if name in _SERVER},
    }
    if settings["engine"] == "torch" and not faults:
        yield _tinkex_torch_servers.find(settings)
    else:
        with tinkex.local.serve(**settings, faults=tinkex.local.Faults(**faults)) as server:
            yield server


@pytest.fixture
def tinkex_service(tinkex_server: Server) -> Iterator[ServiceClient]:
    """A blocking client of `tinkex_server`, whose session ends with the test.

    Its retry delays are a hundredth of the usual ones.
    """
    from tinkex import ServiceClient

    with ServiceClient(config=_config(tinkex_server)) as service:
        yield service


@pytest.fixture
def tinkex_async_service(tinkex_server: Server) -> AsyncServiceClient:
    """An asyncio client of `tinkex_server`, to be used with `async with` in the test."""
    from tinkex import AsyncServiceClient

    return AsyncServiceClient(config=_config(tinkex_server))


class _TorchServers:
    """The servers with the torch engine that tests share, one for each combination of settings."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._servers: dict[str, Server] = {}

    def find(self, settings: Mapping[str, Any]) -> Server:
        import tinkex.local

        key = str(settings)
        if key not in self._servers:
            self._servers[key] = self._stack.enter_context(tinkex.local.serve(**settings))
        # A failure of the engine to start is raised here, as an error of the fixture.
        self._servers[key].ready.result()
        return self._servers[key]


@pytest.fixture(scope="session")
def _tinkex_torch_servers() -> Iterator[_TorchServers]:
    with ExitStack() as stack:
        yield _TorchServers(stack)


def _asked(node: pytest.Item) -> dict[str, Any]:
    """Returns the settings in the markers of a test, its class and its module; the nearest wins."""
    asked: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("tinkex"))):
        unknown = marker.kwargs.keys() - _SERVER.keys() - set(_FAULTS)
        if marker.args or unknown:
            wrong = ", ".join(map(repr, [*marker.args, *sorted(unknown)]))
            raise pytest.UsageError(
                f"the marker tinkex takes only the keywords "
                f"{', '.join([*_SERVER, *_FAULTS])}, not {wrong}"
            )
        asked.update(marker.kwargs)
    return asked


def _config(server: Server) -> Config:
    from tinkex import Config, RetrySettings

    return Config(
        base_url=server.base_url,
        api_key="tml-test",
        retry=RetrySettings(base_delay=0.005, max_delay=0.1),
    )
