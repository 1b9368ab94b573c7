"""The routes of keys: description, exchange and revocation; and what the owners of two keys see of
each other's runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from attrs import frozen

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, listed, location, saved, started


@frozen
class Two:
    """The clients of two keys of one server."""

    ada: Api
    bob: Api


@pytest.fixture
def two() -> Iterator[Two]:
    with (
        started(RecordingEngine(), api_key=["tml-ada", "tml-bob"]) as ada,
        httpx.Client(base_url=ada.http.base_url) as http,
    ):
        ada.http.headers["x-api-key"], http.headers["x-api-key"] = "tml-ada", "tml-bob"
        yield Two(ada, Api(http, ada.engine))


def test_a_key_is_described_and_revoked(two: Two) -> None:
    facts = two.bob.get("auth/apikey/me").json()
    assert facts["key_id"] != two.ada.get("auth/apikey/me").json()["key_id"]
    assert facts["details"]["org_details"] == {"name": "local"}
    token = two.bob.ok("auth/token")["jwt"]
    assert two.bob.http.delete(f"{API}/auth/apikey/me").status_code == 200
    assert two.bob.get("sessions").status_code == 401
    two.bob.http.headers["x-api-key"] = token
    assert two.bob.get("sessions").status_code == 401
    assert two.ada.get("sessions").status_code == 200


def test_a_token_sees_what_its_key_sees_until_it_expires(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = two.ada.session()
    token = two.ada.ok("auth/token")["jwt"]
    two.ada.http.headers["x-api-key"] = token
    assert two.ada.get("sessions").json()["sessions"] == [session_id]
    assert two.ada.get(f"sessions/{two.bob.session()}").status_code == 404
    later = time.time() + 3600
    monkeypatch.setattr(
        "tinkex_server.access.authentication.time", SimpleNamespace(time=lambda: later)
    )
    expired = two.ada.get("sessions")
    assert (expired.status_code, expired.headers["www-authenticate"]) == (
        401,
        'Bearer error="invalid_token"',
    )


def test_a_token_ends_with_its_key_when_the_server_is_started_without_that(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path, api_key=["tml-ada", "tml-bob"]) as api:
        tokens = {
            key: api.http.post(f"{API}/auth/token", json={}, headers={"x-api-key": key}).json()[
                "jwt"
            ]
            for key in ("tml-ada", "tml-bob")
        }
    with started(RecordingEngine(), data_dir=tmp_path, api_key="tml-ada") as api:
        statuses = [
            api.http.get(f"{API}/sessions", headers={"x-api-key": token}).status_code
            for token in tokens.values()
        ]
    assert statuses == [200, 401]


def test_each_key_finds_its_own_and_published_checkpoints(two: Two) -> None:
    model_id, url = saved(two.ada)
    saved(two.ada, "unpublished")
    runs = {"access_scope": "accessible"}
    for api in (two.ada, two.bob):
        api.http.post(f"{url}/publish")
    assert [
        run["training_run_id"]
        for run in two.bob.get("training_runs", **runs).json()["training_runs"]
    ] == [model_id]
    assert two.bob.get("training_runs").json()["cursor"]["total_count"] == 0
    assert two.bob.get(f"training_runs/{model_id}", **runs).status_code == 200
    assert two.bob.get(f"training_runs/{model_id}").status_code == 404
    assert listed(two.bob, model_id)["public"]
    assert httpx.get(location(two.bob, url)).status_code == 200, "it may be read"
    for method, what in ("DELETE", ""), ("DELETE", "/publish"), ("POST", "/publish"):
        assert two.bob.http.request(method, f"{url}{what}").status_code == 404, "but not be changed"


def test_objects_of_another_key_are_not_found(two: Two) -> None:
    model_id, url = saved(two.ada)
    session_id = model_id.partition(":")[0]
    for path in ("archive", "download", "external_weights_urls", "files/adapter_model.safetensors"):
        assert two.bob.http.get(f"{url}/{path}").status_code == 404
    assert two.bob.get(f"training_runs/{model_id}/checkpoints").status_code == 404
    assert two.bob.get(f"sessions/{session_id}/trace_export").status_code == 404
    assert (
        two.bob.http.put(
            f"{API}/sessions/{session_id}/project", json={"project_id": "p"}
        ).status_code
        == 404
    )
    assert two.bob.ok("sessions/search", owner={"type": "accessible"})["sessions"] == []
    assert two.bob.get("checkpoints").json()["checkpoints"] == []
    assert two.bob.get("billing/usage/checkpoints/current").json()["data"] == []
    assert two.bob.get("audit").json()["entries"] == []


def test_a_search_by_the_name_of_an_owner_finds_one_s_own(two: Two) -> None:
    session_id = two.ada.session()
    [mine] = two.ada.ok("sessions/search")["sessions"]
    query = {"owner": {"type": "user", "owner_urns": [mine["owner"]]}}
    assert [
        session["session_id"] for session in two.ada.ok("sessions/search", **query)["sessions"]
    ] == [session_id]
    assert two.bob.ok("sessions/search", **query)["sessions"] == []
