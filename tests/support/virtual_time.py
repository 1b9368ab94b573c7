"""An event loop whose time leaps to the next timer whenever nothing is left to do: hours pass at
once, and in the right order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import httpx

from tinkex import Config
from tinkex.futures.answers import Payload
from tinkex.transport.transport import Transport
from tinkex.waiting.clock import Clock

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            events = super().select(20.0)  # a thread is to wake the loop
            assert events, "nothing will ever happen again"
        elif not events and timeout:
            self._loop.passed += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.passed = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.passed


class VirtualClock(Clock):
    """The loop's time; chance is nil."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def random(self) -> float:
        return 0.0


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Answering(httpx.AsyncBaseTransport):
    """A server that is a function; keeps when each request came."""

    def __init__(
        self, answer: Callable[[httpx.Request], Awaitable[httpx.Response] | httpx.Response]
    ) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        given = self.answer(request)
        response = given if isinstance(given, httpx.Response) else await given
        if not response.is_stream_consumed:
            return response  # its body breaks off
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=response.content,
            request=request,
        )


def transport_to(server: httpx.AsyncBaseTransport, **settings: Any) -> Transport:
    config = Config(
        base_url=f"http://server-{id(server)}", api_key="k", http_transport=server, **settings
    )
    return Transport(config, VirtualClock())


def as_it_is(payload: Payload) -> Payload:
    """Reads nothing of a result."""
    return payload
