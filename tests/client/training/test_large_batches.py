"""Batches so large that what is done to them takes a while, or much memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from tinkex_api.models import UntypedAPIFuture
from tinkex_api.types import Request

from tests.support.batches import datum
from tests.support.recording_engine import RecordingEngine
from tinkex import AdamParams, Datum, InvalidInputError, RequestSkippedError
from tinkex.dialects.dialect import Encoding
from tinkex.dialects.table import UNKNOWN
from tinkex.training.batch_requests import batch_bodies


def large_batch() -> list[Datum]:
    """Makes two datums with 9 MB of loss inputs in all, each of which fills a request."""
    tokens = np.arange(375_000) % 90
    inputs = {"target_tokens": tokens, "weights": np.ones(len(tokens), np.float32)}
    return [Datum(tokens, {name: value.copy() for name, value in inputs.items()}) for _ in range(2)]


def test_nothing_of_a_large_batch_with_an_overwritten_number_is_sent(
    service: Any, server_engine: RecordingEngine
) -> None:
    trainer = service.create_lora_training_client("fake/base", rank=4)
    data = large_batch()
    weights: Any = data[1].loss_fn_inputs["weights"].to_numpy()
    weights[7] = np.nan
    refused = trainer.forward_backward(data, "cross_entropy")
    queued = trainer.optim_step(AdamParams())
    with pytest.raises(InvalidInputError, match=r"data\[1\]\.loss_fn_inputs\['weights'\].*NaN"):
        refused.result(20)
    with pytest.raises(RequestSkippedError):
        queued.result(20)
    trainer.forward_backward([datum(1)], "cross_entropy").result(20)
    calls = [call[0] for call in server_engine.calls if call[1] == trainer.model_id]
    assert calls.count("forward_backward") == 1


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_a_batch_is_encoded_without_a_second_copy_of_it(encoding: Encoding) -> None:
    encode: Callable[[int], Request[UntypedAPIFuture]] = batch_bodies(
        "forward_backward", "m", large_batch() * 4, "cross_entropy", None, UNKNOWN
    )[encoding]
    tracemalloc.start()
    try:
        content = encode(1).content or b""
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.6 * len(content)


def test_a_name_that_looks_like_an_empty_batch_is_sent_as_it_is() -> None:
    name, data = '{"data":[]}', [datum(1, 2), datum(3)]
    encode = batch_bodies("forward", name, data, name, {name: name}, UNKNOWN)["json"]
    sent = orjson.loads(encode(1).content or b"")
    assert sent["model_id"] == sent["forward_input"]["loss_fn"] == name
    assert sent["forward_input"]["loss_fn_config"] == {name: name}
    assert [
        one["loss_fn_inputs"]["target_tokens"]["data"] for one in sent["forward_input"]["data"]
    ] == [[1, 2], [3]]
