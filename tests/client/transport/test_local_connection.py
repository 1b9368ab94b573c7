"""Requests with `base_url="local"`: where they go, who owns the wait for the start of the server,
and that its start is no part of an HTTP request.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tinkex_api.api.server import get_server_capabilities, health

from tinkex import Config, events
from tinkex.dialects.dialect import Dialect
from tinkex.errors import ConfigError
from tinkex.transport.transport import Transport
from tinkex.waiting.wait import Wait

ADDRESS = "127.0.0.1:9"


def test_each_request_names_the_server_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinkex.transport.sender.local_url", lambda: f"http://{ADDRESS}")
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

    monkeypatch.setattr("tinkex.transport.sender.local_url", lambda: f"http://{ADDRESS}")
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


def test_the_events_of_a_request_begin_when_the_server_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []

    def start() -> str:
        happened.append("the server started")
        return f"http://{ADDRESS}"

    monkeypatch.setattr("tinkex.transport.sender.local_url", start)

    def answer(request: httpx.Request) -> httpx.Response:
        happened.append("the server answered")
        return httpx.Response(200, json={"status": "ok"})

    heard_around(happened, answer)
    assert happened == [
        "the server started",
        *["http.request.start", "the server answered", "http.request.stop"] * 2,
    ]


def test_a_server_that_cannot_start_received_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ConfigError("no torch")

    monkeypatch.setattr("tinkex.transport.sender.local_url", fail)
    happened: list[str] = []
    with pytest.raises(ConfigError, match="no torch"):
        heard_around(happened, lambda request: httpx.Response(200))
    assert happened == []


def heard_around(happened: list[str], answer: object) -> None:
    """Sends two requests, and notes the names of their events."""

    def note(event: events.Event) -> None:
        if event.name.startswith("http."):
            happened.append(event.name)

    async def work() -> None:
        transport = transport_over(answer)
        try:
            for _ in range(2):
                await transport.send(health.request())
        finally:
            await transport.aclose()

    events.attach(note)
    try:
        asyncio.run(work())
    finally:
        events.detach(note)


def transport_over(answer: object) -> Transport:
    connection = httpx.MockTransport(answer)  # type: ignore[arg-type]
    return Transport(
        Config(base_url="local", api_key="k", dialect=Dialect(), http_transport=connection)
    )
