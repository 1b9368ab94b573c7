"""The steps of a run: `tinkex run watch` follows them, and programs add values to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, started


@pytest.fixture
def api() -> Iterator[Api]:
    with started(RecordingEngine()) as api:
        yield api


def take_step(api: Api, model_id: str, seq_id: int) -> None:
    api.result(api.step(model_id, seq_id, 1, 2, 3))
    api.result(api.ok("optim_step", model_id=model_id, seq_id=seq_id + 1, adam_params={}))


def test_only_steps_that_were_applied_and_that_are_new_are_listed(api: Api) -> None:
    model_id = api.model()
    take_step(api, model_id, 1)
    take_step(api, model_id, 3)
    api.result(api.step(model_id, 5, 1, 2, 3))  # without its optim_step
    listed = api.http.get(f"{API}/training_runs/{model_id}/steps").json()
    assert listed["state"] == "ready"
    assert [step["step"] for step in listed["steps"]] == [1, 2]
    assert all(step["loss"] > 0 and step["at"].endswith("Z") for step in listed["steps"])
    new = api.http.get(f"{API}/training_runs/{model_id}/steps", params={"after": 1}).json()["steps"]
    assert new == listed["steps"][1:]


def test_what_does_not_exist_or_fit_is_refused(api: Api) -> None:
    absent = api.http.get(f"{API}/training_runs/no-such-run/steps")
    assert (absent.status_code, absent.json()) == (404, {"detail": "unknown model 'no-such-run'"})
    wrong = api.http.get(f"{API}/training_runs/{api.model()}/steps", params={"after": "-1"})
    assert wrong.status_code == 422
    assert "must be a whole number, 0 or more" in wrong.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"metrics": {}},
        {"metrics": {"reward": "high"}},
        {"metrics": {"reward": True}},
        {"metrics": {"loss": 1.0}},
        {"metrics": {"x" * 101: 1.0}},
        {"metrics": {str(n): 1.0 for n in range(33)}},
        {"metrics": {"reward": 1.0}, "step": 0},
    ],
)
def test_metrics_that_are_none_are_refused(api: Api, body: dict[str, Any]) -> None:
    model_id = api.model()
    take_step(api, model_id, 1)
    answer = api.http.post(f"{API}/training_runs/{model_id}/metrics", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_metrics_of_a_step_that_is_not_there_are_refused(api: Api) -> None:
    answer = api.http.post(
        f"{API}/training_runs/{api.model()}/metrics", json={"metrics": {"reward": 1}}
    )
    assert answer.status_code == 400
    assert "has no step" in answer.json()["detail"]
    absent = api.http.post(f"{API}/training_runs/no-such/metrics", json={"metrics": {"reward": 1}})
    assert absent.status_code == 404
