"""A training request that is refused on arrival takes its turn as a failure: no other waits for its
seq_id.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tinkex_proto import tinker_pb2 as pb

from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, started, step
from tinkex.local import Server
from tinkex_server.jobs import missing_seq_ids
from tinkex_server.limits import Limits
from tinkex_server.wire.zstd_library import zstd

PROTOBUF = {"content-type": "application/x-protobuf"}
Refuse = Callable[[Api, str], httpx.Response]


def post(path: str, /, **more: Any) -> Refuse:
    return lambda api, model_id: api.send(path, **{"model_id": model_id, "seq_id": 2, **more})


def batch(**more: Any) -> Refuse:
    def refuse(api: Api, model_id: str) -> httpx.Response:
        body = step(model_id, 2)
        body["forward_backward_input"].update(more)
        return api.send("forward_backward", **body)

    return refuse


def message(api: Api, model_id: str) -> httpx.Response:
    tensor = pb.Tensor(dtype=pb.DTYPE_INT64, dense=b"123", shape=[1])
    datum = pb.Datum(loss_fn_inputs={"target_tokens": tensor})
    raw = pb.ForwardBackwardRequest(
        model_id=model_id, seq_id=2, data=[datum], loss_fn="cross_entropy"
    ).SerializeToString()
    packed = zstd.compress(raw)
    return api.http.post(
        f"{API}/forward_backward", content=packed, headers={**PROTOBUF, "content-encoding": "zstd"}
    )


REFUSED: dict[str, Refuse] = {
    "a name with a blank": post("save_weights", path="step 1"),
    "a name of another kind": post("save_weights", path=5),
    "a ttl of no time": post("save_weights_for_sampler", path="x", ttl_seconds=0),
    "neither a path nor a number": post("save_weights_for_sampler"),
    "a path that cannot be": post("load_weights", path="nowhere", optimizer=True),
    "files that are to be encrypted": post(
        "save_weights_external", path="x", age_encryption_recipients=["a"]
    ),
    "a negative learning rate": post("optim_step", adam_params={"learning_rate": -1}),
    "a learning rate that is text": post("optim_step", adam_params={"learning_rate": "fast"}),
    "another optimizer": post("optim_step", sgd_params={"learning_rate": 0.1}),
    "no settings": post("optim_step"),
    "an unknown loss": batch(loss_fn="sharpe"),
    "an unknown custom loss": batch(loss_fn="custom", loss_fn_config={"loss_id": "none"}),
    "a config that is text": batch(loss_fn_config={"beta": "x"}),
    "no data": batch(data=[]),
    "data of another kind": batch(data=[5]),
    "too many data": batch(data=[{"model_input": {"chunks": []}, "loss_fn_inputs": {}}] * 5),
    "a message with half a number": message,
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_around_a_refused_one_are_carried_out(
    name: str, server_engine: RecordingEngine
) -> None:
    with started(RecordingEngine(), limits=Limits(datums=4)) as api:
        model_id = api.model()
        early = api.step(model_id, 3, 33)  # exists before
        refused = REFUSED[name](api, model_id)
        assert 400 <= refused.status_code < 500, refused.text
        assert REFUSED[name](api, model_id).json() == refused.json()
        first = api.step(model_id, 1, 11)
        later = api.step(model_id, 4, 44)
        assert all("metrics" in api.result(promise) for promise in (first, early, later))
        assert [call[2] for call in api.engine.calls if call[0] == "forward_backward"] == [
            "11",
            "33",
            "44",
        ]


def test_a_client_that_gives_a_refused_number_to_another_request_is_served(api: Api) -> None:
    model_id = api.model()
    api.result(api.step(model_id, 1, 11))
    assert api.send("save_weights", model_id=model_id, seq_id=2, path="a b").status_code == 422
    mended = api.ok("save_weights", model_id=model_id, seq_id=2, path="ab")
    assert api.result(mended)["path"].endswith("/ab")
    assert api.ok("save_weights", model_id=model_id, seq_id=2, path="ab") == mended
    assert "metrics" in api.result(api.step(model_id, 3, 33))


def test_a_repeat_is_refused_again_though_it_could_be_taken_by_now(api: Api) -> None:
    session_id = api.session()
    model_id = api.model(session_id)
    body = step(model_id, 1)
    loss_id = f"{session_id}:loss:0"
    body["forward_backward_input"].update(loss_fn="custom", loss_fn_config={"loss_id": loss_id})
    refused = api.send("forward_backward", **body)
    graph = {"format": 1, "nodes": []}
    inputs = [{"name": "logprobs", "rank": 1}]
    made = api.ok(
        "create_custom_loss",
        session_id=session_id,
        custom_loss_seq_id=0,
        name="x",
        inputs=inputs,
        graph=graph,
    )
    assert api.result(made)["loss_id"] == loss_id
    again = api.send("forward_backward", **body)
    assert (again.status_code, again.json()) == (refused.status_code, refused.json())
    assert "metrics" in api.result(api.ok("forward_backward", **{**body, "seq_id": 2}))


def test_a_request_that_is_to_be_sent_again_keeps_its_turn(server_engine: RecordingEngine) -> None:
    engine = RecordingEngine()
    with started(engine, limits=Limits(pending=1)) as api:
        model_id = api.model()
        held = api.step(model_id, 1, 96)
        refused = api.send("forward_backward", **step(model_id, 2, 22))
        assert refused.status_code == 429
        engine.gate.set()
        api.result(held)
        assert "metrics" in api.result(api.step(model_id, 2, 22))


def test_a_stranger_cannot_let_the_turn_of_another_s_request_pass() -> None:
    with started(RecordingEngine(), api_key=["tml-a", "tml-b"]) as api:
        mine, other = {"x-api-key": "tml-a"}, {"x-api-key": "tml-b"}
        api.http.headers.update(mine)
        model_id = api.model()
        for body in ({"path": 5}, {"path": "a b"}):
            sent = {"model_id": model_id, "seq_id": 1, **body}
            api.http.post(f"{API}/save_weights", json=sent, headers=other)
        second = api.step(model_id, 2, 22)
        first = api.step(model_id, 1, 11)
        assert all("metrics" in api.result(promise) for promise in (first, second))
        assert [call[2] for call in api.engine.calls if call[0] == "forward_backward"] == [
            "11",
            "22",
        ]


INPUT_AT = ["body", "forward_backward_input", "data", 0, "loss_fn_inputs"]


@pytest.mark.parametrize(
    ("loss_fn", "name", "meant"),
    [
        ("cross_entropy", "mask", "weights"),
        ("cross_entropy", "wieghts", "weights"),
        ("cross_entropy", "advantages", None),
        ("importance_sampling", "mask", "weights"),
        ("importance_sampling", "old_logprobs", "logprobs"),
        ("ppo", "advantage", "advantages"),
        ("dro", "clip_low_threshold", None),
        ("gspo", "sequence_mask", "sequence_ratio_mask"),
    ],
)
def test_an_input_that_would_have_no_effect_is_refused_by_what_was_meant(
    api: Api, loss_fn: str, name: str, meant: str | None
) -> None:
    body = step(api.model(), 1)
    batch = body["forward_backward_input"]
    batch["loss_fn"] = loss_fn
    batch["data"][0]["loss_fn_inputs"][name] = {"data": [1.0] * 3, "dtype": "float32"}
    refused = api.send("forward_backward", **body)
    assert refused.status_code == 422
    [problem] = refused.json()["detail"]
    assert problem["loc"] == [*INPUT_AT, name]
    assert "has no effect" in problem["msg"]
    assert (f"; this server calls it {meant}" if meant else ". Rename") in problem["msg"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"learning_rate": None}, "learning_rate"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": 1e39}, "learning_rate"),
        ({"beta1": None}, "beta1"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
        ({"eps": 0.0}, "eps"),
        ({"eps": None}, "eps"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": None}, "weight_decay"),
        ({"grad_clip_norm": -1.0}, "grad_clip_norm"),
        ({"grad_clip_norm": True}, "grad_clip_norm"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(
    api: Api, params: dict[str, Any], field: str
) -> None:
    model_id = api.model()
    refused = api.send(
        "optim_step", model_id=model_id, seq_id=1, adam_params={"learning_rate": 1e-4, **params}
    )
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (
        422,
        ["body", "adam_params", field],
    )
    assert not api.engine.count("optim_step", model_id)


NOT_APPLIED = "the step was not applied, and the gradients are kept for the next optim_step"


@pytest.mark.parametrize("params", [{"learning_rate": -1.0}, {"learning_rate": "fast"}, None])
def test_a_refused_step_leaves_its_gradients_to_the_next(
    torch_server: Server, params: dict[str, Any] | None
) -> None:
    """The seq_ids are those of the official client, which uses none of them twice."""
    with httpx.Client(base_url=torch_server.base_url, timeout=30) as http:
        api = Api(http, RecordingEngine())
        norms: list[list[float]] = []
        for is_refused in (True, False):
            new = new_model(
                api.session(), base_model="tinkex/tiny", lora_config={"rank": 4, "seed": 7}
            )
            model_id = api.result(api.ok("create_model", **new))["model_id"]
            api.result(api.step(model_id, 1, 65, 66))
            if is_refused:
                refused = api.send("optim_step", model_id=model_id, seq_id=2, adam_params=params)
                assert refused.status_code == 422
                assert NOT_APPLIED in refused.json()["detail"][0]["msg"]
            numbers = itertools.count(3 if is_refused else 2)
            taken: list[float] = []
            for _ in range(2):  # the second step has no gradients left
                body = {
                    "model_id": model_id,
                    "seq_id": next(numbers),
                    "adam_params": {"learning_rate": 1e-3},
                }
                taken.append(api.result(api.ok("optim_step", **body))["metrics"]["grad_norm"])
            norms.append(taken)
    assert norms[0] == norms[1]
    assert norms[0][0] > 0
    assert norms[0][1] == 0


def test_a_step_of_another_optimizer_leaves_its_gradients_and_says_so(api: Api) -> None:
    refused = api.send(
        "optim_step", model_id=api.model(), seq_id=1, sgd_params={"learning_rate": 0.1}
    )
    assert refused.status_code == 400
    assert NOT_APPLIED in refused.json()["detail"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"temperature": None}, "temperature"),
        ({"temperature": -0.5}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": None}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_a_sampling_parameter_out_of_range_is_refused_by_its_name(
    api: Api, params: dict[str, Any], field: str
) -> None:
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]}
    refused = api.send(
        "asample", sampling_session_id=api.sampler(), prompt=prompt, sampling_params=params
    )
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (
        422,
        ["body", "sampling_params", field],
    )


def raw(body: bytes, **headers: str) -> Refuse:
    """Sends this body, with the model's id in the place of MODEL."""

    def refuse(api: Api, model_id: str) -> httpx.Response:
        content = body.replace(b"MODEL", model_id.encode())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api.http.post(
            f"{API}/forward_backward",
            content=content,
            headers={"content-type": "application/json", **named},
        )

    return refuse


def too_long(*, packed: bool, message: bool) -> Refuse:
    """Sends a body over the limit, with its ids before the data in protobuf, after them in JSON."""

    def refuse(api: Api, model_id: str) -> httpx.Response:
        if message:
            head = pb.ForwardBackwardRequest(model_id=model_id, seq_id=2).SerializeToString()
            content = head + pb.ForwardBackwardRequest(loss_fn="x" * 300_000).SerializeToString()
        else:
            content = b'{"forward_backward_input":"%s","model_id":"%s","seq_id":2}' % (
                b"x" * 300_000,
                model_id.encode(),
            )
        headers = PROTOBUF if message else {"content-type": "application/json"}
        if packed:
            content, headers = zstd.compress(content), {**headers, "content-encoding": "zstd"}
        return api.http.post(f"{API}/forward_backward", content=content, headers=headers)

    return refuse


BROKEN = (
    b'{"forward_backward_input": {"data": [}, "note": "\\"model_id\\": \\"x\\"", "model_id": '
    b'"MODEL", "seq_id": 2}'
)
WHOLE = b'{"model_id": "MODEL", "seq_id": 2}'
UNREADABLE: dict[str, tuple[Refuse, int]] = {
    "broken JSON": (raw(BROKEN), 422),
    "JSON that ends too soon": (raw(WHOLE[:-1]), 422),
    "JSON that is a list": (raw(b"[" + WHOLE + b"]"), 422),
    "JSON said to be a message": (raw(WHOLE, content_type="application/x-protobuf"), 400),
    "another content type": (raw(WHOLE, content_type="text/plain"), 415),
    "another encoding": (raw(WHOLE, content_encoding="br"), 415),
    "no zstd": (raw(WHOLE, content_encoding="zstd"), 400),
    "a message that is cut": (lambda api, model_id: cut_message(api, model_id), 400),
    "JSON that is too long": (too_long(packed=False, message=False), 413),
    "JSON that is too long unpacked": (too_long(packed=True, message=False), 413),
    "a message that is too long": (too_long(packed=False, message=True), 413),
    "a message that is too long unpacked": (too_long(packed=True, message=True), 413),
}


def cut_message(api: Api, model_id: str) -> httpx.Response:
    content = pb.ForwardBackwardRequest(
        model_id=model_id, seq_id=2, loss_fn="cross_entropy"
    ).SerializeToString()[:-1]
    return api.http.post(f"{API}/forward_backward", content=content, headers=PROTOBUF)


@pytest.mark.parametrize("name", UNREADABLE)
def test_requests_after_an_unreadable_one_are_carried_out(name: str) -> None:
    refuse, status = UNREADABLE[name]
    with started(RecordingEngine(), limits=Limits(body_bytes=100_000)) as api:
        model_id = api.model()
        first = api.step(model_id, 1, 11)
        early = api.step(model_id, 3, 33)
        refused = refuse(api, model_id)
        assert refused.status_code == status, refused.text
        assert all("metrics" in api.result(promise) for promise in (first, early))
        assert [call[2] for call in api.engine.calls if call[0] == "forward_backward"] == [
            "11",
            "33",
        ]


@pytest.mark.parametrize(
    "body", [b"nothing that can be read", WHOLE + b'{"model_id": "other", "seq_id": 3}']
)
def test_requests_waiting_for_an_unidentified_one_fail_in_time(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_seq_ids, "MISSING_SECONDS", 0.4)
    with started(RecordingEngine()) as api:
        model_id = api.model()
        api.result(api.step(model_id, 1, 11))
        assert raw(body)(api, model_id).status_code == 422
        failed = api.result(api.step(model_id, 3, 33))
        assert failed["category"] == "user"
        assert "seq_id 3 was not run: it waited for seq_id 2" in failed["error"]
        monkeypatch.setattr(missing_seq_ids, "MISSING_SECONDS", 60)
        assert "waited for seq_id 2" in api.result(api.step(model_id, 4, 44))["error"]  # at once
        late = api.step(model_id, 2, 22)
        assert all(
            "metrics" in api.result(promise) for promise in (late, api.step(model_id, 5, 55))
        )
        assert [call[2] for call in api.engine.calls if call[0] == "forward_backward"] == [
            "11",
            "22",
            "55",
        ]


def test_a_number_that_comes_late_keeps_those_after_it_waiting_for_the_next_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(missing_seq_ids, "MISSING_SECONDS", 0.6)
    with started(RecordingEngine()) as api:
        model_id = api.model()
        fifth = api.step(model_id, 5, 55)
        time.sleep(0.4)
        api.result(api.step(model_id, 1, 11))
        time.sleep(0.4)  # longer than a request waits, but this one does not wait for seq_id 2
        rest = [api.step(model_id, number, 11 * number) for number in (2, 3, 4)]
        assert all("metrics" in api.result(promise) for promise in (*rest, fifth))
