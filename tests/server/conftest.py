from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, calls
from tinkex.local import Server


@pytest.fixture
def api(server: Server, server_engine: RecordingEngine) -> Iterator[Api]:
    server_engine.gate.clear()
    with calls(server.base_url, server_engine) as api:
        yield api
