from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tinkex.local import Server

from .helpers import Api, sample, started


def save(api: Api, model_id: str, seq_id: int, **how: Any) -> dict[str, Any]:
    return api.ok("save_weights_for_sampler", model_id=model_id, seq_id=seq_id, type="save_weights_for_sampler", **how)


def test_named_weights_are_listed_sampled_and_deleted(api: Api, server: Server) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    path = api.result(save(api, model_id, 1, path="a.1-b_c", kind="snapshot", ttl_seconds=3600))["path"]
    assert path == f"tinker://{model_id}/sampler_weights/a.1-b_c"
    folder = server.data_dir / "checkpoints" / model_id / "sampler_weights" / "a.1-b_c"
    assert (folder / "adapter_model.safetensors").is_file()

    [listed] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    assert (listed["checkpoint_id"], listed["checkpoint_type"]) == ("sampler_weights/a.1-b_c", "sampler")
    assert (listed["tinker_path"], listed["size_bytes"]) == (path, 5)
    assert listed["expires_at"] > listed["time"]
    assert listed in api.get("checkpoints").json()["checkpoints"]
    assert api.get(f"training_runs/{model_id}").json()["last_sampler_checkpoint"] == listed
    assert api.ok("weights_info", tinker_path=path)["lora_rank"] == 4

    sampler_id = api.sampler(session_id, 5, model_path=path)
    assert api.get(f"samplers/{sampler_id}").json() == {"sampler_id": sampler_id, "base_model": "fake/base", "model_path": path}
    assert api.result(api.ok("asample", **sample(sampler_id)))["sequences"]
    assert api.engine.samplers[sampler_id] == folder

    unused = api.sampler(session_id, 6, model_path=path)
    assert api.http.delete(f"/api/v1/training_runs/{model_id}/checkpoints/sampler_weights/a.1-b_c").status_code == 200
    assert not folder.exists()
    assert api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"] == []
    assert api.http.delete(f"/api/v1/training_runs/{model_id}/checkpoints/sampler_weights/a.1-b_c").status_code == 404
    assert api.result(api.ok("asample", **sample(unused)))["category"] == "user"


def test_an_id_may_be_percent_encoded_whole(api: Api) -> None:
    model_id = api.model()
    api.result(save(api, model_id, 1, path="x"))
    response = api.http.delete(f"/api/v1/training_runs/{model_id.replace(':', '%3A')}/checkpoints/sampler_weights%2Fx")
    assert response.status_code == 200


def test_a_name_in_use_is_refused_when_its_turn_comes(api: Api) -> None:
    model_id = api.model()
    first, second = save(api, model_id, 1, path="x"), save(api, model_id, 2, path="x")
    assert "path" in api.result(first)
    assert api.result(second)["category"] == "user"
    assert save(api, model_id, 1, path="x") == first


def test_an_ephemeral_save_opens_a_sampling_session(api: Api, server: Server) -> None:
    model_id = api.model()
    first = save(api, model_id, 1, sampling_session_seq_id=0)
    result = api.result(first)
    assert set(result) == {"sampling_session_id"}
    assert api.result(api.ok("asample", **sample(result["sampling_session_id"], 0)))["sequences"]
    assert save(api, model_id, 1, sampling_session_seq_id=9) == first, "sent again, it takes a new number"
    assert api.engine.count("save_model", model_id) == 1
    assert api.engine.samplers[result["sampling_session_id"]] == server.data_dir / "samplers" / result["sampling_session_id"]
    assert api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"] == []


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "ä", "x" * 256])
def test_a_name_that_cannot_be_a_folder_is_422(api: Api, name: str) -> None:
    body = {"model_id": api.model(), "seq_id": 1, "path": name}
    assert api.send("save_weights_for_sampler", **body).status_code == 422


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, 422),
        ({"path": "a", "sampling_session_seq_id": 0}, 422),
        ({"path": "a", "kind": "inflight"}, 422),
        ({"sampling_session_seq_id": 0, "kind": "inflight", "ttl_seconds": 3600}, 422),
        ({"sampling_session_seq_id": 0, "kind": "other"}, 422),
        ({"path": "a", "ttl_seconds": 0}, 422),
    ],
)
def test_a_save_that_cannot_be_is_refused(api: Api, how: dict[str, Any], status: int) -> None:
    assert api.send("save_weights_for_sampler", model_id=api.model(), seq_id=1, **how).status_code == status


def test_training_runs_are_paged_newest_first(api: Api) -> None:
    older, newer = api.model(), api.model()
    page = api.get("training_runs", limit=2, access_scope="owned").json()
    assert [run["training_run_id"] for run in page["training_runs"]] == [newer, older]
    assert (page["cursor"]["offset"], page["cursor"]["limit"]) == (0, 2)
    assert page["cursor"]["total_count"] >= 2
    assert [run["training_run_id"] for run in api.get("training_runs", limit=1, offset=1).json()["training_runs"]] == [older]
    assert api.get("training_runs", limit="many").status_code == 422


def test_what_was_saved_outlives_the_server(tmp_path: Path) -> None:
    with started(FakeEngine(), data_dir=tmp_path) as api:
        session_id = api.session()
        model_id = api.model(session_id)
        path = api.result(save(api, model_id, 1, path="kept"))["path"]
        done = api.step(model_id, 2, 3)
        result = api.result(done)
        pending = api.step(model_id, 4)
    with started(FakeEngine(), data_dir=tmp_path) as api:
        assert api.result(done) == result
        assert "restarted" in api.result(pending)["error"]
        assert api.send("get_info", model_id=model_id).status_code == 200
        assert api.send("unload_model", model_id=model_id).status_code == 404
        sampler_id = api.sampler(session_id, 0, model_path=path)
        assert api.result(api.ok("asample", **sample(sampler_id)))["sequences"]
