"""Web pages of others, in a browser on this machine, have no part in a server that asks for no
key.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.recording_engine import FakeEngine
from tests.support.server_calls import API
from tinkex.local import Server, serve
from tinkex_server.access.origin_check import refusal_reason


@pytest.fixture(scope="module", params=["tinkex", "skyrl"])
def open_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(engine=FakeEngine(), profile=request.param) as server:
        yield server


def begin(server: Server, **headers: str) -> httpx.Response:
    """A session, asked for as a page can: such a request needs no leave of the server's."""
    return httpx.post(
        f"{server.base_url}{API}/create_session",
        content='{"tags": [], "sdk_version": "1"}',
        headers=headers,
    )


def test_a_page_of_another_site_starts_nothing(open_server: Server) -> None:
    for origin in ("https://evil.example", "http://127.0.0.1:1", "null"):
        refused = begin(open_server, Origin=origin)
        assert (refused.status_code, "web pages" in refused.json()["detail"]) == (403, True)
    assert open_server._state.store.sessions.ids(None, 10, 0) == []
    assert begin(open_server, Origin=open_server.base_url).status_code == 200, "its own pages may"


def test_a_public_name_that_leads_here_shows_nothing(open_server: Server) -> None:
    for path in ("/", f"{API}/sessions", f"{API}/get_server_capabilities"):
        refused = httpx.get(
            open_server.base_url + path, headers={"Host": "rebound.evil.example:80"}
        )
        assert (refused.status_code, "rebound.evil.example" in refused.json()["detail"]) == (
            403,
            True,
        )


def test_with_a_key_any_name_will_do() -> None:
    with serve(engine=FakeEngine(), api_key="tml-k") as server:
        headers = {
            "Host": "tinker.example.com",
            "Origin": "https://tinker.example.com",
            "X-API-Key": "tml-k",
        }
        assert httpx.get(f"{server.base_url}{API}/sessions", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:8765", True),
        ("[::1]:8765", True),
        ("localhost", True),
        ("box:8765", False),
        ("a.localhost:1", True),
        ("host.docker.internal:8765", False),
        ("evil", False),
        ("wpad:8765", False),
        ("192.168.0.7:8765", False),
        ("", True),
        ("evil.example:8765", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("[::1", False),
    ],
)
def test_names(host: str, passes: bool) -> None:
    assert (refusal_reason(host, None) is None) == passes
    assert (refusal_reason(host, f"http://{host}") is None) == passes


def test_a_name_that_the_local_network_makes_up_starts_nothing(open_server: Server) -> None:
    for name in ("evil", "wpad", "metadata.internal"):
        host = f"{name}:80"
        refused = begin(open_server, Host=host, Origin=f"http://{host}")
        assert (refused.status_code, name in refused.json()["detail"]) == (403, True)
    assert begin(open_server, Host="localhost:80").status_code == 200


def test_a_name_that_was_given_is_served() -> None:
    with serve(engine=FakeEngine(), allow_hosts=["Host.Docker.Internal"]) as server:
        headers = {"Host": "host.docker.internal:8765"}
        assert httpx.get(f"{server.base_url}{API}/sessions", headers=headers).status_code == 200
        assert (
            httpx.get(f"{server.base_url}{API}/sessions", headers={"Host": "box"}).status_code
            == 403
        )
