from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import Api, new_model, step
from tests.support.wait_until import wait_until
from tinkex.local import Server, serve


def test_the_server_describes_itself(api: Api) -> None:
    flags = api.ok("client/config", sdk_version="1")
    assert (flags["fwdbwd_max_chunk_len"], flags["fwdbwd_max_chunk_bytes_count"]) == (
        1024,
        5_000_000,
    )
    assert (flags["parallel_fwdbwd_chunks"], flags["seq_id_repeats"]) == (True, "repeats")
    assert flags["reports_state_loss"] is True
    assert api.ok("client/dynamic_config", sdk_version="1")["refresh_interval_sec"] == 300
    assert api.get("healthz").json() == {"status": "ok"}
    assert api.get("get_server_capabilities").json() == {
        "supported_models": [
            {
                "model_name": "fake/base",
                "max_context_length": 64,
                "trainable": True,
                "sampleable": True,
            },
        ],
        "runs_on": "a fake engine",
    }
    assert api.ok(
        "telemetry", events=[], platform="x", sdk_version="1", session_id="s", process_uuid="u"
    ) == {"status": "accepted"}


def test_a_session_lives_until_it_is_finished(api: Api) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    sampler_id = api.sampler(session_id)
    api.ok("session_heartbeat", session_id=session_id, type="session_heartbeat")
    assert session_id in api.get("sessions", limit=3).json()["sessions"]
    facts = api.get(f"sessions/{session_id}").json()
    assert (facts["training_run_ids"], facts["sampler_ids"]) == ([model_id], [sampler_id])

    early = api.step(model_id, 2)
    for reason in ("success", "errored"):
        api.ok(f"sessions/{session_id}/finish", reason={"type": reason}, detail=None)
    assert (
        api.send("session_heartbeat", session_id=session_id, type="session_heartbeat").status_code
        == 410
    )
    assert api.result(early) == {
        "error": "the model was unloaded before its turn came",
        "category": "user",
    }
    assert api.send("forward_backward", **step(model_id, 1)).status_code == 404
    assert api.send("create_model", **new_model(session_id, 1)).status_code == 400
    wait_until(lambda: api.engine.count("unload_model", model_id) == 1)


def test_a_finished_session_lets_its_models_run_what_is_queued(api: Api) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    promises = [api.step(model_id, 1, 96), api.step(model_id, 2, 7)]
    assert api.engine.waiting.acquire(timeout=5)
    api.ok(f"sessions/{session_id}/finish", reason={"type": "success"}, detail=None)
    api.engine.gate.set()
    assert [api.result(promise)["metrics"]["loss:sum"] for promise in promises] == [96.0, 7.0]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "session_heartbeat", {"session_id": "s-none", "type": "session_heartbeat"}),
        ("POST", "sessions/s-none/finish", {"reason": {"type": "success"}, "detail": None}),
        ("POST", "create_model", new_model("s-none")),
        ("POST", "get_info", {"model_id": "s-none:train:0"}),
        ("POST", "unload_model", {"model_id": "s-none:train:0"}),
        ("POST", "optim_step", {"model_id": "s-none:train:0", "seq_id": 1, "adam_params": {}}),
        ("POST", "forward_backward", step("s-none:train:0", 1)),
        (
            "POST",
            "create_sampling_session",
            {"session_id": "s-none", "sampling_session_seq_id": 0, "base_model": "fake/base"},
        ),
        ("POST", "retrieve_future", {"request_id": "none"}),
        ("POST", "cancel_future", {"request_id": "none"}),
        ("POST", "weights_info", {"tinker_path": "tinker://none/weights/a"}),
        ("GET", "sessions/s-none", None),
        ("GET", "samplers/none", None),
        ("GET", "training_runs/none", None),
        ("GET", "training_runs/none/checkpoints", None),
        ("DELETE", "training_runs/none/checkpoints/weights/a", None),
        ("POST", "no_such_call", {}),
        ("GET", "no/such/call", None),
    ],
)
def test_an_unknown_route_is_404_with_a_detail_and_a_length(
    api: Api, method: str, path: str, body: Any
) -> None:
    response = api.http.request(method, f"/api/v1/{path}", json=body)
    assert response.status_code == 404, response.text
    assert response.json()["detail"]
    assert int(response.headers["content-length"]) == len(response.content)


def test_a_wrong_method_is_405(api: Api) -> None:
    response = api.http.get("/api/v1/asample")
    assert (response.status_code, response.json()) == (
        405,
        {"detail": "no such method here: GET /api/v1/asample"},
    )


def test_with_keys_all_calls_but_health_need_one() -> None:
    with (
        serve(engine=RecordingEngine(), api_key="tml-right") as server,
        httpx.Client(base_url=server.base_url) as http,
    ):
        statuses = {
            key: http.get(
                "/api/v1/get_server_capabilities", headers=key and {"X-API-Key": key}
            ).status_code
            for key in (None, "tml-wrong", "tml-right")
        }
        assert statuses == {None: 401, "tml-wrong": 401, "tml-right": 200}
        assert http.get("/api/v1/get_server_capabilities").json()["detail"]
        assert http.get("/api/v1/healthz").status_code == 200


def test_without_configured_keys_any_key_is_accepted(server: Server) -> None:
    with httpx.Client(base_url=server.base_url, headers={"X-API-Key": "whatever"}) as http:
        assert http.get("/api/v1/get_server_capabilities").status_code == 200
