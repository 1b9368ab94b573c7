"""Answers of a real vLLM are read as what they say, and requests have the form that it took."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.fake_vllm import RECORDED
from tinkex_server.engine.interface import SampleSpec
from tinkex_server.engine.least_loaded import least_loaded
from tinkex_server.engine.vllm.answers import PartialSample, cached_tokens, sample_result
from tinkex_server.engine.vllm.errors import CallLost, WrongAnswer
from tinkex_server.engine.vllm.requests import generate_body, mixed_seed

PROMPT = list(b"Once upon a time")
VOCABULARY = 257


def answer(name: str) -> dict[str, Any]:
    return json.loads(RECORDED[name]["answer"])


def spec(**settings: Any) -> SampleSpec:
    return SampleSpec(PROMPT, **settings)


def test_a_greedy_sample_has_its_tokens_logprobs_and_reason() -> None:
    [sample] = sample_result(answer("greedy"), spec(), VOCABULARY).sequences
    assert bytes(sample.tokens) == b" the s"
    assert sample.logprobs[0] == pytest.approx(-0.79584, abs=1e-4)
    assert sample.stop_reason == "length"
    assert sample.topk_logprobs is None
    adapted = sample_result(answer("greedy of the adapter"), spec(), VOCABULARY).sequences[0]
    assert adapted.logprobs[0] != pytest.approx(sample.logprobs[0], abs=0.1)


def test_two_samples_come_in_order() -> None:
    whole = answer("two samples")
    whole["choices"].reverse()
    first, second = sample_result(whole, spec(num_samples=2), VOCABULARY).sequences
    assert bytes(first.tokens) == b" some "
    assert first != second


def test_the_likeliest_tokens_are_as_many_as_asked_for() -> None:
    likely = sample_result(answer("likely tokens"), spec(topk_sample_logprobs=2), VOCABULARY)
    top = likely.sequences[0].topk_logprobs
    assert top is not None
    assert [token for token, _ in top[0]] == [32, 115]
    assert {len(row) for row in top} == {2}


def test_samples_end_with_the_stop_token_or_the_stop_string() -> None:
    by_token = sample_result(answer("stop token"), spec(), VOCABULARY).sequences[0]
    assert (by_token.tokens[-1], by_token.stop_reason) == (32, "stop")
    by_text = sample_result(answer("stop string"), spec(), VOCABULARY).sequences[0]
    assert (bytes(by_text.tokens), by_text.stop_reason) == (b" the", "stop")


def test_a_stream_adds_up_to_the_whole_sample() -> None:
    parts = [
        json.loads(line.removeprefix("data: "))
        for line in RECORDED["stream"]["answer"].splitlines()
        if line.startswith("data: {")
    ]
    sample = PartialSample(VOCABULARY, 0)
    streamed = [pair for part in parts for choice in part["choices"] for pair in sample.add(choice)]
    assert len(streamed) == 6
    assert (
        sample.result().tokens
        == sample_result(answer("greedy"), spec(), VOCABULARY).sequences[0].tokens
    )
    assert cached_tokens(parts[-1]) >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole.pop("choices"), "it has no choices"),
        (lambda whole: whole["choices"].clear(), r"1 samples were requested, and it has \[\]"),
        (lambda whole: whole["choices"][0]["token_ids"].pop(), "it has 5 tokens, and 6 logprobs"),
        (lambda whole: whole["choices"][0].update(finish_reason="odd"), "unknown reason 'odd'"),
    ],
)
def test_an_answer_that_contradicts_the_request_is_refused(change: Any, message: str) -> None:
    whole = answer("greedy")
    change(whole)
    with pytest.raises(WrongAnswer, match=message):
        sample_result(whole, spec(), VOCABULARY)


def test_a_stream_without_an_end_is_lost() -> None:
    whole = answer("greedy")
    whole["choices"][0]["finish_reason"] = None
    with pytest.raises(CallLost, match="ended before the sample did"):
        sample_result(whole, spec(), VOCABULARY)


def test_requests_are_those_that_the_recorded_vllm_took() -> None:
    body = generate_body(
        "base", spec(temperature=0.0, stop_tokens=[], stop_strings=[]), 6, stream=False
    )
    taken = RECORDED["greedy"]["request"]
    assert {**body, "sampling_params": None} == {**taken, "sampling_params": None}
    assert taken["sampling_params"].items() <= body["sampling_params"].items()
    stopped = generate_body("base", spec(stop_strings=["e"], stop_tokens=[]), 40, stream=False)
    assert stopped["sampling_params"]["stop"] == ["e"]
    assert stopped["sampling_params"]["detokenize"] is True
    by_default = generate_body("base", spec(), 6, stream=False)["sampling_params"]
    assert "ignore_eos" not in by_default
    assert "seed" not in by_default


def test_near_seeds_share_no_samples() -> None:
    seeds = {mixed_seed(seed) + index for seed in range(-100, 100) for index in range(64)}
    assert len(seeds) == 200 * 64
    assert max(seeds) < 2**63


@pytest.mark.parametrize(
    ("replicas", "chosen"),
    [
        ([(3, True), (0, False)], 0),  # near enough, and the adapter is there
        ([(9, True), (0, False)], 1),
        ([(9, True), (4, True), (0, False)], 1),
        ([(2, False), (1, False)], 1),
        ([(1, False), (1, True)], 1),
    ],
)
def test_a_sample_goes_where_the_adapter_is_unless_that_is_far_more_loaded(
    replicas: list[tuple[int, bool]], chosen: int
) -> None:
    assert least_loaded(replicas) == chosen
