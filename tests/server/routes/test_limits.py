"""Requests that exceed the limits are refused, and malformed ones are the client's fault."""

from __future__ import annotations

import json
import logging
import pickle
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import numpy as np
import orjson
import pytest
from tinkex_proto import tinker_pb2 as pb

import tinkex
from tests.support.batches import datum
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api, new_model, sample, started, step
from tinkex.local import Limits, serve
from tinkex_server.engine.interface import EngineDied
from tinkex_server.errors import Reason, Refused
from tinkex_server.jobs.turns import Turns
from tinkex_server.wire.raw_body import decompress
from tinkex_server.wire.zstd_library import zstd

SMALL = Limits(
    body_bytes=20_000,
    datums=3,
    tokens=10,
    rank=8,
    models=2,
    num_samples=4,
    top_tokens=5,
    top_tokens_per_result=16,
)


@pytest.fixture(scope="module")
def small() -> Iterator[Api]:
    engine = RecordingEngine()
    engine.gate.set()
    with started(engine, limits=SMALL) as api:
        yield api


def compressed(body: bytes) -> dict[str, Any]:
    return {
        "content": zstd.compress(body),
        "headers": {"content-encoding": "zstd", "content-type": "application/json"},
    }


def test_a_body_may_be_zstd(small: Api) -> None:
    response = small.http.post(f"{API}/create_session", **compressed(b'{"tags": []}'))
    assert response.json()["session_id"]


def test_a_protobuf_body_may_be_zstd(api: Api) -> None:
    token, tensor = (
        np.array([7], "<i4").tobytes(),
        pb.Tensor(dense=np.array([7], "<i8").tobytes(), dtype=pb.DTYPE_INT64, shape=[1]),
    )
    chunk = pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=token))
    body = pb.ForwardBackwardRequest(
        model_id=api.model(),
        seq_id=1,
        loss_fn="cross_entropy",
        data=[pb.Datum(model_input=[chunk])],
    )
    body.data[0].loss_fn_inputs["target_tokens"].CopyFrom(tensor)
    headers = {"content-encoding": "zstd", "content-type": "application/x-protobuf"}
    promise = api.http.post(
        f"{API}/forward_backward",
        content=zstd.compress(body.SerializeToString()),
        headers=headers,
    )
    assert api.result(promise.json())["metrics"]["loss:sum"] == 7


@pytest.mark.parametrize(
    "how",
    [
        lambda body: {"content": body},
        compressed,
        lambda body: {"content": iter([body[:99], body[99:]])},
    ],
)
def test_a_body_that_is_too_long_is_413(small: Api, how: Callable[[bytes], dict[str, Any]]) -> None:
    response = small.http.post(
        f"{API}/create_session", **how(orjson.dumps({"tags": ["x" * 20_000]}))
    )
    assert response.status_code == 413
    assert "20000 bytes" in response.json()["detail"]
    assert small.session(), "and the connection can be used again"


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(small: Api) -> None:
    address = (small.http.base_url.host, small.http.base_url.port)
    head = (
        f"POST {API}/create_session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
        f"{1 << 40}\r\n\r\n{{"
    )
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("profile", ["tinkex", "skyrl"])
def test_a_client_that_disconnects_within_a_body_is_not_a_server_error(
    profile: str, caplog: pytest.LogCaptureFixture
) -> None:
    with started(RecordingEngine(), profile=profile) as api:
        address = (api.http.base_url.host, api.http.base_url.port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(
                f"POST {API}/create_session HTTP/1.1\r\nHost: "
                f"127.0.0.1\r\nContent-Length: 9\r\n\r\n{{".encode()
            )
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        api.session()  # arrives after it
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_little_more_than_the_bound_is_decompressed() -> None:
    bomb = zstd.compress(b"\0" * (1 << 28))
    assert len(bomb) < 50_000
    with pytest.raises(Refused) as refused:
        decompress(bomb, 1000)
    assert refused.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "raw", [b"", b"no zstd", zstd.compress(b"{}")[:-1], zstd.compress(b"{}") + b"more"]
)
def test_anything_but_one_zstd_frame_is_400(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        decompress(raw, 1000)
    assert refused.value.reason is Reason.BAD_REQUEST


def batch(model_id: str, *data: Any) -> dict[str, Any]:
    body = step(model_id, None)
    body["forward_backward_input"]["data"] = [
        step(model_id, None, *tokens)["forward_backward_input"]["data"][0] for tokens in data
    ]
    return body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([[1]] * 4, "number of data"),
        ([[1] * 6, [1] * 5], "number of tokens"),
        ([[1] * 5, [1] * 5], None),
    ],
)
def test_a_batch_is_bounded(data: list[list[int]], words: str | None) -> None:
    with started(RecordingEngine(), limits=SMALL) as api:
        response = api.send("forward_backward", **batch(api.model(), *data))
    assert response.status_code == (200 if words is None else 422)
    assert (words or "") in response.text


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"num_samples": 5}, "num_samples"),
        ({"num_samples": 2**62}, "num_samples"),
        ({"topk_prompt_logprobs": 6}, "topk_prompt_logprobs"),
        ({"topk_sample_logprobs": 6}, "topk_sample_logprobs"),
        ({"prompt_alt_tokens_k": 6}, "prompt_alt_tokens_k"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1] * 11}]}}, "prompt"),
        # two tokens for each sample
        ({"num_samples": 4, "topk_sample_logprobs": 3}, "number of top-k and alternative tokens"),
        (
            {"topk_prompt_logprobs": 5, "prompt_alt_tokens_k": 4},
            "number of top-k and alternative tokens",
        ),
        # as many as the context holds
        (
            {"topk_sample_logprobs": 1, "sampling_params": {}},
            "number of top-k and alternative tokens",
        ),
    ],
)
def test_a_sample_is_bounded(small: Api, more: dict[str, Any], field: str) -> None:
    for path in ("asample", "asample_stream"):
        response = small.send(path, **{**sample(small.sampler()), **more})
        assert (response.status_code, field in response.text) == (422, True)


def test_models_are_bounded_in_rank_and_number() -> None:
    with started(RecordingEngine(), limits=SMALL) as api:
        session_id = api.session()
        body = new_model(session_id) | {"lora_config": {"rank": 9}}
        assert api.send("create_model", **body).status_code == 422
        models = [api.model(session_id, number) for number in range(2)]
        refused = api.send("create_model", **new_model(session_id, 2))
        assert (refused.status_code, "2 models are in memory" in refused.text) == (400, True)
        api.result(api.ok("unload_model", model_id=models[0]))
        assert api.model(session_id, 2)


def test_bodies_nested_too_deeply_are_refused(api: Api) -> None:
    for depth in (300, 100_000):
        nested = b'{"tags": [], "x": ' + b"[" * depth + b"]" * depth + b"}"
        response = api.http.post(f"{API}/create_session", content=nested)
        assert response.status_code == 422


@pytest.mark.parametrize(
    "tensor",
    [
        {"data": [], "dtype": "int64", "shape": [2**32, 2**32]},
        {"data": [1e300], "dtype": "float32"},
        {
            "data": [],
            "dtype": "int64",
            "shape": [1, 2**40],
            "sparse_crow_indices": [0, 0],
            "sparse_col_indices": [],
        },
    ],
)
def test_an_impossible_tensor_is_refused(api: Api, tensor: dict[str, Any]) -> None:
    body = step(api.model(), None)
    body["forward_backward_input"]["data"][0]["loss_fn_inputs"]["weights"] = tensor
    assert api.send("forward_backward", **body).status_code == 422


UP = "tinker://{model}/weights/../../../outside"


@pytest.mark.parametrize(
    "path",
    [
        UP,
        "tinker://../weights/outside",
        "tinker://{model}/weights/..",
        "tinker://{model}/weights/%2e%2e",
    ],
)
def test_no_path_leads_out_of_the_data_folder(tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "adapter_model.safetensors").write_bytes(b"12345")
    with started(RecordingEngine(), data_dir=tmp_path / "data") as api:
        model = api.model()
        path = path.format(model=model)
        asked = [
            api.send("weights_info", tinker_path=path),
            api.send("copy_weights", source_path=path, destination_project_id="p"),
            api.send(
                "load_weights", session_id=api.session(), model_seq_id=0, path=path, optimizer=False
            ),
            api.send(
                "create_sampling_session",
                session_id=api.session(),
                sampling_session_seq_id=0,
                model_path=path,
            ),
            api.http.delete(f"{API}/training_runs/..%2F../checkpoints/weights/outside"),
            api.http.delete(f"{API}/training_runs/{model}/checkpoints/weights/%2e%2e"),
        ]
        loaded = api.send("load_weights", model_id=model, seq_id=1, path=path, optimizer=False)
        assert loaded.status_code == 400 or "no checkpoint" in api.result(loaded.json())["error"]
        assert api.engine.count("load_model") + api.engine.count("load_sampler") == 0
    assert {response.status_code for response in asked} <= {400, 404}
    assert [file.name for file in outside.iterdir()] == ["adapter_model.safetensors"]


def test_a_saturated_server_says_when_to_come_again() -> None:
    engine = RecordingEngine()
    with started(engine, limits=Limits(pending=3)) as api:
        model, sampler = api.model(), api.sampler()
        promises = [api.ok("asample", **sample(sampler, number, 96)) for number in range(3)]
        for response in (
            api.send("asample", **sample(sampler, 3, 5)),
            api.send("forward_backward", **step(model, 1)),
            api.send("create_model", **new_model(api.session())),
        ):
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert api.ok("asample", **sample(sampler, 0, 96)) == promises[0], (
            "what was taken on is known again"
        )
        engine.gate.set()
        for promise in promises:
            assert api.result(promise)["sequences"]
        assert api.result(api.step(model, 1))["metrics"]


def test_a_saturated_server_accepts_requests_that_others_wait_for() -> None:
    with started(RecordingEngine(), limits=Limits(pending=2)) as api:
        model = api.model()
        later = [api.step(model, 3), api.step(model, 2)]
        assert api.send("forward_backward", **step(model, 4)).status_code == 429
        first = api.step(model, 1)
        for promise in (first, *later):
            assert api.result(promise)["metrics"]


def test_only_a_number_that_is_missing_is_awaited() -> None:
    turns: Turns[str] = Turns()
    assert not turns.is_awaited(1)
    turns.put(3, "c")
    assert [turns.is_awaited(number) for number in (None, 1, 2, 4)] == [False, True, False, False]
    turns.put(1, "a")
    assert turns.is_awaited(2)
    turns.put(2, "b")
    assert not turns.is_awaited(4)


def test_a_client_gets_through_a_burst(connect: Callable[..., Any]) -> None:
    """The burst has more requests than the server accepts at a time."""
    engine = RecordingEngine()
    engine.gate.set()
    with serve(engine=engine, limits=Limits(pending=4)) as server:
        service = connect(server.base_url)
        trainer = service.create_lora_training_client("fake/base", rank=4)
        sampler = service.create_sampling_client(base_model="fake/base")
        samples = [sampler.sample([5], 1, {"max_tokens": 1}) for _ in range(12)]
        steps = [trainer.forward_backward([datum(3)], "cross_entropy") for _ in range(12)]
        assert all(future.result(60).sequences for future in samples)
        assert all(future.result(60).metrics for future in steps)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return Path.touch, (self.sprung,)


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    with (
        tinkex.local.serve(data_dir=tmp_path / "data") as server,
        tinkex.ServiceClient(base_url=server.base_url, api_key="k") as service,
    ):
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        state, weights = (
            trainer.save_state("a").result().path,
            trainer.save_weights_for_sampler("b").result().path,
        )
        for file in (tmp_path / "data").rglob("*.safetensors"):
            file.unlink()
            for name in (
                "adapter_model.bin",
                "pytorch_model.bin",
                "optimizer.pt",
                "optimizer.bin",
                "training_args.bin",
            ):
                (file.parent / name).write_bytes(pickle.dumps(Trap(sprung)))
        with pytest.raises(tinkex.TinkexError):
            trainer.load_state_with_optimizer(state).result()
        with pytest.raises(tinkex.TinkexError):
            service.create_sampling_client(model_path=weights).sample(
                [5], 1, {"max_tokens": 1}
            ).result()
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_a_base_model_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    shipped = Path(tinkex.__file__).parent / "tiny"
    model = tmp_path / "model"
    model.mkdir()
    for file in shipped.iterdir():
        if file.suffix == ".json":
            (model / file.name).write_bytes(file.read_bytes())
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    with serve(str(model)) as server, pytest.raises(EngineDied, match="cannot load the model"):
        server.ready.result()
    assert not sprung.exists()


def test_no_log_has_a_key_or_a_prompt(caplog: pytest.LogCaptureFixture) -> None:
    key, secret, text = "tml-very-secret", "metadata-of-the-user", [41, 42, 43, 44, 45]
    caplog.set_level(logging.DEBUG)
    with serve(engine=RecordingEngine(), api_key=key, access_log=True) as server:
        with tinkex.ServiceClient(
            base_url=server.base_url, api_key=key, user_metadata={"who": secret}
        ) as service:
            trainer = service.create_lora_training_client("fake/base", rank=4)
            trainer.forward_backward([datum(*text)], "cross_entropy").result()
            path = trainer.save_weights_for_sampler("b").result().path
            sampler = service.create_sampling_client(model_path=path)
            sampler.sample(text, 1, {"max_tokens": 1}).result()
            for broken in (99, 98):  # once the user's fault, once the server's
                with pytest.raises(tinkex.TinkexError):
                    sampler.sample([broken, *text], 1, {"max_tokens": 1}).result()
        for crooked in (
            json.dumps({"model_id": text, "x": secret}).encode(),
            secret.encode() + b"\xff",
        ):
            httpx.post(
                f"{server.base_url}{API}/get_info", content=crooked, headers={"X-API-Key": key}
            )
        httpx.get(f"{server.base_url}{API}/sessions", headers={"X-API-Key": key + "x"})
    logged = "\n".join(logging.Formatter("%(message)s").format(record) for record in caplog.records)
    assert "POST /api/v1/asample" in logged, "every request is logged"
    assert "ZeroDivisionError" in logged, "and so is the reason"
    assert key not in logged
    assert secret not in logged
    assert "41, 42" not in logged


def test_the_docs_list_all_limits() -> None:
    text = (Path(__file__).parents[3] / "docs" / "embedded_server.md").read_text()
    told = {
        name: float(value)
        for name, value in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE)
    }
    assert told == {field.name: field.default for field in attrs.fields(Limits)}
