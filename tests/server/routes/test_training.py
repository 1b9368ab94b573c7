from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.server_calls import Api, new_model, step
from tinkex_server.engine.interface import (
    AdamSettings,
    DimuonSettings,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.engine.torch.losses import LOSSES
from tinkex_server.wire.loss_inputs import LOSS_FNS


def order(api: Api, model_id: str) -> list[str]:
    """Returns the calls of the engine for a model, a batch by its first token."""
    return [call[2] for call in api.engine.calls if call[1] == model_id and len(call) > 2]


def test_a_model_is_made_and_described(api: Api) -> None:
    session_id = api.session()
    promise = api.ok(
        "create_model",
        **new_model(session_id, 3, optimizer_config={"type": "adamw"}, user_metadata={"a": "b"}),
    )
    assert promise["model_id"] == f"{session_id}:train:3"
    assert api.result(promise)["model_id"] == promise["model_id"]
    info = api.ok("get_info", model_id=promise["model_id"])
    assert info["model_data"] == {
        "arch": "FakeForCausalLM",
        "model_name": "fake/base",
        "tokenizer_id": "fake/tokenizer",
    }
    assert (info["is_lora"], info["lora_rank"]) == (True, 4)
    assert api.get(f"training_runs/{promise['model_id']}").json()["user_metadata"] == {"a": "b"}


def test_a_model_asked_for_twice_is_made_once(api: Api) -> None:
    body = new_model(api.session())
    first, second = api.ok("create_model", **body), api.ok("create_model", **body)
    assert first == second
    api.result(first)
    assert api.ok("create_model", **body) == first
    assert api.engine.count("create_model", first["model_id"]) == 1


def test_a_step_gives_outputs_in_order_and_metrics(api: Api) -> None:
    result = api.result(api.step(api.model(), 1, 4, 5))
    assert result["loss_fn_outputs"] == [
        {"logprobs": {"data": [-4.0, -5.0], "dtype": "float32", "shape": [2]}}
    ]
    assert result["metrics"] == {"loss:sum": 9.0}


def test_forward_asks_for_no_gradients_and_optim_step_passes_its_parameters(api: Api) -> None:
    model_id = api.model()
    api.result(api.step(model_id, 1, path="forward"))
    promise = api.ok(
        "optim_step",
        model_id=model_id,
        seq_id=2,
        adam_params={"learning_rate": 0.5},
        type="optim_step",
    )
    assert api.result(promise)["metrics"] == {"learning_rate": 0.5}
    assert (
        api.engine.count("forward", model_id),
        api.engine.count("forward_backward", model_id),
    ) == (1, 0)
    assert api.engine.count("optim_step", model_id, "0.5") == 1


STEPS: Mapping[str, tuple[dict[str, Any], OptimizerSettings]] = {
    "adamw": (
        {"adam_params": {"learning_rate": 0.5, "beta1": 0.8, "eps": 1e-6}},
        AdamSettings(0.5, 0.8, eps=1e-6),
    ),
    "dimuon": (
        {"optimizer_params": {"type": "dimuon", "learning_rate": 0.5, "grad_clip_norm": 2.0}},
        DimuonSettings(0.5, grad_clip_norm=2.0),
    ),
    "sgd": ({"sgd_params": {"learning_rate": 0.5, "momentum": 0.9}}, SgdSettings(0.5, 0.9)),
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_model_is_trained_by_the_optimizer_it_was_created_with(api: Api, kind: str) -> None:
    model_id = api.result(
        api.ok("create_model", **new_model(api.session(), optimizer_config={"type": kind}))
    )["model_id"]
    assert api.engine.optimizers[model_id] == kind
    assert api.ok("get_info", model_id=model_id)["optimizer_config"]["type"] == kind
    for other in STEPS.keys() - {kind}:
        refused = api.send("optim_step", model_id=model_id, seq_id=1, **STEPS[other][0])
        assert (
            refused.status_code,
            f"with the optimizer {kind}, but this step has settings of {other}" in refused.text,
        ) == (400, True)
    params, settings = STEPS[kind]
    api.result(api.ok("optim_step", model_id=model_id, seq_id=1, **params))
    assert api.engine.settings[-1] == settings


@pytest.mark.parametrize(
    ("params", "at"),
    [
        ({}, ["adam_params"]),
        ({"adam_params": {}, "sgd_params": {"learning_rate": 0.1}}, ["adam_params"]),
        ({"adam_params": {"learning_rate": -1.0}}, ["adam_params", "learning_rate"]),
        ({"adam_params": {"beta2": 1.0}}, ["adam_params", "beta2"]),
        ({"adam_params": {"eps": 0.0}}, ["adam_params", "eps"]),
        ({"sgd_params": {"learning_rate": 0.1, "momentum": -0.1}}, ["sgd_params", "momentum"]),
        ({"sgd_params": {}}, ["sgd_params", "learning_rate"]),
        (
            {"optimizer_params": {"type": "lion", "learning_rate": 0.1}},
            ["optimizer_params", "type"],
        ),
        ({"optimizer_params": {"learning_rate": 0.1, "beta1": 2.0}}, ["optimizer_params", "beta1"]),
    ],
)
def test_an_invalid_step_is_422_and_names_the_field(
    api: Api, params: dict[str, Any], at: list[str]
) -> None:
    response = api.send("optim_step", model_id=api.model(), seq_id=1, **params)
    assert response.status_code == 422, response.text
    assert response.json()["detail"][0]["loc"] == ["body", *at]


def test_requests_run_in_the_order_of_seq_id(api: Api) -> None:
    model_id = api.model()
    promises = [api.step(model_id, number, number) for number in (2, 3, 5, 1, 4)]
    for promise in promises:
        api.result(promise)
    assert order(api, model_id) == ["1", "2", "3", "4", "5"]


def test_a_repeated_seq_id_gives_the_same_promise_and_is_applied_once(api: Api) -> None:
    model_id = api.model()
    early = [api.step(model_id, 2, 2) for _ in range(2)]
    first = [api.step(model_id, 1, 1) for _ in range(2)]
    results = [api.result(promise) for promise in (*early, *first)]
    late = api.step(model_id, 1, 1)
    assert early[0] == early[1]
    assert first[0] == first[1] == late
    assert results[0] == results[1]
    assert api.result(late) == results[2]
    assert order(api, model_id) == ["1", "2"]


def test_a_seq_id_used_for_something_else_is_refused(api: Api) -> None:
    model_id = api.model()
    api.step(model_id, 1, 1)
    response = api.send("forward_backward", **step(model_id, 1, 2))
    assert response.status_code == 400
    assert "number 1" in response.json()["detail"]


@pytest.mark.parametrize("unset", [None, 0])
def test_requests_without_a_seq_id_run_as_they_come(api: Api, unset: int | None) -> None:
    model_id = api.model()
    promises = [
        api.step(model_id, 1, 1),
        *(api.step(model_id, unset, token) for token in (2, 3, 3)),
    ]
    assert len({promise["request_id"] for promise in promises}) == 4
    for promise in promises:
        api.result(promise)
    assert order(api, model_id) == ["1", "2", "3", "3"]


def test_a_refused_request_takes_no_seq_id(api: Api) -> None:
    model_id = api.model()
    bad = step(model_id, 1)
    bad["forward_backward_input"]["loss_fn"] = "nonsense"
    assert api.send("forward_backward", **bad).status_code == 400
    assert "metrics" in api.result(api.step(model_id, 1))


def test_models_do_not_wait_for_each_other(api: Api) -> None:
    slow, quick = api.model(), api.model()
    blocked = api.step(slow, 1, 96)
    assert api.engine.waiting.acquire(timeout=5)
    assert api.result(api.step(quick, 1, 7))["metrics"] == {"loss:sum": 7.0}
    api.engine.gate.set()
    assert api.result(blocked)["metrics"] == {"loss:sum": 96.0}


def test_the_engine_runs_in_worker_threads(api: Api) -> None:
    api.result(api.step(api.model(), 1))
    assert all(name.startswith("tinkex-engine") for name in api.engine.threads)


@pytest.mark.parametrize(
    ("token", "category", "text"),
    [
        (99, "user", "token 99 is not a token"),
        (98, "server", "forward_backward failed in the server: ZeroDivisionError: the fake broke"),
    ],
)
def test_a_failure_says_whose_fault_it_is_and_the_model_goes_on(
    api: Api, token: int, category: str, text: str
) -> None:
    model_id = api.model()
    assert api.result(api.step(model_id, 1, token)) == {"error": text, "category": category}
    assert "metrics" in api.result(api.step(model_id, 2))


def test_a_model_that_cannot_be_created_fails_and_uses_no_memory(api: Api) -> None:
    promise = api.ok("create_model", **new_model(api.session()) | {"lora_config": {"rank": 65}})
    assert api.result(promise) == {"error": "rank is at most 64", "category": "user"}
    assert api.send("forward_backward", **step(promise["model_id"], 1)).status_code == 404


def test_numbers_that_are_not_finite_are_null(api: Api) -> None:
    result = api.result(api.step(api.model(), 1, 97, 5))
    assert result["metrics"] == {"loss:sum": None}
    assert result["loss_fn_outputs"][0]["logprobs"]["data"] == [None, None]


def test_an_unloaded_model_accepts_no_requests(api: Api) -> None:
    model_id = api.model()
    done = api.step(model_id, 1)
    assert (
        api.result(api.ok("unload_model", model_id=model_id, type="unload_model"))["model_id"]
        == model_id
    )
    assert "metrics" in api.result(done)
    assert model_id not in api.engine.models
    assert (
        api.send("forward_backward", **step(model_id, 2)).json()["detail"]
        == f"model {model_id!r} was unloaded"
    )
    assert api.step(model_id, 1) == done


def changed(*path: str | int, value: Any) -> dict[str, Any]:
    """Returns a valid step with one field replaced, or removed if the value is None."""
    body = step("MODEL", 1)
    place: Any = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return body


BATCH = "forward_backward_input"
DATUM = (BATCH, "data", 0)
TARGET = (*DATUM, "loss_fn_inputs", "target_tokens")
CHUNK = (*DATUM, "model_input", "chunks", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seq_id",), "one"),
        (("seq_id",), True),
        (("seq_id",), -1),
        (("seq_id",), 2**63),
        (("model_id",), 7),
        ((BATCH,), None),
        ((BATCH,), []),
        ((BATCH, "loss_fn"), 1),
        ((BATCH, "data"), None),
        ((BATCH, "data"), []),
        ((BATCH, "loss_fn_config", "clip_low_threshold"), "low"),
        (DATUM, "datum"),
        ((*TARGET, "data"), "abc"),
        ((*TARGET, "data"), [1.5, 2.0, 3.0]),
        ((*TARGET, "data"), [1, [2], 3]),
        ((*TARGET, "data"), [None, 1, 2]),
        ((*TARGET, "dtype"), "float16"),
        ((*TARGET, "shape"), [7]),
        ((*CHUNK, "type"), "image"),
        ((*CHUNK, "tokens"), ["a"]),
        ((*CHUNK, "tokens"), None),
    ],
)
def test_a_malformed_body_is_422_and_names_the_field(
    api: Api, path: tuple[str | int, ...], value: Any
) -> None:
    body = step(api.model(), 1) | {"seq_id": 1}
    body[BATCH]["loss_fn_config"] = {}
    place: Any = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    response = api.send("forward_backward", **body)
    assert response.status_code == 422, response.text
    [problem] = response.json()["detail"]
    assert problem["loc"] == ["body", *path]
    assert problem["msg"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_422(api: Api, raw: bytes) -> None:
    response = api.http.post(
        "/api/v1/forward_backward", content=raw, headers={"content-type": "application/json"}
    )
    assert (response.status_code, type(response.json()["detail"])) == (422, str)


def test_bytes_that_are_no_protobuf_message_are_400(api: Api) -> None:
    response = api.http.post(
        "/api/v1/forward_backward",
        content=b"\xff{}",
        headers={"content-type": "application/x-protobuf"},
    )
    assert (response.status_code, "ForwardBackwardRequest" in response.json()["detail"]) == (
        400,
        True,
    )


@pytest.mark.parametrize(
    ("headers", "read"),
    [
        ({"content-type": "application/x-protobuf"}, "application/json"),
        ({"content-encoding": "gzip"}, "uncompressed and zstd"),
    ],
)
def test_other_encodings_are_415(api: Api, headers: dict[str, str], read: str) -> None:
    response = api.http.post(
        "/api/v1/optim_step", content=b"{}", headers={"content-type": "application/json"} | headers
    )
    assert response.status_code == 415
    assert read in response.json()["detail"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_model": "no/such"}, "fake/base"),
        ({"optimizer_config": {"type": "lion"}}, "no optimizer 'lion'; it has adamw, dimuon, sgd"),
    ],
)
def test_an_unknown_base_model_is_400_and_lists_the_known_ones(
    api: Api, change: dict[str, Any], words: str
) -> None:
    response = api.send(
        "create_model",
        **new_model(api.session(), **change)
        if "base_model" not in change
        else {**new_model(api.session()), **change},
    )
    assert response.status_code == 400
    assert words in response.json()["detail"]


@pytest.mark.parametrize(
    "config",
    [{"rank": 0}, {"rank": 4, "train_attn": False, "train_mlp": False, "train_unembed": False}],
)
def test_an_impossible_lora_shape_is_422(api: Api, config: dict[str, Any]) -> None:
    assert (
        api.send("create_model", **{**new_model(api.session()), "lora_config": config}).status_code
        == 422
    )


def test_the_routes_and_the_engine_know_the_same_losses() -> None:
    assert set(LOSS_FNS) == set(LOSSES)


def test_a_loss_of_unknown_formula_is_refused(api: Api) -> None:
    body = step(api.model(), 1)
    body["forward_backward_input"]["loss_fn"] = "stable_reinforce"
    refused = api.send("forward_backward", **body)
    assert (refused.status_code, "not published" in refused.json()["detail"]) == (400, True)
    assert "Use cispo or ppo" in refused.json()["detail"], "it says what to use instead"


def test_a_large_batch_goes_through(api: Api) -> None:
    model_id = api.model()
    body = step(model_id, 1, *range(1, 60))
    body["forward_backward_input"]["data"] *= 1024
    result = api.result(api.ok("forward_backward", **body))
    assert len(result["loss_fn_outputs"]) == 1024


def test_a_result_wakes_the_poll_at_once(api: Api) -> None:
    model_id = api.model()
    late = api.step(model_id, 2, 2)
    started = time.monotonic()
    api.step(model_id, 1, 1)
    assert api.result(late)["metrics"] == {"loss:sum": 2.0}
    assert time.monotonic() - started < 2
