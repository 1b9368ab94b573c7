"""A sample's result is read as the server means it, whatever it leaves out, in JSON as in
protobuf.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tinkex_api.models import UntypedAPIFuture
from tinkex_proto import tinker_pb2 as pb

from tinkex import SampleResponse
from tinkex.sampling.plan import text_length
from tinkex.types import EncodedTextChunk, ImageAssetPointerChunk, ModelInput
from tinkex.wire import json, protobuf

PROMISE = UntypedAPIFuture("r")
EMPTY = -99999.0


def from_json(
    prompt_length: int | None, logprobs: list[float | None], table: list[Any]
) -> SampleResponse:
    result = {"sequences": [], "prompt_logprobs": logprobs, "topk_prompt_logprobs": table}
    return json.decode_sample(result, PROMISE, prompt_length)


def from_protobuf(
    prompt_length: int | None, logprobs: list[float | None], table: list[Any]
) -> SampleResponse:
    cells = [row[0] if row else (0, EMPTY) for row in table]
    message = pb.SampleResponse(
        prompt_logprobs=np.array(logprobs, "<f4").tobytes(),
        topk_prompt_logprobs=pb.TopkLogprobs(
            token_ids=np.array([token for token, _ in cells], "<i4").tobytes(),
            logprobs=np.array([logprob for _, logprob in cells], "<f4").tobytes(),
            k=1,
            length=len(cells),
        ),
    )
    return protobuf.decode_sample(message.SerializeToString(), PROMISE, prompt_length)


@pytest.mark.rule(12)
@pytest.mark.parametrize("read", [from_json, from_protobuf])
@pytest.mark.parametrize(
    ("prompt_length", "given"),
    [(3, [None, -1.0, -2.0]), (3, [-1.0, -2.0]), (None, [None, -1.0, -2.0])],
    ids=["whole", "without the first", "of unknown length"],
)
def test_rule_12_the_first_token_has_no_logprob_where_a_server_leaves_it_out(
    read: Callable[..., SampleResponse], prompt_length: int | None, given: list[float | None]
) -> None:
    response = read(prompt_length, given, [None if x is None else [[7, x]] for x in given])
    assert response.prompt_logprobs == [None, -1.0, -2.0]
    assert response.topk_prompt_logprobs == [None, [(7, -1.0)], [(7, -2.0)]]


@pytest.mark.rule(12)
def test_rule_12_logprobs_of_another_length_are_left_as_they_are() -> None:
    assert from_json(5, [-1.0], [None]).prompt_logprobs == [-1.0]
    assert from_json(1, [-1.0], [None]).prompt_logprobs == [-1.0]


@pytest.mark.rule(12)
@pytest.mark.parametrize("nothing", [{}, {"logprobs": None}, {"logprobs": []}])
@pytest.mark.parametrize("of_the_prompt", [{}, {"prompt_logprobs": None}, {"prompt_logprobs": []}])
def test_rule_12_logprobs_may_be_missing_null_or_empty(
    nothing: dict[str, Any], of_the_prompt: dict[str, Any]
) -> None:
    response = json.decode_sample(
        {"sequences": [{"tokens": [1], **nothing}], **of_the_prompt}, PROMISE, 3
    )
    [sequence] = response.sequences
    assert (sequence.tokens, sequence.logprobs, sequence.topk_logprobs, sequence.stop_reason) == (
        [1],
        None,
        None,
        "",
    )
    assert (
        response.prompt_logprobs,
        response.topk_prompt_logprobs,
        response.prompt_cache_hit_tokens,
    ) == (None, None, 0)
    assert (response.target_prompt_logprobs, response.prompt_alt_tokens) == (None, None)


@pytest.mark.rule(12)
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (None, ["r:0", "r:1"]),
        ([], ["r:0", "r:1"]),
        (["a"], ["a", "r:1"]),
        (["a", "b", "c"], ["a", "b"]),
    ],
)
def test_rule_12_ids_are_made_up_where_the_promise_has_too_few(
    ids: list[str] | None, expected: list[str]
) -> None:
    promise = UntypedAPIFuture("r", sample_sequence_ids=ids)
    in_json = json.decode_sample({"sequences": [{"tokens": [1]}] * 2}, promise, None)
    raw = pb.SampleResponse(sequences=[pb.SampledSequence()] * 2).SerializeToString()
    for response in (in_json, protobuf.decode_sample(raw, promise, None)):
        assert [sequence.sequence_id for sequence in response.sequences] == expected


@pytest.mark.rule(12)
def test_rule_12_a_stop_reason_may_be_any_word() -> None:
    [sequence] = json.decode_sample(
        {"sequences": [{"tokens": [1], "stop_reason": "eos"}]}, PROMISE, None
    ).sequences
    assert sequence.stop_reason == "eos"
    raw = pb.SampleResponse(sequences=[pb.SampledSequence(stop_reason=7)]).SerializeToString()  # type: ignore[arg-type]
    assert protobuf.decode_sample(raw, PROMISE, None).sequences[0].stop_reason == "unknown_7"


@pytest.mark.rule(17)
def test_rule_17_fields_of_the_servers_own_are_kept() -> None:
    sequence = {"tokens": [1], "sequence_logprobs": -1.5}
    response = json.decode_sample(
        {"sequences": [sequence], "model": "m", "type": "sample"}, PROMISE, None
    )
    assert response.additional_properties == {"model": "m"}
    assert response.sequences[0].additional_properties == {"sequence_logprobs": -1.5}


def test_lists_are_made_once_and_only_when_they_are_asked_for() -> None:
    response = from_json(3, [None, -1.0, -2.0], [None, [[7, -1.0]], None])
    assert response.topk_prompt_logprobs_np is not None
    assert response.topk_prompt_logprobs_np.token_ids.tolist() == [[0], [7], [0]]
    assert response.topk_prompt_logprobs_np.logprobs.tolist() == [[EMPTY], [-1.0], [EMPTY]]
    np.testing.assert_array_equal(
        response.prompt_logprobs_np, np.array([np.nan, -1, -2], np.float32)
    )
    assert response.prompt_logprobs is response.prompt_logprobs
    assert response.topk_prompt_logprobs is response.topk_prompt_logprobs
    assert pickle.loads(pickle.dumps(response)).prompt_logprobs == [None, -1.0, -2.0]


@pytest.mark.parametrize(
    ("prompt", "length"),
    [
        (ModelInput(), 0),
        (ModelInput([EncodedTextChunk([1, 2]), EncodedTextChunk([3])]), 3),
        (ModelInput([EncodedTextChunk([1]), ImageAssetPointerChunk("s3://x", "png", 4)]), None),
    ],
)
def test_a_prompts_length_is_known_where_it_is_all_text(
    prompt: ModelInput, length: int | None
) -> None:
    assert text_length(prompt) == length


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (pb.Tensor(dense=b"1234", dtype=9, shape=[1]), "unknown dtype 9 of target_prompt_logprobs"),  # type: ignore[arg-type]
        (
            pb.Tensor(dense=b"12345", dtype=pb.DTYPE_FLOAT32, shape=[1]),
            "target_prompt_logprobs has 5 bytes",
        ),
        (
            pb.Tensor(dense=b"12345678", dtype=pb.DTYPE_FLOAT32, shape=[3]),
            r"target_prompt_logprobs has 2 values, which shape \[3\] does not fit",
        ),
        (
            pb.Tensor(
                sparse_csr=pb.SparseCsr(values=b"1234"), dtype=pb.DTYPE_FLOAT32, shape=[1, 1]
            ),
            "sparse_crow_indices must be",
        ),
    ],
)
def test_a_torn_tensor_is_an_error_rather_than_a_guess(tensor: pb.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        protobuf.decode_sample(
            pb.SampleResponse(target_prompt_logprobs=tensor).SerializeToString(), PROMISE, None
        )
