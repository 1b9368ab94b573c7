"""A sampling client over answers that are written down, for faults that no server here has. The
clock is moved by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson
from attrs import define, field

from tests.support.clocks import HandClock
from tinkex import AsyncSamplingClient, Config
from tinkex.dialects.dialect import Dialect
from tinkex.session.session import Session
from tinkex.transport.transport import Transport

Answer = tuple[int, bytes] | Exception


@define
class Routes(httpx.AsyncBaseTransport):
    """Gives each call's answers in turn, and keeps what was sent."""

    answers: dict[str, list[Answer]]
    calls: list[str] = field(factory=list)
    bodies: list[dict[str, Any]] = field(factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = request.url.path.rpartition("/")[2]
        self.calls.append(call)
        self.bodies.append(orjson.loads(request.content))
        answer = self.answers[call].pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, content = answer
        return httpx.Response(status, content=content, request=request)


def scripted_session(
    answers: Mapping[str, Sequence[Answer]], dialect: Dialect
) -> tuple[Session, Routes]:
    routes = Routes({call: list(given) for call, given in answers.items()})
    config = Config(
        base_url="http://scripted", api_key="tml-x", dialect=dialect, http_transport=routes
    )
    return Session(Transport(config, HandClock()), "S1"), routes


def scripted_sampler(
    answers: Mapping[str, Sequence[Answer]], dialect: Dialect
) -> tuple[AsyncSamplingClient, Routes]:
    """Makes a transport for the running event loop."""
    session, routes = scripted_session(answers, dialect)
    return AsyncSamplingClient(session, "S1:sample:0", base_model="base"), routes


PROMISE = (200, b'{"request_id": "r"}')


SAMPLE = (200, b'{"sequences": [{"tokens": [7], "stop_reason": "stop"}]}')
