"""Objects that higher layers keep in a session: each is made once, and closed with the session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from tinkex import Config
from tinkex.dialects.dialect import Dialect
from tinkex.session.session import Session
from tinkex.transport.transport import Transport


class Part:
    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class LatePart(Part):
    """A part that is first asked for while the session closes another."""


def in_session(work: Callable[[Session], object]) -> list[str]:
    """Runs `work(session)`, finishes the session, and returns the paths of the requests."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"session_id": "S1"})

    async def main() -> None:
        transport = Transport(
            Config(
                base_url="http://127.0.0.1:9",
                api_key="k",
                dialect=Dialect(),
                http_transport=httpx.MockTransport(answer),
            )
        )
        session = await Session.begin(transport)
        work(session)
        await session.lifecycle.finish("success")
        await transport.aclose()

    asyncio.run(main())
    return asked


def test_a_part_is_made_once_and_closed_with_the_session() -> None:
    parts: list[Part] = []

    def work(session: Session) -> None:
        parts.extend(session.part(Part) for _ in range(2))
        assert not parts[0].closed

    in_session(work)
    assert parts[0] is parts[1]
    assert parts[0].closed


def test_a_part_that_is_made_during_the_end_does_not_disturb_it() -> None:
    def work(session: Session) -> None:
        class AsksForAnother(Part):
            async def close(self) -> None:
                session.part(LatePart)

        session.part(AsksForAnother)

    assert in_session(work)[-1] == "/api/v1/sessions/S1/finish"
