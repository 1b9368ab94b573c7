"""The stage of the running task's exchange, which the sender sets and the connection updates."""

from __future__ import annotations

from contextvars import ContextVar

from attrs import define

from tinkex.config.proxies import Proxy
from tinkex.errors import FailurePoint


@define
class ExchangeStage:
    """The stage of one exchange."""

    failure_point: FailurePoint | None = None
    """The failure point of an error at this stage; None if the connection does not report it."""
    proxy: Proxy | None = None
    """The proxy between the client and the server."""


current_stage: ContextVar[ExchangeStage] = ContextVar("exchange_stage")
"""The stage of this task's exchange; aiohttp runs an exchange within one task."""
