"""The audit log, usage, and keys."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, sample, saved, started
from tests.support.wait_until import wait_until
from tinkex_server.access import tokens
from tinkex_server.routes.support.storage_hours import stored_hours
from tinkex_server.store import StoredSpan


@pytest.fixture
def api() -> Iterator[Api]:
    """A client of a new server, on which all counts begin at 0."""
    with started(RecordingEngine()) as api:
        yield api


# ---- the audit log ----


def events(api: Api, **query: str) -> list[str]:
    return [entry["event"] for entry in api.get("audit", **query).json()["entries"]]


def test_the_audit_log_lists_events_in_order(api: Api) -> None:
    model_id, url = saved(api)
    session_id = model_id.partition(":")[0]
    for method, what, body in (
        ("POST", "/publish", None),
        ("DELETE", "/publish", None),
        ("PUT", "/ttl", {"ttl_seconds": 9}),
    ):
        api.http.request(method, f"{url}{what}", json=body).raise_for_status()
    api.ok(
        "copy_weights", source_path=f"tinker://{model_id}/weights/one", destination_project_id="p"
    )
    api.http.delete(url).raise_for_status()
    api.http.put(
        f"{API}/sessions/{session_id}/project", json={"project_id": "p"}
    ).raise_for_status()
    api.result(api.ok("unload_model", model_id=model_id))
    api.ok(f"sessions/{session_id}/finish", reason={"type": "success"}, detail=None)

    checkpoints = [
        f"checkpoint.{what}"
        for what in ("saved", "published", "unpublished", "ttl_set", "copied", "deleted")
    ]
    assert events(api) == [
        *(
            "session.created",
            "model.created",
            *checkpoints,
            "project.assigned",
            "model.unloaded",
            "session.finished",
        ),
    ]
    assert events(api, event_type="checkpoints") == checkpoints
    assert events(api, event_type="projects") == ["project.assigned"]
    assert events(api, event_type="teams") == []
    first = api.get("audit", event_type="checkpoints").json()["entries"][0]
    size = 5 + len(model_id)
    assert first["event_details"] == {
        "tinker_path": f"tinker://{model_id}/weights/one",
        "size_bytes": size,
    }


def test_the_audit_log_is_of_a_day(api: Api) -> None:
    api.session()
    today = datetime.now(UTC).date()
    assert events(api, day=str(today)) + events(api, day=str(today + timedelta(days=1))) == [
        "session.created"
    ]
    assert events(api, day=str(today - timedelta(days=1))) == []
    assert api.get("audit", day="9999-12-31").status_code == 422
    for query in ({"day": "today"}, {"event_type": "odd"}):
        assert api.get("audit", **query).status_code == 422, query


# ---- usage ----


def usage(api: Api) -> list[dict[str, Any]]:
    """Returns the usage of this hour and the next, in case that one begins during the test."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    times = {
        "starting_on": hour.isoformat(),
        "ending_before": (hour + timedelta(hours=2)).isoformat().replace("+00:00", "Z"),
    }
    response = api.get("billing/usage/events", **times)
    assert response.status_code == 200, response.text
    return response.json()["data"]


def used(api: Api, kind: str, field: str) -> float:
    return sum(
        event["event_info"][field] for event in usage(api) if event["event_info"]["type"] == kind
    )


def test_tokens_and_checkpoints_are_counted(api: Api) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    api.result(api.step(model_id, 1, 3, 4, 5))
    api.result(api.step(model_id, 2, 99))  # this one fails, and is not counted
    api.result(api.ok("save_weights", model_id=model_id, seq_id=3, path="x"))
    api.result(api.ok("asample", **sample(api.sampler(session_id), 0, 5, 6, 7, num_samples=2)))
    assert used(api, "training", "token_count") == 3
    assert used(api, "sampling_prefill", "token_count") == 3
    assert used(api, "sampling_sample", "token_count") == 4
    assert used(api, "checkpoint", "count") == 1
    assert {event.get("session_id") for event in usage(api)} == {session_id}
    assert {event["estimated_cost_usd"] for event in usage(api)} == {0}


def test_a_sample_without_a_session_and_a_stream_are_counted_too(api: Api) -> None:
    body = {key: value for key, value in sample("").items() if key != "sampling_session_id"}
    api.result(api.ok("asample", **body, base_model="fake/base"))
    assert used(api, "sampling_sample", "token_count") == 2
    assert (
        api.http.post(f"{API}/asample_stream", json={**body, "base_model": "fake/base"}).status_code
        == 200
    )
    # counted when the stream has ended
    wait_until(lambda: used(api, "sampling_sample", "token_count") == 4)
    assert used(api, "sampling_prefill", "token_count") == 4


def test_storage_counts_while_it_lasts_and_after(api: Api) -> None:
    model_id, url = saved(api)
    [item] = api.get("billing/usage/checkpoints/current").json()["data"]
    size = 5 + len(model_id)
    assert (item["checkpoint_count"], item["size_bytes"], item["size_gigabytes"]) == (
        1,
        size,
        size / 1e9,
    )
    assert item["org_user_urn"] == "tml:user:local"
    assert api.get("billing/usage/checkpoints/current", project_id="other").json()["data"] == []
    while_there = used(api, "storage", "gigabyte_hours")
    assert 0 < while_there < size / 1e9 / 60
    assert api.http.delete(url).status_code == 200
    assert api.get("billing/usage/checkpoints/current").json()["data"] == []
    assert used(api, "storage", "gigabyte_hours") >= while_there


def test_the_hours_of_storage() -> None:
    spans = [
        StoredSpan("o", "s1", "m", None, 2_000_000_000, start=1800.0, end=7200.0 + 900),
        StoredSpan("o", "s1", "m", None, 1_000_000_000, start=3600.0, end=None),
        StoredSpan("o", "s2", "m", "p", 1_000_000_000, start=0.0, end=1.0),
    ]
    found = [
        (row.hour, row.attribution.session_id, row.gigabyte_hours)
        for row in stored_hours(spans, 3600, 36000, now=7200 + 1800)
    ]
    assert found == [(3600, "s1", 3.0), (7200, "s1", 1.0)]
    assert list(stored_hours([], 0, 3600, now=9000)) == []


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", "2026-01-16T00:00:00Z"),
        ("2026-01-01T00:30:00Z", "2026-01-02T00:00:00Z"),
        ("2026-01-01T00:00:00+01:00", "2026-01-02T00:00:00Z"),
        ("2026-01-01T00:00:00", "2026-01-02T00:00:00Z"),
        ("now", "later"),
    ],
)
def test_an_impossible_time_of_usage_is_422(api: Api, start: str, end: str) -> None:
    assert api.get("billing/usage/events", starting_on=start, ending_before=end).status_code == 422
    assert api.get("billing/usage/events").status_code == 422


# ---- keys ----


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_a_token_names_its_holder_and_its_expiry(api: Api) -> None:
    told = claims(api.ok("auth/token")["jwt"])
    assert (told["sub"], told["org_id"]) == ("tml:user:local", "local")
    assert told["exp"] - told["iat"] == 3600
    assert abs(told["iat"] - time.time()) < 5


def test_a_server_that_is_asked_to_tells_clients_to_exchange_their_keys(api: Api) -> None:
    assert api.ok("client/config", sdk_version="1")["pjwt_auth_enabled"] is False
    with started(RecordingEngine(), exchange_keys=True) as asked:
        assert asked.ok("client/config", sdk_version="1")["pjwt_auth_enabled"] is True


def test_without_keys_there_is_no_key_to_describe(api: Api) -> None:
    assert api.get("auth/apikey/me").status_code == 404
    assert api.http.delete(f"{API}/auth/apikey/me").status_code == 404


def test_a_token_holds_for_its_time_and_for_its_server() -> None:
    token = tokens.issue(b"secret", tokens.Holder("7", 100), {"sub": "u"}, now=100)
    assert tokens.is_token(token)
    assert tokens.holder_of(b"secret", token, now=100 + 3599) == tokens.Holder("7", 100)
    assert tokens.holder_of(b"secret", token, now=100 + 3600) is None
    assert tokens.holder_of(b"other", token, now=100) is None
    header, body, signature = token.split(".")
    for changed in f"{header}.{body}x.{signature}", f"{header}.{body}", "eyJ", f"{token}ä":
        assert tokens.holder_of(b"secret", changed, now=100) is None
