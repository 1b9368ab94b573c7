"""The connection for `base_url="local"`: where requests go, and who owns the wait for the start."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tinkex_api.api.server import get_server_capabilities, health

from tinkex import Config
from tinkex.dialects.dialect import Dialect
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import Wait

ADDRESS = "127.0.0.1:9"


def test_each_request_names_the_server_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinkex.local.connection.local_url", lambda: f"http://{ADDRESS}")
    sent: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((request.url.netloc.decode(), request.headers["Host"]))
        return httpx.Response(200, json={})

    async def work() -> None:
        transport = transport_over(answer)
        for _ in range(3):
            await transport.send_once(get_server_capabilities.request(), timeout=5)
        await transport.aclose()

    asyncio.run(work())
    assert sent == [(ADDRESS, ADDRESS)] * 3


def test_the_wait_for_the_start_is_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[str, str]] = []
    set_owner = Wait.set_owner

    def noted(wait: Wait, owner: str, activity: str = "") -> None:
        owners.append((owner, activity))
        set_owner(wait, owner, activity)  # type: ignore[arg-type]

    monkeypatch.setattr("tinkex.local.connection.local_url", lambda: f"http://{ADDRESS}")
    monkeypatch.setattr(Wait, "set_owner", noted)

    async def work() -> None:
        transport = transport_over(lambda request: httpx.Response(200, json={"status": "ok"}))
        for _ in range(2):
            await transport.send(health.request())
        await transport.aclose()

    asyncio.run(work())
    assert owners == [
        ("computation", "which is the start of the server in this process"),
        ("network", "no answer yet"),
    ]


def transport_over(answer: object) -> Transport:
    connection = httpx.MockTransport(answer)  # type: ignore[arg-type]
    return Transport(
        Config(base_url="local", api_key="k", dialect=Dialect(), http_transport=connection)
    )
