"""The management of checkpoints over REST."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, listed, saved, started


def test_a_checkpoint_is_published_once_and_taken_back_once(api: Api) -> None:
    model_id, url = saved(api)
    assert [api.http.post(f"{url}/publish").status_code for _ in range(2)] == [200, 409]
    assert listed(api, model_id)["public"] is True
    assert [api.http.delete(f"{url}/publish").status_code for _ in range(2)] == [200, 409]
    assert listed(api, model_id)["public"] is False
    assert api.http.post(f"{url}x/publish").status_code == 404


def test_the_time_to_live_is_counted_from_now_and_can_be_cleared(api: Api) -> None:
    model_id, url = saved(api)
    assert api.http.put(f"{url}/ttl", json={"ttl_seconds": 7200}).status_code == 200
    left = datetime.fromisoformat(listed(api, model_id)["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=7100) < left <= timedelta(seconds=7200)
    assert api.http.put(f"{url}/ttl", json={"ttl_seconds": None}).status_code == 200
    assert "expires_at" not in listed(api, model_id)


@pytest.mark.parametrize("seconds", [0, -1, 2**62, "long"])
def test_an_invalid_time_to_live_is_422(api: Api, seconds: object) -> None:
    _, url = saved(api)
    response = api.http.put(f"{url}/ttl", json={"ttl_seconds": seconds})
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (
        422,
        ["body", "ttl_seconds"],
    )


@pytest.mark.parametrize("kind", ["save_weights", "save_weights_for_sampler"])
def test_the_metadata_of_a_checkpoint_is_listed(api: Api, kind: str) -> None:
    model_id, _ = saved(api, kind=kind, user_metadata={"step": "7"})
    assert listed(api, model_id)["user_metadata"] == {"step": "7"}
    [entry] = [
        row
        for row in api.get("checkpoints").json()["checkpoints"]
        if model_id in row["tinker_path"]
    ]
    assert entry["user_metadata"] == {"step": "7"}


def test_the_runs_of_a_project_are_listed_alone(api: Api) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    assert (
        api.http.put(
            f"{API}/sessions/{session_id}/project", json={"project_id": "p-runs"}
        ).status_code
        == 200
    )
    page = api.get("training_runs", project_id="p-runs").json()
    assert [run["training_run_id"] for run in page["training_runs"]] == [model_id]
    assert page["cursor"]["total_count"] == 1
    assert api.get("training_runs", project_id="p-none").json()["training_runs"] == []
    assert api.get("training_runs", access_scope="everything").status_code == 422


def test_a_run_whose_steps_since_its_last_save_are_lost_is_corrupted(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        left, _ = saved(api)
        trained, _ = saved(api, "two")
        api.result(api.step(trained, 2, 3))
        assert not api.get(f"training_runs/{trained}").json()["corrupted"]
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert not api.get(f"training_runs/{left}").json()["corrupted"]
        assert api.get(f"training_runs/{trained}").json()["corrupted"]
        response = api.send(
            "optim_step", model_id=trained, seq_id=3, adam_params={"learning_rate": 0.1}
        )
        assert response.status_code == 404
        assert "load what it saved last" in response.json()["detail"]


def test_a_model_that_could_not_be_made_is_a_corrupted_run(api: Api) -> None:
    body = {
        "session_id": api.session(),
        "model_seq_id": 0,
        "base_model": "fake/base",
        "lora_config": {"rank": 65},
    }
    promise = api.ok("create_model", **body)
    assert api.result(promise)["category"] == "user"
    assert api.get(f"training_runs/{promise['model_id']}").json()["corrupted"]


def test_the_optimizer_of_a_model_and_of_weights_is_reported(api: Api) -> None:
    model_id, _ = saved(api)
    assert api.ok("get_info", model_id=model_id)["optimizer_config"] == {"type": "adamw"}
    path = f"tinker://{model_id}/weights/one"
    assert api.ok("weights_info", tinker_path=path)["optimizer_config"] == {"type": "adamw"}


def test_an_unknown_checkpoint_is_404_for_every_operation(api: Api) -> None:
    url = f"{API}/training_runs/{api.model()}/checkpoints/weights/none"
    calls: list[tuple[str, str, Any]] = [
        *(
            ("GET", what, None)
            for what in ("archive", "download", "external_weights_urls", "files/a")
        ),
        ("POST", "publish", None),
        ("PUT", "ttl", {"ttl_seconds": None}),
    ]
    for method, what, body in calls:
        response = api.http.request(method, f"{url}/{what}", json=body)
        assert (response.status_code, what) == (404, what)
