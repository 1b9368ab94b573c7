"""The search for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, started


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """A server with six checkpoints of two models, the second of which is in a project."""
    with started(RecordingEngine()) as api:
        first, second = api.session(), api.session()
        assert (
            api.http.put(f"{API}/sessions/{second}/project", json={"project_id": "p1"}).status_code
            == 200
        )
        for session_id in (first, second):
            model_id = api.result(api.ok("create_model", **new_model(session_id)))["model_id"]
            saves = [
                ("save_weights", {"user_metadata": {"n": "1", "all": "yes"}}),
                ("save_weights_for_sampler", {"user_metadata": {"n": "2", "all": "yes"}}),
                ("save_weights_external", {}),
            ]
            for number, (call, more) in enumerate(saves, 1):
                api.result(
                    api.ok(
                        call, model_id=model_id, seq_id=number, path=f"{call[13:] or 'w'}", **more
                    )
                )
        yield api


def names(answer: dict[str, Any]) -> list[str]:
    return [checkpoint["checkpoint_id"] for checkpoint in answer["checkpoints"]]


STATE, SAMPLER, EXTERNAL = "weights/w", "sampler_weights/for_sampler", "external_weights/external"
ALL = [EXTERNAL, SAMPLER, STATE]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [*ALL, *ALL]),
        ({"project_ids": ["p1", "p2"]}, ALL),
        ({"project_ids": []}, []),
        ({"checkpoint_type": "sampler"}, [SAMPLER, SAMPLER]),
        ({"checkpoint_type": "training", "project_ids": ["p1"]}, [STATE]),
        ({"user_metadata": {"all": "yes", "n": "2"}}, [SAMPLER, SAMPLER]),
        ({"user_metadata": {"all": "no"}}, []),
        ({"base_models": ["fake/base", "other"]}, [*ALL, *ALL]),
        ({"base_models": ["other"]}, []),
        ({"base_models": []}, []),
        ({"owner": {"type": "accessible"}, "limit": 2}, [EXTERNAL, SAMPLER]),
        ({"owner": {"type": "user", "owner_urns": ["tml:user:other"]}}, []),
        ({"owner": {"type": "user", "owner_urns": ["tml:user:local"]}, "limit": 1}, [EXTERNAL]),
    ],
)
def test_a_search(api: Api, query: dict[str, Any], expected: list[str]) -> None:
    assert names(api.ok("checkpoints/search", **query)) == expected


def test_found_checkpoints_look_like_listed_ones(api: Api) -> None:
    found = api.ok("checkpoints/search")["checkpoints"]
    assert found == api.get("checkpoints").json()["checkpoints"]
    assert {checkpoint["base_model"] for checkpoint in found} == {"fake/base"}


def test_pages_follow_one_another_to_the_end(api: Api) -> None:
    found: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = api.ok("checkpoints/search", **query)
        assert len(page["checkpoints"]) == 2
        found += [checkpoint["tinker_path"] for checkpoint in page["checkpoints"]]
        if page.get("next_cursor") is None:
            break
        query["cursor"] = page["next_cursor"]
    everything = api.ok("checkpoints/search")["checkpoints"]
    assert found == [checkpoint["tinker_path"] for checkpoint in everything]
    gone = {"last_created_at": "1999-01-01T00:00:00Z", "last_checkpoint_uuid": "gone"}
    assert api.ok("checkpoints/search", cursor=gone)["checkpoints"] == []


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ({"limit": 0}, ["limit"]),
        ({"limit": 201}, ["limit"]),
        ({"checkpoint_type": "odd"}, ["checkpoint_type"]),
        ({"base_models": ["b"] * 101}, ["base_models"]),
        ({"owner": {"type": "odd"}}, ["owner"]),
        (
            {"cursor": {"last_created_at": "then", "last_checkpoint_uuid": "c"}},
            ["cursor", "last_created_at"],
        ),
    ],
)
def test_an_invalid_search_is_422(api: Api, query: dict[str, Any], at: list[str]) -> None:
    response = api.send("checkpoints/search", **query)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", *at]


def test_a_key_finds_only_its_own_checkpoints() -> None:
    with started(RecordingEngine(), api_key=["tml-ada", "tml-bob"]) as api:
        api.http.headers["x-api-key"] = "tml-ada"
        api.result(api.ok("save_weights", model_id=api.model(), seq_id=1, path="w"))
        assert len(names(api.ok("checkpoints/search"))) == 1
        bob = httpx.post(
            f"{api.http.base_url}{API}/checkpoints/search",
            json={},
            headers={"x-api-key": "tml-bob"},
        )
        assert names(bob.json()) == []
