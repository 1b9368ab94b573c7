from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tinkex.local import Server, serve

from .fake_engine import FakeEngine
from .helpers import Api


@pytest.fixture(scope="session")
def server_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="session")
def server(server_engine: FakeEngine) -> Iterator[Server]:
    with serve(engine=server_engine) as server:
        yield server


@pytest.fixture
def api(server: Server, server_engine: FakeEngine) -> Iterator[Api]:
    server_engine.gate.clear()
    with httpx.Client(base_url=server.base_url, timeout=15) as http:
        yield Api(http, server_engine)
