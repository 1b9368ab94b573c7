"""Runs that continue others: what their pages, and the answers about them, say of each other."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.pages.test_pages import text
from tests.server.pages.test_run_pages import add_run, take_step
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, started
from tinkex.local import serve

HERS, HIS = "tml-hers-1234", "tml-his-5678"


@pytest.fixture
def api() -> Iterator[Api]:
    with started(RecordingEngine()) as api:
        yield api


def train(api: Api, model_id: str, first: int, *losses: int) -> None:
    """Takes a step for each loss, from a seq_id on."""
    for number, loss in enumerate(losses):
        take_step(api, model_id, first + 2 * number, loss)


def save(api: Api, model_id: str, seq_id: int, name: str) -> str:
    return api.result(api.ok("save_weights", model_id=model_id, seq_id=seq_id, path=name))["path"]


def session(api: Api, name: str) -> str:
    body: dict[str, Any] = {"tags": [], "user_metadata": {}}
    body |= {"sdk_version": "1", "type": "create_session", "display_name": name}
    return api.ok("create_session", **body)["session_id"]


def continued(api: Api, path: str, name: str) -> str:
    """Creates a run from a checkpoint."""
    body = {"session_id": session(api, name), "model_seq_id": 0, "path": path, "optimizer": True}
    return api.result(api.ok("load_weights", **body))["model_id"]


def load(api: Api, model_id: str, seq_id: int, path: str) -> None:
    body = {"model_id": model_id, "seq_id": seq_id, "path": path, "optimizer": False}
    assert "error" not in api.result(api.ok("load_weights", **body))


def origins(api: Api, model_id: str) -> str:
    """Returns the sentences on other runs of a run's page."""
    found = re.search(r'<ul class="origins".*?</ul>', page(api, model_id), re.DOTALL)
    return text(found[0]) if found else ""


def page(api: Api, model_id: str) -> str:
    answer = api.http.get(f"/runs/{model_id}")
    assert answer.status_code == 200
    return answer.text


def described(api: Api, model_id: str) -> Mapping[str, Any]:
    return api.get(f"training_runs/{model_id}").json()


def test_a_run_made_from_a_checkpoint_and_the_one_before_lead_to_each_other(api: Api) -> None:
    old = add_run(api, "first night")
    train(api, old, 1, 9, 8)
    path = save(api, old, 5, "at-2")
    train(api, old, 6, 7)  # which the new run takes again
    new = continued(api, path, "second night")
    train(api, new, 1, 6, 5)
    assert origins(api, new) == "Continues first night , from checkpoint at-2 after step 2"
    assert origins(api, old) == "Continued by second night"
    assert f'<a href="/runs/{old}">first night</a>' in page(api, new)
    assert f'<a href="/runs/{new}">second night</a>' in page(api, old)
    shown = text(page(api, new))
    assert "Steps 2 after 2 of earlier runs" in shown
    assert "Up to step 2: first night." in shown
    assert re.search(r"Values as a table .* 2 8 first night 3 6 second night", shown)
    assert "Loss per token by step. From 9 at step 1 to 5 at step 4" in page(api, new)
    assert "From 9 at step 1 to 7 at step 3" in page(api, old)
    assert "continues first night" in text(api.http.get("/").text)


def test_the_answer_about_a_run_has_what_it_loaded_and_what_continues_it(api: Api) -> None:
    old, other = add_run(api, "old"), add_run(api, "other")
    assert not {"origins", "continued_by"} & described(api, old).keys()
    train(api, old, 1, 9, 8)
    path, second = save(api, old, 5, "at-2"), save(api, other, 1, "at-0")
    new = continued(api, path, "new")
    train(api, new, 1, 7)
    load(api, new, 3, second)
    assert described(api, new)["origins"] == [
        {"training_run_id": old, "tinker_path": path, "step": 2, "after_step": 0},
        {"training_run_id": other, "tinker_path": second, "step": 0, "after_step": 1},
    ]
    assert described(api, old)["continued_by"] == [new]
    assert "continued_by" not in described(api, other)
    assert "After step 3: loaded checkpoint at-0 of other , saved after step 0" in origins(api, new)


def test_weights_that_are_loaded_before_the_first_step_are_continued_too(api: Api) -> None:
    old, new = add_run(api, "old"), add_run(api, "new")
    train(api, old, 1, 9)
    load(api, new, 1, save(api, old, 3, "one"))
    assert origins(api, new) == "Continues old , from checkpoint one after step 1"
    assert "9 at step 1." in page(api, new)  # before its first step


def test_a_run_that_loads_its_own_checkpoint_continues_nothing(api: Api) -> None:
    run = add_run(api, "alone")
    path = save(api, run, 1, "begin")
    load(api, run, 2, path)
    train(api, run, 3, 9)
    load(api, run, 5, path)
    assert origins(api, run) == ""
    assert not {"origins", "continued_by"} & described(api, run).keys()


def test_runs_that_continue_each_other_have_an_end(api: Api) -> None:
    one, two = add_run(api, "one"), add_run(api, "two")
    paths = save(api, one, 1, "first"), save(api, two, 1, "second")
    load(api, one, 2, paths[1])
    load(api, two, 2, paths[0])
    train(api, one, 3, 9)
    assert (
        origins(api, one) == "Continues two , from checkpoint second after step 0 Continued by two"
    )
    assert "9 at step 1." in page(api, one)


def test_a_chain_of_resumes_counts_its_steps_from_the_first_one(api: Api) -> None:
    run = add_run(api, "night 0")
    for night in range(1, 6):
        train(api, run, 1, 10 - night)
        run = continued(api, save(api, run, 3, "end"), f"night {night}")
    shown = page(api, run)
    assert "From 9 at step 1 to 5 at step 5" in shown
    assert "Up to step 5: 5 earlier runs." in text(shown)
    assert origins(api, run) == "Continues night 4 , from checkpoint end after step 5"
    assert described(api, run)["origins"][0]["step"] == 1  # of that run


def test_a_run_with_many_children_names_the_newest(api: Api) -> None:
    old = add_run(api, "base")
    path = save(api, old, 1, "end")
    children = [continued(api, path, f"try {number}") for number in range(12)]
    named = ", ".join(f"try {number}" for number in range(11, 1, -1)).replace(",", " ,")
    assert origins(api, old) == f"Continued by {named} and 2 more"
    assert described(api, old)["continued_by"] == children[::-1]


def test_a_run_of_the_same_name_is_told_from_it_by_its_id(api: Api) -> None:
    old = add_run(api, "mine")
    train(api, old, 1, 9)
    new = continued(api, save(api, old, 3, "one"), "mine")
    assert origins(api, new) == f"Continues mine ({old}) , from checkpoint one after step 1"
    assert origins(api, old) == f"Continued by mine ({new})"
    assert f"Up to step 1: mine ({old})." in text(page(api, new))
    assert f"continues mine ({old})" in text(api.http.get("/").text)


def test_a_copied_checkpoint_goes_on_with_its_run(api: Api) -> None:
    old = add_run(api, "old")
    train(api, old, 1, 9, 8)
    body = {"source_path": save(api, old, 5, "two"), "session_id": session(api, "kept")}
    copy = api.ok("copy_weights", **body, model_seq_id=0)["tinker_path"]
    new = continued(api, copy, "new")
    train(api, new, 1, 7)
    assert origins(api, new) == "Continues kept , from checkpoint two after step 2"
    assert "From 9 at step 1 to 7 at step 3" in page(api, new)


def test_what_is_deleted_is_named(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        old = add_run(api, "old")
        train(api, old, 1, 9)
        new = continued(api, save(api, old, 3, "one"), "new")
        url = f"{API}/training_runs/{old}/checkpoints/weights/one"
        api.http.delete(url).raise_for_status()
        assert origins(api, new) == "Continues old , from checkpoint one after step 1"
    with closing(sqlite3.connect(tmp_path / "tinkex.db")) as database:
        for table in ("steps", "models"):
            database.execute(f"DELETE FROM {table} WHERE model_id = ?", [old])
        database.commit()
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert origins(api, new) == f"Continues {old} , from checkpoint one"
        assert f'href="/runs/{old}"' not in page(api, new)
        assert f"continues {old}" in text(api.http.get("/").text)
        assert described(api, new)["origins"] == [
            {
                "training_run_id": old,
                "tinker_path": f"tinker://{old}/weights/one",
                "after_step": 0,
            }
        ]


def test_runs_of_other_keys_stay_unknown() -> None:
    with (
        serve(engine=RecordingEngine(), api_key=[HERS, HIS]) as server,
        httpx.Client(base_url=server.base_url, headers={"X-API-Key": HERS}, timeout=15) as hers,
        httpx.Client(base_url=server.base_url, headers={"X-API-Key": HIS}, timeout=15) as his,
    ):
        owner, other = Api(hers, RecordingEngine()), Api(his, RecordingEngine())
        base = add_run(owner, "her base")
        train(owner, base, 1, 41)
        run = continued(owner, save(owner, base, 3, "base"), "her secret name")
        train(owner, run, 1, 42, 43)
        path = save(owner, run, 5, "shown")
        published = f"{API}/training_runs/{run}/checkpoints/weights/shown/publish"
        hers.post(published).raise_for_status()
        new = continued(other, path, "his")
        train(other, new, 1, 7)
        assert origins(other, new) == f"Continues {run} , from checkpoint shown"
        for shown in (page(other, new), his.get("/").text):
            assert "secret" not in shown
            assert "her base" not in shown
            assert f'href="/runs/{run}"' not in shown
        assert "Loss per token by step. 7 at step 1." in page(other, new)
        assert described(other, new)["origins"] == [
            {"training_run_id": run, "tinker_path": path, "after_step": 0}
        ]
        assert "Continued by" not in origins(owner, run)
        assert "continued_by" not in described(owner, run)
        seen = other.get(f"training_runs/{run}", access_scope="accessible")
        assert (seen.status_code, seen.json()["training_run_id"]) == (200, run)
        assert not {"origins", "continued_by"} & seen.json().keys()
        mine = continued(other, save(other, new, 3, "end"), "his again")
        assert "From 7 at step 1" not in page(other, mine)
        assert "7 at step 1." in page(other, mine)
        assert origins(other, mine) == "Continues his , from checkpoint end after step 1"
