"""Deliberate faults, for tests of how a client handles them."""

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
    """The faults of a server under test. Each of the first requests gets one fault, in the order of
    the fields below; later requests get none.

    A client that sends a request again therefore gets the next fault with it. With `rate_limit=1,
    lost_answers=1` a request is refused at first, then executed without an answer, then answered.
    """

    delay: float = 0.0
    """The seconds that each request waits before the server handles it."""
    rate_limit: int = 0
    """The number of requests that are answered 429, with a retry-after-ms of 20."""
    server_errors: int = 0
    """The number of requests that are answered 503."""
    lost_answers: int = 0
    """The number of requests that are executed, and whose connection is then closed without an
    answer.
    """
    operations: Sequence[str] = OPERATIONS
    """The requests that get faults, by the last part of their path. By default they are those that
    train, save, load or sample.
    """

    def plan(self) -> Sequence[Fault]:
        """Returns the faults in their order."""
        counts: Sequence[tuple[Fault, int]] = (
            ("rate limit", self.rate_limit),
            ("server error", self.server_errors),
            ("lost answer", self.lost_answers),
        )
        return [fault for fault, count in counts for _ in range(count)]


class FaultInjector:
    """ASGI middleware that injects faults. It must be the outermost: it closes connections."""

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
    """Discards a part of the answer."""


async def _drop(receive: Receive, send: Any) -> None:
    """Closes the connection. uvicorn has no message for that, but `send` is a method of the object
    that holds the connection.
    """
    send.__self__.transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
