"""Bridges over real sockets, in front of the embedded server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.support.counting_engine import CountingEngine
from tests.support.server_calls import Api
from tinkex.bridge.routing import Routing, Target
from tinkex.bridge.server import serve_bridge
from tinkex.local import Server, serve


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def upstream(engine: CountingEngine) -> Iterator[Server]:
    """The server behind the bridge."""
    with serve(engine=engine) as server:
        yield server


@pytest.fixture
def bridged(upstream: Server) -> Iterator[Callable[..., Api]]:
    """A function that starts a bridge, by default to `upstream`, and returns calls to it."""
    with ExitStack() as stack:

        def start(routing: Routing | None = None, key: str = "tml-caller", **how: Any) -> Api:
            bridge = stack.enter_context(
                serve_bridge(routing or Routing(Target(upstream.base_url)), **how)
            )
            http = stack.enter_context(
                httpx.Client(base_url=bridge.base_url, timeout=30, headers={"X-API-Key": key})
            )
            return Api(http, CountingEngine())

        yield start


def step_body(model_id: str, seq_id: int) -> dict[str, Any]:
    """Returns the body of an optim_step."""
    return {"model_id": model_id, "seq_id": seq_id, "adam_params": {"learning_rate": 1e-3}}
