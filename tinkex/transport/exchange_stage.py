"""How far the exchange of the running task has got: begun by who sends, moved on by the
connection.
"""

from __future__ import annotations

from contextvars import ContextVar

from attrs import define

from tinkex.config.proxies import Proxy
from tinkex.errors import FailurePoint


@define
class ExchangeStage:
    """Where the exchange would die if it died now; None where the connection does not tell."""

    failure_point: FailurePoint | None = None
    proxy: Proxy | None = None
    """The one that the server is asked through."""


current_stage: ContextVar[ExchangeStage] = ContextVar("exchange_stage")
"""aiohttp runs all of an exchange in the task that asked for it."""
