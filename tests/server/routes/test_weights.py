from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, new_model, sample, saved_folder, started
from tinkex.local import Server


def save(api: Api, model_id: str, seq_id: int, **how: Any) -> dict[str, Any]:
    return api.ok(
        "save_weights_for_sampler",
        model_id=model_id,
        seq_id=seq_id,
        type="save_weights_for_sampler",
        **how,
    )


def test_named_weights_are_listed_sampled_and_deleted(api: Api, server: Server) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    path = api.result(save(api, model_id, 1, path="a.1-b_c", kind="snapshot", ttl_seconds=3600))[
        "path"
    ]
    assert path == f"tinker://{model_id}/sampler_weights/a.1-b_c"
    folder = saved_folder(server.data_dir, model_id, "sampler_weights", "a.1-b_c")
    assert (folder / "adapter_model.safetensors").is_file()

    [listed] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    assert (listed["checkpoint_id"], listed["checkpoint_type"]) == (
        "sampler_weights/a.1-b_c",
        "sampler",
    )
    assert (listed["tinker_path"], listed["size_bytes"]) == (path, 5)
    assert listed["expires_at"] > listed["time"]
    assert listed in api.get("checkpoints").json()["checkpoints"]
    assert api.get(f"training_runs/{model_id}").json()["last_sampler_checkpoint"] == listed
    assert api.ok("weights_info", tinker_path=path)["lora_rank"] == 4

    sampler_id = api.sampler(session_id, 5, model_path=path)
    assert api.get(f"samplers/{sampler_id}").json() == {
        "sampler_id": sampler_id,
        "base_model": "fake/base",
        "model_path": path,
    }
    assert api.result(api.ok("asample", **sample(sampler_id)))["sequences"]
    assert api.engine.samplers[sampler_id] == folder

    unused = api.sampler(session_id, 6, model_path=path)
    assert (
        api.http.delete(
            f"/api/v1/training_runs/{model_id}/checkpoints/sampler_weights/a.1-b_c"
        ).status_code
        == 200
    )
    assert not folder.exists()
    assert api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"] == []
    assert (
        api.http.delete(
            f"/api/v1/training_runs/{model_id}/checkpoints/sampler_weights/a.1-b_c"
        ).status_code
        == 404
    )
    assert api.result(api.ok("asample", **sample(unused)))["category"] == "user"


def test_an_id_may_be_percent_encoded_whole(api: Api) -> None:
    model_id = api.model()
    api.result(save(api, model_id, 1, path="x"))
    response = api.http.delete(
        f"/api/v1/training_runs/{model_id.replace(':', '%3A')}/checkpoints/sampler_weights%2Fx"
    )
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
    assert save(api, model_id, 1, sampling_session_seq_id=9) == first, (
        "sent again, it takes a new number"
    )
    assert api.engine.count("save_model", model_id) == 1
    [folder] = (server.data_dir / "samplers").glob(
        f"{result['sampling_session_id'].replace(':', '_')}.*"
    )
    assert api.engine.samplers[result["sampling_session_id"]] == folder
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
def test_an_invalid_save_is_refused(api: Api, how: dict[str, Any], status: int) -> None:
    assert (
        api.send("save_weights_for_sampler", model_id=api.model(), seq_id=1, **how).status_code
        == status
    )


def test_training_runs_are_paged_newest_first(api: Api) -> None:
    older, newer = api.model(), api.model()
    page = api.get("training_runs", limit=2, access_scope="owned").json()
    assert [run["training_run_id"] for run in page["training_runs"]] == [newer, older]
    assert (page["cursor"]["offset"], page["cursor"]["limit"]) == (0, 2)
    assert page["cursor"]["total_count"] >= 2
    assert [
        run["training_run_id"]
        for run in api.get("training_runs", limit=1, offset=1).json()["training_runs"]
    ] == [older]
    assert api.get("training_runs", limit="many").status_code == 422


def test_saved_weights_survive_a_restart(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        session_id = api.session()
        model_id = api.model(session_id)
        path = api.result(save(api, model_id, 1, path="kept"))["path"]
        done = api.step(model_id, 2, 3)
        result = api.result(done)
        pending = api.step(model_id, 4)
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert api.result(done) == result
        assert "restarted" in api.result(pending)["error"]
        assert api.send("get_info", model_id=model_id).status_code == 200
        assert api.send("unload_model", model_id=model_id).status_code == 404
        sampler_id = api.sampler(session_id, 0, model_path=path)
        assert api.result(api.ok("asample", **sample(sampler_id)))["sequences"]


def test_inflight_weights_are_shared_and_replaced(api: Api, server: Server) -> None:
    model_id = api.model()
    saves = [
        save(api, model_id, 1 + n, sampling_session_seq_id=n, kind="inflight") for n in range(2)
    ]
    first, second = (api.result(promise)["sampling_session_id"] for promise in saves)
    assert first != second, "so that their samples have different numbers"
    for sampler_id in (first, second):
        assert api.result(api.ok("asample", **sample(sampler_id, 0)))["sequences"]
    weights = f"{model_id}:inflight"
    assert api.engine.count("load_sampler", weights) == 2, "loaded by the saves, not by the samples"
    assert api.engine.count("sample", weights) == 2
    [folder] = (server.data_dir / "samplers").glob(f"{weights.replace(':', '_')}.*")
    assert api.engine.samplers[weights] == folder, "the weights of the first save are gone"
    assert save(api, model_id, 2, sampling_session_seq_id=7, kind="inflight") == saves[1], (
        "sent again, it takes a new number"
    )


def test_the_last_inflight_weights_outlive_the_server(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        sampler_id = api.result(save(api, model_id, 1, sampling_session_seq_id=0, kind="inflight"))[
            "sampling_session_id"
        ]
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert api.result(api.ok("asample", **sample(sampler_id, 0)))["sequences"]
        assert api.engine.count("load_sampler", f"{model_id}:inflight") == 1


def test_weights_saved_as_files_are_listed_sampled_and_trained_on(api: Api, server: Server) -> None:
    model_id = api.model()
    saved = api.result(
        api.ok("save_weights_external", model_id=model_id, seq_id=1, path="all", ttl_seconds=3600)
    )
    assert saved == {
        "path": f"tinker://{model_id}/external_weights/all",
        "size_bytes": 5,
        "type": "save_weights_external",
    }
    assert (
        saved_folder(server.data_dir, model_id, "external_weights", "all")
        / "adapter_model.safetensors"
    ).is_file()
    [listed] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    assert (listed["checkpoint_type"], listed["checkpoint_id"]) == (
        "external",
        "external_weights/all",
    )
    run = api.get(f"training_runs/{model_id}").json()
    assert not run.get("last_checkpoint")
    body = {"session_id": api.session(), "sampling_session_seq_id": 0, "model_path": saved["path"]}
    assert api.ok("create_sampling_session", **body)["sampling_session_id"]
    loaded = api.ok(
        "load_weights", model_id=model_id, seq_id=2, path=saved["path"], optimizer=False
    )
    assert api.result(loaded)["path"] == saved["path"]
    recipients = {"age_encryption_recipients": ["age1x"]}
    assert (
        api.send(
            "save_weights_external", model_id=model_id, seq_id=3, path="b", **recipients
        ).status_code
        == 422
    )


def test_a_copy_is_a_run_of_its_own(api: Api, server: Server) -> None:
    model_id = api.model()
    source = api.result(
        api.ok("save_weights", model_id=model_id, seq_id=1, path="one", overwrite=False)
    )["path"]
    copy = api.ok("copy_weights", source_path=source, destination_project_id="p", ttl_seconds=3600)[
        "tinker_path"
    ]
    run_id = copy.removeprefix("tinker://").partition("/")[0]
    assert copy == f"tinker://{run_id}/weights/one" != source
    assert api.get(f"training_runs/{run_id}").json()["last_checkpoint"]["expires_at"]
    assert (
        api.http.delete(f"/api/v1/training_runs/{model_id}/checkpoints/weights/one").status_code
        == 200
    )
    loaded = api.ok(
        "load_weights", session_id=api.session(), model_seq_id=0, path=copy, optimizer=True
    )
    assert api.result(loaded)["path"] == copy
    folder = saved_folder(server.data_dir, run_id, "weights", "one")
    assert (folder / "optimizer.safetensors").read_bytes() == model_id.encode()


def test_a_copy_into_a_session_is_made_once_under_its_number(api: Api) -> None:
    source = api.result(save(api, api.model(), 1, path="one"))["path"]
    session_id = api.session()
    body = {"source_path": source, "session_id": session_id, "model_seq_id": 4}
    copy = api.ok("copy_weights", **body)
    assert copy == {"tinker_path": f"tinker://{session_id}:train:4/sampler_weights/one"}
    assert api.ok("copy_weights", **body) == copy
    assert api.send("create_model", **new_model(session_id, 4)).status_code == 400, (
        "the number is taken"
    )
    assert api.send("copy_weights", **{**body, "ttl_seconds": 9}).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"source_path": "PATH"}, 422),
        ({"source_path": "PATH", "destination_project_id": "p", "session_id": "s"}, 422),
        ({"source_path": "PATH", "session_id": "SESSION"}, 422),
        ({"source_path": "PATH", "session_id": "no", "model_seq_id": 0}, 404),
        ({"source_path": "PATH", "destination_project_id": "p", "ttl_seconds": 0}, 422),
        ({"source_path": "tinker://x/weights/no", "destination_project_id": "p"}, 404),
        ({"source_path": "elsewhere", "destination_project_id": "p"}, 400),
    ],
)
def test_an_invalid_copy_is_refused(api: Api, body: Any, status: int) -> None:
    session_id = api.session()
    path = api.result(save(api, api.model(session_id), 1, path="one"))["path"]
    body = {
        name: {"PATH": path, "SESSION": session_id}.get(value, value)
        for name, value in body.items()
    }
    before = api.get("sessions").json()
    assert api.send("copy_weights", **body).status_code == status
    assert api.get("sessions").json() == before
