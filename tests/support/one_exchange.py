"""One exchange of a transport with a server, for tests of what lies below the clients."""

from __future__ import annotations

from typing import Any

from tinkex_api.api.training_runs import list_training_runs

from tinkex import Config
from tinkex.transport.transport import Transport

RUNS = b'{"training_runs": [], "cursor": {"offset": 0, "limit": 1, "total_count": 0}}'
"""The answer of a server without training runs."""


async def list_runs(config: Config) -> Any:
    """Lists the training runs by a transport of its own, and returns what the client saw."""
    transport = Transport(config)
    try:
        return await transport.send(list_training_runs.request(limit=1))
    finally:
        await transport.aclose()
