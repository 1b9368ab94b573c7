"""Saves and loads of training state over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, new_model, sample, saved_folder, started
from tinkex.local import Server
from tinkex_server.wire.content import files_of


def save(api: Api, model_id: str, seq_id: int, name: str = "state", **how: Any) -> dict[str, Any]:
    return api.ok("save_weights", model_id=model_id, seq_id=seq_id, path=name, **how)


def load(api: Api, path: str, *, optimizer: bool = True, **where: Any) -> dict[str, Any]:
    return api.ok("load_weights", path=path, optimizer=optimizer, type="load_weights", **where)


@pytest.fixture
def path(api: Api) -> str:
    """A saved training state."""
    return api.result(save(api, api.model(), 1))["path"]


def test_a_training_state_is_saved_listed_described_and_deleted(api: Api, server: Server) -> None:
    model_id = api.model()
    result = api.result(
        save(api, model_id, 1, "a.1", ttl_seconds=3600, overwrite=False, type="save_weights")
    )
    assert result == {"path": f"tinker://{model_id}/weights/a.1", "type": "save_weights"}
    assert api.engine.count("save_model", model_id, "with optimizer") == 1
    folder = saved_folder(server.data_dir, model_id, "weights", "a.1")
    assert (folder / "optimizer.safetensors").is_file()

    [listed] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    assert (listed["checkpoint_id"], listed["checkpoint_type"]) == ("weights/a.1", "training")
    assert listed["size_bytes"] == sum(file.stat().st_size for file in files_of(folder))
    assert listed["expires_at"] > listed["time"]
    assert api.get(f"training_runs/{model_id}").json()["last_checkpoint"] == listed
    info = api.ok("weights_info", tinker_path=result["path"])
    assert (info["base_model"], info["lora_rank"], info["train_mlp"]) == ("fake/base", 4, True)

    assert (
        api.http.delete(f"/api/v1/training_runs/{model_id}/checkpoints/weights/a.1").status_code
        == 200
    )
    assert list(folder.parent.iterdir()) == []
    assert api.send("weights_info", tinker_path=result["path"]).status_code == 404
    assert "path" in api.result(save(api, model_id, 2, "a.1")), "the name is free again"


def test_a_name_in_use_needs_overwrite(api: Api) -> None:
    model_id = api.model()
    first = api.result(save(api, model_id, 1, ttl_seconds=60))
    refused = api.result(save(api, model_id, 2))
    assert (refused["category"], "exists" in refused["error"]) == ("user", True)
    assert api.result(save(api, model_id, 3, overwrite=True)) == first
    [listed] = api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]
    assert listed.get("expires_at") is None, "the newer one does not expire"
    api.result(api.ok("save_weights_for_sampler", model_id=model_id, seq_id=4, path="state"))
    assert len(api.get(f"training_runs/{model_id}/checkpoints").json()["checkpoints"]) == 2, (
        "each kind has names of its own"
    )


@pytest.mark.parametrize(
    "how", [{"path": "a/b"}, {"path": ""}, {"ttl_seconds": 0}, {"overwrite": "yes"}, {"path": None}]
)
def test_a_malformed_save_is_422_and_takes_no_seq_id(api: Api, how: dict[str, Any]) -> None:
    model_id = api.model()
    assert (
        api.send(
            "save_weights", **{"model_id": model_id, "seq_id": 1, "path": "x", **how}
        ).status_code
        == 422
    )
    assert "path" in api.result(save(api, model_id, 1))


def test_saves_and_loads_run_in_order(api: Api) -> None:
    model_id = api.model()
    wanted = f"tinker://{model_id}/weights/state"
    promises = [
        load(api, wanted, model_id=model_id, seq_id=4),
        api.step(model_id, 3, 5),
        save(api, model_id, 2),
        api.step(model_id, 1, 4),
    ]
    assert api.result(promises[0]) == {"path": wanted, "model_id": model_id, "type": "load_weights"}
    assert load(api, wanted, model_id=model_id, seq_id=4) == promises[0]
    made = [call[0] for call in api.engine.calls if call[1] == model_id]
    assert made == [
        "create_model",
        "forward_backward",
        "save_model",
        "forward_backward",
        "load_model",
    ]


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_state_is_loaded_into_a_model_as_asked(api: Api, path: str, optimizer: bool) -> None:
    model_id = api.model()
    api.result(load(api, path, optimizer=optimizer, model_id=model_id, seq_id=1))
    assert (
        api.engine.count(
            "load_model", model_id, "with optimizer" if optimizer else "without optimizer", "state"
        )
        == 1
    )


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"rank": 8}, "rank 4 and not 8"),
        ({"rank": 4, "train_unembed": False}, "train_unembed True and not False"),
        (
            {"rank": 2, "train_mlp": False, "train_attn": False},
            "rank 4 and not 2, train_attn True and not False, train_mlp True",
        ),
    ],
)
def test_a_load_into_another_shape_names_the_difference(
    api: Api, path: str, lora: dict[str, Any], words: str
) -> None:
    promise = api.ok("create_model", **{**new_model(api.session()), "lora_config": lora})
    failed = api.result(load(api, path, model_id=promise["model_id"], seq_id=1))
    assert failed["category"] == "user"
    assert words in failed["error"]
    assert api.engine.count("load_model", promise["model_id"]) == 0
    assert "metrics" in api.result(api.step(promise["model_id"], 2)), (
        "the model can still be trained"
    )


def test_a_checkpoint_that_is_not_there_fails_at_its_turn(api: Api) -> None:
    model_id = api.model()
    for seq_id, run in enumerate([model_id, "s-none:train:0"], start=1):
        failed = api.result(
            load(api, f"tinker://{run}/weights/none", model_id=model_id, seq_id=seq_id)
        )
        assert failed == {
            "error": f"there is no checkpoint tinker://{run}/weights/none",
            "category": "user",
        }


def test_a_new_model_is_made_from_a_state(api: Api) -> None:
    config = {"rank": 3, "train_mlp": False}
    source = api.ok("create_model", **{**new_model(api.session()), "lora_config": config})[
        "model_id"
    ]
    path = api.result(save(api, source, 1))["path"]
    session_id = api.session()
    how = {
        "session_id": session_id,
        "model_seq_id": 2,
        "user_metadata": {"a": "b"},
        "optimizer_config": {"type": "adamw"},
    }
    promise = load(api, path, **how)
    model_id = f"{session_id}:train:2"
    assert promise["model_id"] == model_id
    assert api.result(promise) == {"path": path, "model_id": model_id, "type": "load_weights"}
    assert load(api, path, **how) == promise, "a repeat creates no second model"
    assert [call[0] for call in api.engine.calls if call[1] == model_id] == [
        "create_model",
        "load_model",
    ]

    assert api.ok("get_info", model_id=model_id)["lora_rank"] == 3
    assert api.get(f"training_runs/{model_id}").json()["user_metadata"] == {"a": "b"}
    assert "metrics" in api.result(api.step(model_id, 1)), "its first request has number 1"
    again = api.result(save(api, model_id, 2))["path"]
    assert api.ok("weights_info", tinker_path=again)["train_mlp"] is False


@pytest.mark.parametrize(("with_optimizer", "wanted"), [(True, "sgd"), (False, "dimuon")])
def test_a_new_model_has_the_optimizer_whose_state_is_loaded_or_else_the_one_asked_for(
    api: Api, with_optimizer: bool, wanted: str
) -> None:
    source = api.result(
        api.ok("create_model", **new_model(api.session(), optimizer_config={"type": "sgd"}))
    )["model_id"]
    path = api.result(save(api, source, 1))["path"]
    assert api.ok("weights_info", tinker_path=path)["optimizer_config"]["type"] == "sgd"
    how = {"session_id": api.session(), "model_seq_id": 0, "optimizer_config": {"type": "dimuon"}}
    model_id = api.result(load(api, path, optimizer=with_optimizer, **how))["model_id"]
    assert (
        api.engine.optimizers[model_id],
        api.ok("get_info", model_id=model_id)["optimizer_config"]["type"],
    ) == (wanted, wanted)


def test_the_state_of_another_optimizer_is_refused_but_its_weights_are_not(
    api: Api, path: str
) -> None:
    model_id = api.result(
        api.ok("create_model", **new_model(api.session(), optimizer_config={"type": "sgd"}))
    )["model_id"]
    failed = api.result(load(api, path, model_id=model_id, seq_id=1))
    assert (failed["category"], "it has optimizer 'adamw' and not 'sgd'" in failed["error"]) == (
        "user",
        True,
    )
    assert api.result(load(api, path, optimizer=False, model_id=model_id, seq_id=2))["path"] == path


def test_a_number_of_a_session_is_for_one_model(api: Api, path: str) -> None:
    session_id = api.session()
    api.model(session_id, 0)
    response = api.send(
        "load_weights", path=path, optimizer=True, session_id=session_id, model_seq_id=0
    )
    assert (response.status_code, "number 0" in response.json()["detail"]) == (400, True)


def test_a_new_model_that_cannot_be_loaded_is_not_left_behind(api: Api) -> None:
    path = api.result(save(api, api.model(), 1, "misfit"))["path"]
    promise = load(api, path, session_id=api.session(), model_seq_id=0)
    assert api.result(promise) == {"error": "the saved weights do not fit", "category": "user"}
    assert promise["model_id"] not in api.engine.models
    assert api.send("get_info", model_id=promise["model_id"]).status_code == 200, "the run is known"
    assert (
        api.send("optim_step", model_id=promise["model_id"], seq_id=1, adam_params={}).status_code
        == 404
    )


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"path": "tinker://RUN/weights/none"}, 404, "no checkpoint"),
        ({"path": "tinker://RUN/sampler_weights/state"}, 400, "has no training state"),
        ({"path": "somewhere"}, 400, "not a checkpoint path"),
        ({"base_model": "no/such"}, 400, "fake/base"),
        ({"optimizer_config": {"type": "lion"}, "optimizer": False}, 400, "no optimizer 'lion'"),
        ({"session_id": "s-none"}, 404, "unknown session"),
        ({"session_id": None}, 422, "or session_id, but not both"),
        ({"model_id": "RUN"}, 422, "or session_id, but not both"),
        ({"model_seq_id": None}, 422, "is missing"),
        ({"model_seq_id": -1}, 422, "0 or more"),
        ({"optimizer": None}, 422, "is missing"),
    ],
)
def test_an_invalid_load_is_refused(
    api: Api, path: str, change: dict[str, Any], status: int, words: str
) -> None:
    run = path.split("/")[2]
    change = {
        key: value.replace("RUN", run) if isinstance(value, str) else value
        for key, value in change.items()
    }
    session_id = api.session()
    response = api.send(
        "load_weights",
        **{"path": path, "optimizer": True, "session_id": session_id, "model_seq_id": 0, **change},
    )
    assert (response.status_code, words in response.text) == (status, True), response.text
    assert api.get(f"sessions/{session_id}").json()["training_run_ids"] == []


def test_a_training_state_can_be_sampled(api: Api, server: Server, path: str) -> None:
    session_id = api.session()
    sampler_id = api.sampler(session_id, 0, model_path=path)
    assert api.result(api.ok("asample", **sample(sampler_id)))["sequences"]
    run = path.split("/")[2]
    assert api.engine.samplers[sampler_id] == saved_folder(server.data_dir, run, "weights", "state")


def test_a_training_state_outlives_the_server(tmp_path: Path) -> None:
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        model_id = api.model()
        path = api.result(save(api, model_id, 1))["path"]
    with started(RecordingEngine(), data_dir=tmp_path) as api:
        assert (
            api.send(
                "load_weights", path=path, optimizer=True, model_id=model_id, seq_id=2
            ).status_code
            == 404
        )
        result = api.result(load(api, path, session_id=api.session(), model_seq_id=0))
        assert result["path"] == path
        assert "metrics" in api.result(api.step(result["model_id"], 1))


def tiny_steps(api: Api, model_id: str, first: int) -> list[float]:
    """Returns the losses of three steps of a real model, with six seq_ids from `first`."""
    text = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).tolist()
    datum = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": text[:-1]}]},
        "loss_fn_inputs": {"target_tokens": {"data": text[1:], "dtype": "int64"}},
    }
    batch = {"data": [datum] * 2, "loss_fn": "cross_entropy"}
    losses: list[float] = []
    for seq_id in range(first, first + 6, 2):
        promise = api.ok(
            "forward_backward", model_id=model_id, seq_id=seq_id, forward_backward_input=batch
        )
        losses.append(api.result(promise)["metrics"]["loss:sum"])
        api.result(
            api.ok(
                "optim_step",
                model_id=model_id,
                seq_id=seq_id + 1,
                adam_params={"learning_rate": 3e-3},
            )
        )
    return losses


def test_training_goes_on_bit_for_bit_in_a_new_model(torch_server: Server) -> None:
    with httpx.Client(base_url=torch_server.base_url, timeout=30) as http:
        api = Api(http, RecordingEngine())
        body = {**new_model(api.session()), "base_model": "tinkex/tiny"}
        source = api.result(api.ok("create_model", **body))["model_id"]
        tiny_steps(api, source, 1)
        path = api.result(save(api, source, 7))["path"]
        followed = tiny_steps(api, source, 8)
        by_session = api.result(load(api, path, session_id=api.session(), model_seq_id=0))[
            "model_id"
        ]
        assert tiny_steps(api, by_session, 1) == followed
        by_model = api.result(api.ok("create_model", **{**body, "session_id": api.session()}))[
            "model_id"
        ]
        api.result(load(api, path, model_id=by_model, seq_id=1))
        assert tiny_steps(api, by_model, 2) == followed
        afresh = api.result(
            load(api, path, optimizer=False, session_id=api.session(), model_seq_id=0)
        )["model_id"]
        without = tiny_steps(api, afresh, 1)
        assert (without[0] == followed[0], without[1:] == followed[1:]) == (True, False)
