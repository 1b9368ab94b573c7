"""The pytest plugin: servers and clients as fixtures, chosen by the marker `tinkex`.
docs/testing.md shows how to use it.

It is loaded in every run of pytest where tinkex is installed, so it imports what it needs only when
a fixture is asked for.
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
_MARKER = """tinkex(*, engine, model, profile, delay, rate_limit, server_errors, lost_answers, operations): \
the server of the fixtures tinkex_server, tinkex_service and tinkex_async_service; see docs/testing.md of tinkex"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def tinkex_server(
    request: pytest.FixtureRequest, _tinkex_torch_servers: _TorchServers
) -> Iterator[Server]:
    """An embedded server, as the marker `tinkex` asks for it: by default with the fake engine, and
    the test's own.

    A server with the torch engine takes seconds to start, so that it is shared by the tests of a
    run that ask for the same one. With faults it is the test's own, too.
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
    """A blocking client of `tinkex_server`, whose session ends with the test. It tries again after
    a hundredth of the usual time.
    """
    from tinkex import ServiceClient

    with ServiceClient(config=_config(tinkex_server)) as service:
        yield service


@pytest.fixture
def tinkex_async_service(tinkex_server: Server) -> AsyncServiceClient:
    """An asyncio client of `tinkex_server`, for `async with` in the test, on whatever event loop
    that has.
    """
    from tinkex import AsyncServiceClient

    return AsyncServiceClient(config=_config(tinkex_server))


class _TorchServers:
    """The servers that tests share, by their settings."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._servers: dict[str, Server] = {}

    def find(self, settings: Mapping[str, Any]) -> Server:
        import tinkex.local

        key = str(settings)
        if key not in self._servers:
            self._servers[key] = self._stack.enter_context(tinkex.local.serve(**settings))
        # what keeps the engine from starting is an error of the fixture
        self._servers[key].ready.result()
        return self._servers[key]


@pytest.fixture(scope="session")
def _tinkex_torch_servers() -> Iterator[_TorchServers]:
    with ExitStack() as stack:
        yield _TorchServers(stack)


def _asked(node: pytest.Item) -> dict[str, Any]:
    """What the markers of a test, its class and its module say; the nearest goes first."""
    asked: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("tinkex"))):
        unknown = marker.kwargs.keys() - _SERVER.keys() - set(_FAULTS)
        if marker.args or unknown:
            wrong = ", ".join(map(repr, [*marker.args, *sorted(unknown)]))
            raise pytest.UsageError(
                f"the marker tinkex takes {', '.join([*_SERVER, *_FAULTS])}, each by name, and "
                f"not {wrong}"
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
