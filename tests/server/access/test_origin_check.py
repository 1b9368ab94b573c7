"""Web pages of other sites, in a browser on this machine, cannot use a server that has no key."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API
from tinkex.local import Server, serve
from tinkex_server.access.origin_check import refusal_reason


@pytest.fixture(scope="module", params=["tinkex", "skyrl"])
def open_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(engine=RecordingEngine(), profile=request.param) as server:
        yield server


def begin(server: Server, **headers: str) -> httpx.Response:
    """Asks for a session as a web page can: the browser sends this request without a preflight."""
    return httpx.post(
        f"{server.base_url}{API}/create_session",
        content='{"tags": [], "sdk_version": "1"}',
        headers=headers,
    )


def test_requests_from_another_sites_page_are_refused(open_server: Server) -> None:
    before = open_server._state.store.sessions.ids(None, 10, 0)
    for origin in ("https://evil.example", "http://127.0.0.1:1", "null"):
        refused = begin(open_server, Origin=origin)
        assert (refused.status_code, "web pages" in refused.json()["detail"]) == (403, True)
    assert open_server._state.store.sessions.ids(None, 10, 0) == before
    assert begin(open_server, Origin=open_server.base_url).status_code == 200, "its own pages may"


def test_requests_under_a_public_host_name_are_refused(open_server: Server) -> None:
    for path in ("/", f"{API}/sessions", f"{API}/get_server_capabilities"):
        refused = httpx.get(
            open_server.base_url + path, headers={"Host": "rebound.evil.example:80"}
        )
        assert (refused.status_code, "rebound.evil.example" in refused.json()["detail"]) == (
            403,
            True,
        )


def test_with_a_key_any_host_name_is_accepted() -> None:
    with serve(engine=RecordingEngine(), api_key="tml-k") as server:
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
def test_host_names_are_classified(host: str, passes: bool) -> None:
    assert (refusal_reason(host, None) is None) == passes
    assert (refusal_reason(host, f"http://{host}") is None) == passes


def test_host_names_of_the_local_network_are_refused(open_server: Server) -> None:
    for name in ("evil", "wpad", "metadata.internal"):
        host = f"{name}:80"
        refused = begin(open_server, Host=host, Origin=f"http://{host}")
        assert (refused.status_code, name in refused.json()["detail"]) == (403, True)
    assert begin(open_server, Host="localhost:80").status_code == 200


def test_an_allowed_host_name_is_accepted() -> None:
    with serve(engine=RecordingEngine(), allow_hosts=["Host.Docker.Internal"]) as server:
        headers = {"Host": "host.docker.internal:8765"}
        assert httpx.get(f"{server.base_url}{API}/sessions", headers=headers).status_code == 200
        assert (
            httpx.get(f"{server.base_url}{API}/sessions", headers={"Host": "box"}).status_code
            == 403
        )
