from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api
from tinkex.local import Server


@pytest.fixture
def api(server: Server, server_engine: RecordingEngine) -> Iterator[Api]:
    server_engine.gate.clear()
    with httpx.Client(base_url=server.base_url, timeout=15) as http:
        yield Api(http, server_engine)
