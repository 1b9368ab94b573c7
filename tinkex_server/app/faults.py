"""Faults on purpose, for tests of what a client does about them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from attrs import frozen
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinkex_server.wire.scope import PREFIX

Fault: TypeAlias = Literal["rate limit", "server error", "lost answer"]

OPERATIONS = (
    "create_model",
    "forward",
    "forward_backward",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "load_weights",
    "asample",
)
_RETRY_AFTER_MS = "20"


@frozen(kw_only=True)
class Faults:
    """What goes wrong. The first requests suffer, one fault each, in the order of the fields; those
    after them fare well.

    A client that sends a request again thus meets the next fault with it, so that `rate_limit=1,
    lost_answers=1` is a request that is refused, then carried out without an answer, and then
    answered.
    """

    delay: float = 0.0
    """Seconds before each request is looked at."""
    rate_limit: int = 0
    """So many are refused with 429, to be sent again in 20 ms."""
    server_errors: int = 0
    """So many are refused with 503."""
    lost_answers: int = 0
    """So many are carried out, and then the connection is closed without an answer."""
    operations: Sequence[str] = OPERATIONS
    """Which requests count, by the last part of their path; by default those that train, save, load
    or sample.
    """

    def plan(self) -> Sequence[Fault]:
        """The faults in their order."""
        counts: Sequence[tuple[Fault, int]] = (
            ("rate limit", self.rate_limit),
            ("server error", self.server_errors),
            ("lost answer", self.lost_answers),
        )
        return [fault for fault, count in counts for _ in range(count)]


class FaultInjector:
    """An ASGI application before `app`. It must stand next to uvicorn."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._delay = faults.delay
        self._paths = frozenset(f"{PREFIX}/{operation}" for operation in faults.operations)
        self._plan = deque(faults.plan())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        fault = self._plan.popleft() if self._plan else None
        await asyncio.sleep(self._delay)
        match fault:
            case "rate limit":
                headers = {"retry-after-ms": _RETRY_AFTER_MS}
                await JSONResponse({"detail": "too many requests, as the test asks"}, 429, headers)(
                    scope, receive, send
                )
            case "server error":
                await JSONResponse({"detail": "out of order, as the test asks"}, 503)(
                    scope, receive, send
                )
            case "lost answer":
                await self._app(scope, receive, _swallow)
                await _drop(receive, send)
            case None:
                await self._app(scope, receive, send)


async def _swallow(message: Message) -> None:
    """Takes what would be the answer."""


async def _drop(receive: Receive, send: Any) -> None:
    """Closes the connection. uvicorn has no word for it, but `send` is a method of what holds the
    connection.
    """
    send.__self__.transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
