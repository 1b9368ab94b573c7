"""The search for sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, started


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """A server with five sessions, each known by its display name."""
    with started(RecordingEngine()) as api:
        for number, name in enumerate(["Red Apple", "red pear", "Grüne Traube", "blue", ""]):
            made = api.ok(
                "create_session",
                tags=[],
                user_metadata={"n": str(number), "all": "yes"},
                sdk_version="1",
                display_name=name,
            )
            _ids[name] = made["session_id"]
        for name, reason in ("red pear", "success"), ("Grüne Traube", "errored"):
            api.ok(f"sessions/{_ids[name]}/finish", reason={"type": reason}, detail="why")
        assert (
            api.http.put(
                f"{API}/sessions/{_ids['blue']}/project", json={"project_id": "p1"}
            ).status_code
            == 200
        )
        yield api


_ids: dict[str, str] = {}


def names(answer: dict[str, Any]) -> list[str]:
    return [session.get("display_name", "") for session in answer["sessions"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["", "blue", "Grüne Traube", "red pear", "Red Apple"]),
        ({"display_name": "RED"}, ["red pear", "Red Apple"]),
        ({"display_name": "apple red"}, ["Red Apple"]),
        ({"display_name": "GRÜNE"}, ["Grüne Traube"]),
        ({"user_metadata": {"all": "yes", "n": "3"}}, ["blue"]),
        ({"user_metadata": {"all": "no"}}, []),
        ({"project_ids": ["p0", "p1"]}, ["blue"]),
        ({"project_ids": []}, []),
        ({"statuses": [{"type": "active"}]}, ["", "blue", "Red Apple"]),
        ({"statuses": [{"type": "client_finished"}]}, ["Grüne Traube", "red pear"]),
        (
            {
                "statuses": [
                    {"type": "client_finished", "reasons": ["errored"]},
                    {"type": "cancelled"},
                ]
            },
            ["Grüne Traube"],
        ),
        ({"statuses": [{"type": "failed"}]}, []),
        ({"owner": {"type": "own"}}, ["", "blue", "Grüne Traube", "red pear", "Red Apple"]),
        ({"owner": {"type": "accessible"}, "limit": 1}, [""]),
        ({"owner": {"type": "user", "owner_urns": ["tml:user:other"]}}, []),
        (
            {
                "owner": {"type": "user", "owner_urns": ["tml:user:other", "tml:user:local"]},
                "display_name": "blue",
            },
            ["blue"],
        ),
    ],
)
def test_a_search(api: Api, query: dict[str, Any], expected: list[str]) -> None:
    assert names(api.ok("sessions/search", **query)) == expected


def test_a_search_may_have_many_conditions(api: Api) -> None:
    metadata = {str(number): "" for number in range(100)}
    many = {
        "display_name": "word " * 100,
        "project_ids": ["p"] * 100,
        "user_metadata": metadata,
        "statuses": [{"type": "active"}] * 5000,
    }
    assert names(api.ok("sessions/search", session_id=_ids["blue"], **many)) == []


def test_either_of_id_and_name_is_enough(api: Api) -> None:
    assert names(api.ok("sessions/search", session_id=_ids["blue"])) == ["blue"]
    assert names(api.ok("sessions/search", session_id=_ids["blue"], display_name="pear")) == [
        "blue",
        "red pear",
    ]


def test_pages_follow_one_another_to_the_end(api: Api) -> None:
    found: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = api.ok("sessions/search", **query)
        assert len(page["sessions"]) <= 2
        found += [session["session_id"] for session in page["sessions"]]
        if page.get("next_cursor") is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == [session["session_id"] for session in api.ok("sessions/search")["sessions"]]
    gone = {"last_created_at": "1999-01-01T00:00:00Z", "last_session_id": "s-gone"}
    assert api.ok("sessions/search", cursor=gone)["sessions"] == []


def test_a_summary_says_how_a_session_is(api: Api) -> None:
    [pear] = api.ok("sessions/search", display_name="pear")["sessions"]
    assert pear["status"] == {
        "type": "client_finished",
        "detail": "why",
        "reason": {"type": "success"},
    }
    assert (pear["owner"], pear["user_metadata"]) == ("tml:user:local", {"n": "1", "all": "yes"})
    [apple] = api.ok("sessions/search", display_name="apple")["sessions"]
    assert (apple["status"], apple["checkpoints_count"]) == ({"type": "active"}, 0)

    model_id = api.result(api.ok("create_model", **new_model(_ids["Red Apple"])))["model_id"]
    api.result(api.ok("save_weights_for_sampler", model_id=model_id, seq_id=1, path="x"))
    [apple] = api.ok("sessions/search", display_name="apple")["sessions"]
    assert (apple["checkpoints_count"], apple["checkpoint_storage_bytes"]) == (1, 5)


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ({"limit": 0}, ["limit"]),
        ({"display_name": "word " * 101}, ["display_name"]),
        ({"project_ids": ["p"] * 101}, ["project_ids"]),
        ({"user_metadata": {str(number): "" for number in range(101)}}, ["user_metadata"]),
        ({"limit": 201}, ["limit"]),
        ({"statuses": []}, ["statuses"]),
        ({"statuses": [{"type": "active"}, {"type": "odd"}]}, ["statuses", 1, "type"]),
        (
            {"statuses": [{"type": "client_finished", "reasons": ["odd"]}]},
            ["statuses", 0, "reasons"],
        ),
        ({"owner": {"type": "user"}}, ["owner"]),
        ({"owner": {"type": "user", "owner_urns": ["u"] * 11}}, ["owner"]),
        ({"owner": {"type": "odd"}}, ["owner"]),
        (
            {"cursor": {"last_created_at": "then", "last_session_id": "s"}},
            ["cursor", "last_created_at"],
        ),
    ],
)
def test_an_invalid_search_is_422(api: Api, query: dict[str, Any], at: list[str | int]) -> None:
    response = api.send("sessions/search", **query)
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", *at])


def test_an_unknown_session_cannot_be_moved(api: Api) -> None:
    assert (
        api.http.put(f"{API}/sessions/s-none/project", json={"project_id": "p"}).status_code == 404
    )
    assert api.http.put(f"{API}/sessions/{_ids['']}/project", json={}).status_code == 422
