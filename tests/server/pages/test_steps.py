"""The steps of a run as JSON, for `tinkex run watch`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, started


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
    listed = api.http.get(f"/runs/{model_id}/steps").json()
    assert listed["state"] == "ready"
    assert [step["step"] for step in listed["steps"]] == [1, 2]
    assert all(step["loss"] > 0 and step["at"] > 1e9 for step in listed["steps"])
    new = api.http.get(f"/runs/{model_id}/steps", params={"after": 1}).json()["steps"]
    assert new == listed["steps"][1:]


def test_what_does_not_exist_or_fit_is_refused(api: Api) -> None:
    absent = api.http.get("/runs/no-such-run/steps")
    assert (absent.status_code, absent.json()) == (404, {"detail": "unknown model 'no-such-run'"})
    wrong = api.http.get(f"/runs/{api.model()}/steps", params={"after": "-1"})
    assert wrong.status_code == 400
    assert wrong.json() == {"detail": "after must be the number of a step, not '-1'"}
