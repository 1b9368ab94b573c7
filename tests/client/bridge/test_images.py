"""Images through the bridge: the server gets what the client sent, in prompts and in batches."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tinkex_proto import tinker_pb2 as pb

from tests.support.answering_server import Answer, Answering, Call, answering, as_json
from tests.support.server_calls import API, Api, sample, step
from tinkex.bridge.routing import Routing, Target

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"
CHUNKS = [
    {"type": "encoded_text", "tokens": [5, 6]},
    {
        "type": "image",
        "data": b64encode(PNG).decode(),
        "format": "png",
        "expected_tokens": 3,
    },
    {"type": "image", "data": b64encode(PNG[::-1]).decode(), "format": "jpeg"},
]
POINTER = {
    "type": "image_asset_pointer",
    "location": "asset://one",
    "format": "png",
    "expected_tokens": 4,
}
TENSOR = {"data": [-1.0], "dtype": "float32", "shape": [1]}
RESULTS = {
    "asample": {"sequences": [{"tokens": [1], "logprobs": [-1.0], "stop_reason": "stop"}]},
    "forward_backward": {
        "loss_fn_output_type": "x",
        "loss_fn_outputs": [{"logprobs": TENSOR}],
        "metrics": {"loss:sum": 1.0},
    },
    "create_model": {"model_id": "model-1"},
}
ANSWERS = {
    "create_session": {"session_id": "session-1"},
    "create_sampling_session": {"sampling_session_id": "sampler-1"},
    **{name: {"request_id": name} for name in RESULTS},
}


def _answer(call: Call) -> Answer:
    name = call.path.rpartition("/")[2]
    if name == "retrieve_future":
        return as_json(RESULTS[call.json["request_id"]])
    return as_json(ANSWERS.get(name, {}))


@pytest.fixture
def server() -> Iterator[Answering]:
    """A server that takes images, and answers as if it had looked at them."""
    with answering(_answer) as server:
        yield server


@pytest.fixture(params=["hosted-0.25", "hosted"])
def api(request: pytest.FixtureRequest, server: Answering, bridged: Callable[..., Api]) -> Api:
    return bridged(Routing(Target(server.base_url, request.param)))


def test_a_prompt_keeps_its_images(api: Api, server: Answering) -> None:
    chunks = [*CHUNKS, POINTER]
    body = {**sample(api.sampler()), "prompt": {"chunks": chunks}}
    assert api.result(api.ok("asample", **body))["sequences"][0]["tokens"] == [1]
    [call] = server.to("asample")
    assert [_given(chunk) for chunk in call.json["prompt"]["chunks"]] == chunks


def test_a_batch_keeps_its_images(api: Api, server: Answering) -> None:
    body = step(api.model(), 1, 1)
    body["forward_backward_input"]["data"][0]["model_input"]["chunks"] = CHUNKS
    assert api.result(api.ok("forward_backward", **body))["metrics"]["loss:sum"] == 1.0
    _check_batch(server)


def test_a_batch_in_protobuf_keeps_its_images(api: Api, server: Answering) -> None:
    text = pb.Chunk()
    text.encoded_text.tokens = b"\x05\0\0\0\x06\0\0\0"
    first, second = pb.Chunk(), pb.Chunk()
    first.image.data, first.image.format, first.image.expected_tokens = PNG, "png", 3
    second.image.data, second.image.format = PNG[::-1], "jpeg"
    tensor = pb.Tensor(dtype=pb.DTYPE_INT64, shape=[1], dense=b"\x01" + b"\0" * 7)
    datum = pb.Datum(model_input=[text, first, second], loss_fn_inputs={"target_tokens": tensor})
    message = pb.ForwardBackwardRequest(
        model_id=api.model(), seq_id=1, data=[datum], loss_fn="cross_entropy"
    )
    promise = api.http.post(
        f"{API}/forward_backward",
        content=message.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf"},
    )
    assert api.result(promise.json())["metrics"]["loss:sum"] == 1.0
    _check_batch(server)


def _check_batch(server: Answering) -> None:
    """Checks the chunks of the batch that the server was sent, in either form."""
    [call] = server.to("forward_backward")
    if call.headers["content-type"] == "application/x-protobuf":
        [datum] = pb.ForwardBackwardRequest.FromString(call.body).data
        _, first, second = (chunk.image for chunk in datum.model_input)
        assert (first.data, first.format, first.expected_tokens) == (PNG, "png", 3)
        assert (second.data, second.format) == (PNG[::-1], "jpeg")
        assert not second.HasField("expected_tokens")
    else:
        [datum] = call.json["forward_backward_input"]["data"]
        assert [_given(chunk) for chunk in datum["model_input"]["chunks"]] == CHUNKS


def _given(chunk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chunk.items() if value is not None}
