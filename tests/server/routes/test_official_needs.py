"""The needs of the official client 0.38, point by point, by plain HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tinkex_proto import tinker_pb2 as pb

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, sample, started, step
from tinkex.local import Server, serve
from tinkex_server.profiles import TINKEX
from tinkex_server.wire.zstd_library import zstd

PROTOBUF = "application/x-protobuf"


@pytest.fixture
def torch_api(torch_server: Server) -> Iterator[Api]:
    """A client of the server that really trains."""
    with httpx.Client(base_url=torch_server.base_url, timeout=60) as http:
        yield Api(http, RecordingEngine())


def message(model_id: str, seq_id: int, *tokens: int, **fields: Any) -> bytes:
    values = np.array(tokens)
    inputs = {
        "target_tokens": pb.Tensor(
            dense=values.astype("<i8").tobytes(), dtype=pb.DTYPE_INT64, shape=[len(values)]
        ),
        "weights": pb.Tensor(
            dense=np.ones(len(values), "<f4").tobytes(), dtype=pb.DTYPE_FLOAT32, shape=[len(values)]
        ),
    }
    chunk = pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=values.astype("<i4").tobytes()))
    datum = pb.Datum(model_input=[chunk], loss_fn_inputs=inputs)
    fields = {"loss_fn": "cross_entropy", **fields}
    return pb.ForwardBackwardRequest(
        model_id=model_id, seq_id=seq_id, data=[datum], **fields
    ).SerializeToString()


def train(api: Api, body: bytes, **headers: str) -> httpx.Response:
    return api.http.post(
        f"{API}/forward_backward", content=body, headers={"content-type": PROTOBUF, **headers}
    )


def poll(api: Api, promise: dict[str, Any], **more: Any) -> httpx.Response:
    body = {"request_id": promise["request_id"], "allow_metadata_only": True, **more}
    return api.http.post(f"{API}/retrieve_future", json=body, headers={"accept": PROTOBUF})


def test_1_a_client_finds_its_flags_and_begins_a_session(api: Api) -> None:
    assert isinstance(api.ok("client/config", sdk_version="0.38.0"), dict)
    assert api.send("client/dynamic_config", sdk_version="0.38.0").status_code == 200
    session_id = api.session()
    assert isinstance(session_id, str)
    api.ok("session_heartbeat", session_id=session_id, type="session_heartbeat")


def test_2_promises_have_text_ids_and_samples_have_theirs_at_once(api: Api) -> None:
    for count in (1, 3):
        promise = api.ok("asample", **sample(api.sampler(), 0, num_samples=count))
        assert isinstance(promise["request_id"], str)
        assert len(set(promise["sample_sequence_ids"])) == count
        assert len(api.result(promise)["sequences"]) == count


def test_3_batches_come_as_protobuf_and_results_go_as_it(api: Api) -> None:
    model_id = api.model()
    body = message(model_id, 1, 3, 4)
    compress = api.ok("client/config", sdk_version="0.38.0")["proto_compress_fwdbwd"]
    encoded = (zstd.compress(body), {"content-encoding": "zstd"}) if compress else (body, {})
    answer = poll(api, train(api, encoded[0], **encoded[1]).json())
    assert (answer.status_code, answer.headers["content-type"]) == (200, PROTOBUF)
    output = pb.ForwardBackwardOutput.FromString(answer.content)
    [record] = output.loss_fn_outputs
    assert np.frombuffer(record.fields["logprobs"].data, "<f4").tolist() == [-3, -4]

    assert (
        poll(api, train(api, message(model_id, 2, 5, forward_only=True)).json()).status_code == 200
    )
    assert [api.engine.count(kind, model_id) for kind in ("forward_backward", "forward")] == [1, 1]
    sampled = poll(api, api.ok("asample", **sample(api.sampler(), 0)))
    assert (sampled.status_code, sampled.headers["content-type"]) == (200, PROTOBUF)
    assert len(pb.SampleResponse.FromString(sampled.content).sequences) == 1


def test_3_text_settings_of_a_loss_are_read_from_their_own_field(api: Api) -> None:
    """Field 7 holds texts and numbers; numbers are in field 5, too."""
    model_id = api.model()
    config = {"loss_id": pb.LossConfigValue(text="s-none:loss:0")}
    refused = train(api, message(model_id, 1, 3, loss_fn="custom", loss_fn_config_v2=config))
    assert (refused.status_code, "'s-none:loss:0'" in refused.json()["detail"]) == (400, True)
    numbers = {
        "loss_fn_config": {"a": 0.5},
        "loss_fn_config_v2": {"a": pb.LossConfigValue(number=0.5)},
    }
    assert train(api, message(model_id, 1, 3, **numbers)).status_code == 200


def test_4_metrics_have_one_colon_and_the_loss_is_among_them(torch_api: Api) -> None:
    model_id = torch_api.result(
        torch_api.ok(
            "create_model", **{**new_model(torch_api.session()), "base_model": "tinkex/tiny"}
        )
    )["model_id"]
    for seq_id, path in enumerate(("forward_backward", "forward"), start=1):
        metrics = torch_api.result(torch_api.step(model_id, seq_id, 65, 66, 67, path=path))[
            "metrics"
        ]
        assert {name.count(":") for name in metrics} == {1}
        assert "loss:sum" in metrics


def test_5_what_newer_clients_send_besides_is_taken(api: Api) -> None:
    newer = {"sent_by": "a client of next year"}
    session_id = api.session()
    model_id = api.result(
        api.ok("create_model", **new_model(session_id, optimizer_config={"type": "adamw"}, **newer))
    )["model_id"]
    save = {"model_id": model_id, "type": "save_weights_for_sampler", **newer}
    api.result(api.ok("save_weights_for_sampler", seq_id=1, path="a", kind="snapshot", **save))
    api.result(
        api.ok(
            "save_weights_for_sampler", seq_id=2, sampling_session_seq_id=0, kind="inflight", **save
        )
    )
    api.result(
        api.ok(
            "save_weights",
            model_id=model_id,
            seq_id=3,
            path="a",
            overwrite=False,
            type="save_weights",
            **newer,
        )
    )
    all_zero = {
        "topk_prompt_logprobs": 0,
        "topk_sample_logprobs": 0,
        "prompt_alt_tokens_k": 0,
        "prompt_logprobs": False,
    }
    promise = api.ok(
        "asample",
        **sample(api.sampler(session_id, 5), 0, record_stability_info=False, **all_zero, **newer),
    )
    assert poll(api, promise).status_code == 200
    for path in (
        "sessions",
        f"sessions/{session_id}",
        "training_runs",
        f"training_runs/{model_id}",
    ):
        assert api.get(path, access_scope="owned", sent_by="a client").status_code == 200


def test_6_a_model_made_by_a_load_has_the_id_that_the_client_computes(api: Api) -> None:
    source = api.model()
    path = api.result(api.ok("save_weights", model_id=source, seq_id=1, path="x"))["path"]
    session_id = api.session()
    api.result(
        api.ok(
            "load_weights",
            session_id=session_id,
            model_seq_id=0,
            path=path,
            optimizer=True,
            type="load_weights",
        )
    )
    computed = f"{session_id}:train:0"
    assert api.ok("get_info", model_id=computed, type="get_info")["model_id"] == computed
    assert api.result(api.step(computed, 1, 3))["metrics"]
    assert api.model(session_id, 1) == f"{session_id}:train:1"


def test_7_models_and_samplers_are_described(api: Api) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    info = api.ok("get_info", model_id=model_id, type="get_info")
    assert (info["model_id"], info["model_data"]["model_name"]) == (model_id, "fake/base")
    assert info["model_data"]["tokenizer_id"] == "fake/tokenizer"
    path = api.result(api.ok("save_weights_for_sampler", model_id=model_id, seq_id=1, path="x"))[
        "path"
    ]
    assert (
        api.get(f"samplers/{api.sampler(session_id, 0, model_path=path)}").json()["base_model"]
        == "fake/base"
    )


def test_8_saves_answer_with_what_they_made(api: Api) -> None:
    model_id = api.model()
    saves: list[tuple[str, dict[str, Any], str]] = [
        ("save_weights_for_sampler", {"path": "a"}, "path"),
        ("save_weights_for_sampler", {"sampling_session_seq_id": 0}, "sampling_session_id"),
        ("save_weights", {"path": "a"}, "path"),
        ("save_weights_external", {"path": "a"}, "path"),
    ]
    for seq_id, (kind, how, field) in enumerate(saves, start=1):
        result = api.result(api.ok(kind, model_id=model_id, seq_id=seq_id, **how))
        assert {"path", "sampling_session_id"} & set(result) == {field}, kind


def test_9_ids_stand_in_urls_as_they_are(api: Api) -> None:
    model_id = api.model()
    assert ":" in model_id
    api.result(api.ok("save_weights", model_id=model_id, seq_id=1, path="0001"))
    response = api.http.put(
        f"{API}/training_runs/{model_id}/checkpoints/weights/0001/ttl", json={"ttl_seconds": 3600}
    )
    assert response.status_code == 200
    assert set(api.get("training_runs").json()["cursor"]) == {"offset", "limit", "total_count"}


def test_9_no_stops_are_told_from_the_usual_ones_and_numbers_of_samples_are_long(api: Api) -> None:
    sampler_id = api.sampler()
    number = 98_185_507_000_000_001  # a double would round it
    for offset, params in enumerate(({"max_tokens": 2}, {"max_tokens": 2, "stop": []})):
        api.result(api.ok("asample", **sample(sampler_id, number + offset, sampling_params=params)))
    assert [spec.stop_tokens for spec in api.engine.specs[-2:]] == [None, []]
    target = {
        "type": "sampling_session",
        "sampling_session_id": sampler_id,
        "cloned_sampler_id": number // 10**9,
    }
    assert len(api.ok("retrieve_futures", target=target)["completions"]) == 2


def test_10_requests_run_by_their_numbers_and_a_repeat_is_known_again(api: Api) -> None:
    model_id = api.model()
    promises = {
        number: api.ok("forward_backward", **step(model_id, number, number)) for number in (2, 3, 1)
    }
    for number, promise in promises.items():
        assert api.result(promise)["metrics"]["loss:sum"] == number
    assert [call[2] for call in api.engine.calls if call[:2] == ("forward_backward", model_id)] == [
        "1",
        "2",
        "3",
    ]

    again = api.http.post(
        f"{API}/forward_backward",
        json=step(model_id, 2, 2),
        headers={"x-idempotency-key": "another"},
    )
    assert again.json() == promises[2]
    saves = [
        api.ok(
            "save_weights_for_sampler",
            model_id=model_id,
            seq_id=4,
            sampling_session_seq_id=number,
            kind="snapshot",
        )
        for number in (0, 1)
    ]
    assert saves[0] == saves[1]
    assert api.engine.count("forward_backward", model_id) == 3


def test_11_a_poll_is_held_for_less_than_the_client_waits() -> None:
    assert TINKEX.hold < 45
    with started(RecordingEngine(), hold=0.3) as api:
        begin = time.monotonic()
        pending = poll(api, api.step(api.model(), 2))
        assert time.monotonic() - begin >= 0.3
        assert (pending.status_code, pending.json()["type"]) == (408, "try_again")


@pytest.mark.parametrize(("token", "category"), [(99, "user"), (98, "server")])
def test_11_a_failure_is_told_once_and_says_whose_fault_it_is(
    api: Api, token: int, category: str
) -> None:
    failed = poll(api, api.step(api.model(), 1, token))
    assert (failed.status_code, failed.json()["category"]) == (200, category)
    assert failed.json()["error"]


def test_12_results_are_read_as_what_they_are(api: Api) -> None:
    """JSON has no reserved key, metadata come once, and only batches have bfloat16."""
    model_id = api.model()
    promises = [
        api.step(model_id, 1, *range(1, 60)),
        api.ok("optim_step", model_id=model_id, seq_id=2, adam_params={"learning_rate": 0.1}),
        api.ok("save_weights", model_id=model_id, seq_id=3, path="x"),
    ]
    for promise in promises:
        result = api.result(promise)
        assert not {"error", "status"} & set(result)
        assert result.get("type") != "try_again"
        for allowed in (True, False):
            answer = poll(api, promise, allow_metadata_only=allowed)
            assert b"complete_metadata" not in answer.content
    targets = {"data": [1, 2, 3, 4], "dtype": "int64", "shape": [2, 2]}
    body = sample(api.sampler(), 0, 5, 6, 7, target_prompt_logprobs=targets, prompt_alt_tokens_k=2)
    response = pb.SampleResponse.FromString(poll(api, api.ok("asample", **body)).content)
    tensors = [
        response.target_prompt_logprobs,
        response.prompt_alt_tokens.tokens,
        response.prompt_alt_tokens.logprobs,
    ]
    assert pb.DTYPE_BFLOAT16 not in [tensor.dtype for tensor in tensors]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("create_model", {"base_model": "no/such"}),
        ("create_sampling_session", {"base_model": "no/such", "sampling_session_seq_id": 0}),
        ("create_sampling_session", {"model_path": "not-a-path", "sampling_session_seq_id": 1}),
    ],
)
def test_13_a_refusal_has_a_body_and_says_how_long_it_is(
    api: Api, path: str, body: dict[str, Any]
) -> None:
    response = api.send(path, **{**new_model(api.session()), **body})
    assert response.status_code == 400
    assert int(response.headers["content-length"]) == len(response.content) > 0
    assert "transfer-encoding" not in response.headers


def test_13_what_is_there_already_is_no_conflict(api: Api) -> None:
    """The client would retry after a 409 for five minutes."""
    session_id = api.session()
    model_id = api.model(session_id)
    assert (
        api.send("create_model", **new_model(session_id, lora_config={"rank": 5})).status_code
        == 400
    )
    api.result(api.step(model_id, 1, 3))
    assert api.send("forward_backward", **step(model_id, 1, 4)).status_code == 400
    promises = [
        api.ok("save_weights", model_id=model_id, seq_id=seq_id, path="x") for seq_id in (2, 3)
    ]
    assert api.result(promises[1])["category"] == "user"


def test_14_telemetry_and_the_end_are_taken_with_a_key_of_its_kind() -> None:
    with started(RecordingEngine(), api_key="tml-local") as api:
        api.http.headers["x-api-key"] = "tml-local"
        told = {
            "events": [],
            "platform": "x",
            "sdk_version": "0.38.0",
            "session_id": "sessionless-1",
            "process_uuid": "u",
        }
        assert api.ok("telemetry", **told) == {"status": "accepted"}
        session_id = api.session()
        response = api.send(
            f"sessions/{session_id}/finish", reason={"type": "interrupted"}, detail=None
        )
        assert response.is_success


def test_the_tokenizer_of_the_shipped_model_is_found_by_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client on this machine loads it by `tokenizer_id`; the hub does not have the model
    of this package.
    """
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with (
        serve("tinkex/tiny", engine="fake") as server,
        httpx.Client(base_url=server.base_url, timeout=15) as http,
    ):
        made = http.post("/api/v1/create_session", json={"tags": [], "sdk_version": "1"}).json()[
            "session_id"
        ]
        body = new_model(made)
        promise = http.post(
            "/api/v1/create_model", json={**body, "base_model": "tinkex/tiny"}
        ).json()
        http.post("/api/v1/retrieve_future", json={"request_id": promise["request_id"]})
        info = http.post("/api/v1/get_info", json={"model_id": promise["model_id"]}).json()
    tokenizer = transformers.AutoTokenizer.from_pretrained(info["model_data"]["tokenizer_id"])
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
