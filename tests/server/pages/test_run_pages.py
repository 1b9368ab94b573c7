"""The list of runs and the page of one: names, states, search, metrics, failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.server.pages.test_pages import text
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, started, step
from tinkex_server.engine.interface import LoraShape
from tinkex_server.store import Batch, ModelRow, SessionRow, Store


@pytest.fixture
def api() -> Iterator[Api]:
    with started(RecordingEngine()) as api:
        yield api


def add_run(api: Api, display_name: str | None, **metadata: str) -> str:
    session_id = api.ok(
        "create_session",
        tags=[],
        user_metadata=metadata,
        sdk_version="1",
        type="create_session",
        display_name=display_name,
    )["session_id"]
    return api.result(api.ok("create_model", **new_model(session_id)))["model_id"]


def take_step(api: Api, model_id: str, seq_id: int, *tokens: int) -> None:
    api.step(model_id, seq_id, *tokens)
    optim = {"model_id": model_id, "seq_id": seq_id + 1, "adam_params": {"learning_rate": 0.5}}
    api.result(api.ok("optim_step", **optim))


def titles(page: str) -> list[str]:
    return re.findall(r'<a class="title"[^>]*>([^<]+)</a>', page)


def test_runs_have_the_names_that_their_programs_gave_them(api: Api) -> None:
    nameless = add_run(api, None, recipe="sft")
    add_run(api, None, name="by metadata")
    add_run(api, "by session", name="other")
    page = api.http.get("/").text
    assert titles(page) == ["by session", "by metadata", nameless]
    assert "recipe sft" in text(page)


def test_runs_are_searched_filtered_and_sorted_by_the_address(api: Api) -> None:
    for name, value in (("Alpha", 3), ("beta", 1), ("gamma", 2)):
        take_step(api, add_run(api, name, team="red" if value > 1 else "blue"), 1, value)

    def found(query: str) -> list[str]:
        return titles(api.http.get(f"/{query}").text)

    assert found("?q=ALPHA") == ["Alpha"]
    assert found("?q=red+gam") == ["gamma"]
    assert found("?sort=loss") == ["beta", "gamma", "Alpha"]
    assert found("?sort=loss&reverse=1") == ["Alpha", "gamma", "beta"]
    assert found("?sort=name") == ["Alpha", "beta", "gamma"]
    assert found("?show=failed") == []
    assert found("?show=nonsense&sort=rowid;--&page=-1") == ["gamma", "beta", "Alpha"]
    nothing = text(api.http.get("/?q=nobody").text)
    assert "No run matches." in nothing
    assert "All 0 Active 0" in nothing


def test_a_list_of_a_thousand_runs_is_shown_in_pages(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        store.sessions.add(SessionRow("s", [], {}, "1", None, None, 0.0))
        for number in range(1000):
            row = ModelRow(f"run-{number}", "s", "b", LoraShape(4), "adamw", {}, "lost", 0.0, 0.0)
            store.models.add(row)
            store.steps.add_batch(row.model_id, Batch(loss=1.0, tokens=1), 0.0)
            store.steps.end(row.model_id)
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        page = api.http.get("/?page=2").text
        assert len(titles(page)) == 25
        assert "26–50 of 1000 Previous Page 2 of 40 Next" in text(page)
        assert 'href="?page=3" rel="next"' in page
        assert len(page) < 150_000
        assert titles(api.http.get("/?page=40").text)[-1] == "run-0"


def test_a_run_shows_every_metric_and_draws_the_chosen_one(api: Api) -> None:
    model_id = add_run(api, "many")
    take_step(api, model_id, 1, 4)
    take_step(api, model_id, 3, 2)
    added = api.http.post(
        f"{API}/training_runs/{model_id}/metrics", json={"metrics": {"reward": 0.75}}
    )
    assert (added.status_code, added.json()) == (200, {"step": 2})
    page = api.http.get(f"/runs/{model_id}").text
    shown = re.findall(r'<span class="name">([^<]+)</span><span class="value">([^<]+)<', page)
    assert dict(shown)["Loss per token"] == "2"
    assert dict(shown)["Learning rate"] == "0.5"
    assert dict(shown)["reward"] == "0.75"
    assert "Tokens per second" in dict(shown)
    assert '<h2 id="chart-title">Loss per token</h2>' in page
    rewards = api.http.get(f"/runs/{model_id}?metric=reward").text
    assert '<h2 id="chart-title">reward</h2>' in rewards
    assert "reward by step. 0.75 at step 2." in rewards
    unknown = api.http.get(f"/runs/{model_id}?metric=nonsense").text
    assert '<h2 id="chart-title">Loss per token</h2>' in unknown


def test_a_step_that_trains_nothing_has_metrics_and_no_loss(api: Api) -> None:
    model_id = add_run(api, "no signal")
    for number in (1, 2):
        body = {"metrics": {"reward": number / 4}, "step": number}
        answer = api.http.post(f"{API}/training_runs/{model_id}/metrics", json=body)
        assert (answer.status_code, answer.json()) == (200, {"step": number})
    listed = api.http.get(f"{API}/training_runs/{model_id}/steps").json()["steps"]
    assert [(each["step"], each["metrics"]["reward"]) for each in listed] == [(1, 0.25), (2, 0.5)]
    assert all("loss" not in each for each in listed)
    page = api.http.get(f"/runs/{model_id}").text
    assert "reward by step. From 0.25 at step 1 to 0.5 at step 2" in page
    assert "not a number" not in page + api.http.get("/").text
    take_step(api, model_id, 1, 4)
    listed = api.http.get(f"{API}/training_runs/{model_id}/steps").json()["steps"]
    assert [each.get("loss") for each in listed] == [None, None, 4.0]


def test_failures_are_listed_with_their_errors(api: Api) -> None:
    model_id = add_run(api, "unlucky")
    assert api.send("forward_backward", **_unknown_loss(model_id)).status_code == 400
    for number in (2, 3):
        api.step(model_id, number, 99)  # which the engine refuses
    api.result(api.step(model_id, 4, 1))
    page = text(api.http.get("/").text)
    assert "Failures 2" in page
    assert "unknown loss_fn 'no_such_loss'" in page
    assert "forward_backward × 2 · unlucky · caused by the request · 0 s ago" in page
    for url in (f"/runs/{model_id}", "/failures", f"/failures?run={model_id}"):
        shown = text(api.http.get(url).text)
        assert "unknown loss_fn 'no_such_loss'" in shown
    assert "Nothing has failed." in text(api.http.get("/failures?run=another").text)


def _unknown_loss(model_id: str) -> dict[str, Any]:
    body = step(model_id, 1)
    body["forward_backward_input"]["loss_fn"] = "no_such_loss"
    return body


def test_a_silent_client_is_told_from_one_that_is_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = add_run(api, "quiet")
    assert "quiet" in titles(api.http.get("/?show=active").text)
    for module in ("runs", "one_run", "names"):
        monkeypatch.setattr(f"tinkex_server.pages.{module}.SILENT_SECONDS", -1.0)
    assert titles(api.http.get("/?show=active").text) == []
    assert titles(api.http.get("/?show=gone").text) == ["quiet"]
    shown = text(api.http.get(f"/runs/{model_id}").text)
    assert "quiet client gone" in shown
    assert "client gone" in text(api.http.get("/sessions").text)


def test_an_ended_session_says_how_it_ended(api: Api) -> None:
    model_id = add_run(api, "crashed")
    session_id = model_id.partition(":")[0]
    body = {"reason": {"type": "errored"}, "detail": "ValueError: no data"}
    api.ok(f"sessions/{session_id}/finish", **body)
    assert "client failed ValueError: no data" in text(api.http.get("/?show=failed").text)
    assert "ValueError: no data" in text(api.http.get(f"/runs/{model_id}").text)


def test_a_page_that_is_not_there_says_so_to_people_and_programs(api: Api) -> None:
    as_page = api.http.get("/runs/no-such", headers={"Accept": "text/html"})
    assert (as_page.status_code, "unknown model" in text(as_page.text)) == (404, True)
    as_json = api.http.get("/runs/no-such")
    assert (as_json.status_code, as_json.json()) == (404, {"detail": "unknown model 'no-such'"})
