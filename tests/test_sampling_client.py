"""Sampling through both facades."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tinkex import BadRequestError, InvalidInputError, NotFoundError, RequestFailedError, SamplingParams, WaitTimeoutError
from tinkex.local import Server


@pytest.fixture
def sampler(service: Any) -> Any:
    return service.create_sampling_client(base_model="fake/base")


def test_samples_come_with_tokens_logprobs_and_ids(sampler: Any) -> None:
    response = sampler.sample([5, 6], num_samples=3, sampling_params={"max_tokens": 2}).result()
    assert [sequence.tokens for sequence in response.sequences] == [[6, 1]] * 3
    assert response.sequences[0].logprobs == [-0.5, -1.0]
    assert len({sequence.sequence_id for sequence in response.sequences}) == 3
    assert response.sequences[0].stop_reason == "stop"


def test_what_is_asked_about_the_prompt(sampler: Any) -> None:
    response = sampler.sample([5, 6, 7], 1, {"max_tokens": 1}, prompt_logprobs=True, topk_prompt_logprobs=1).result()
    assert response.prompt_logprobs == [None, -1.0, -1.0]
    assert response.topk_prompt_logprobs == [None, [(1, -0.5)], [(1, -0.5)]]
    assert sampler.compute_logprobs([5, 6, 7]).result() == [None, -1.0, -1.0]


def test_the_same_seed_gives_the_same_sample(connect: Callable[..., Any], torch_server: Server) -> None:
    sampler = connect(torch_server.base_url).create_sampling_client(base_model="tinkex/tiny")
    first, second, other = (
        sampler.sample(list(b"The "), 1, SamplingParams(max_tokens=12, seed=seed)).result().sequences[0] for seed in (1, 1, 2)
    )
    assert first.tokens == second.tokens != other.tokens


def test_many_samples_at_once(sampler: Any) -> None:
    futures = [sampler.sample([1 + number % 90], 1, {"max_tokens": 2}) for number in range(200)]
    assert [future.result().sequences[0].tokens[0] for future in futures] == [1 + number % 90 for number in range(200)]


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        ([], {}),
        ([1], {"num_samples": 0}),
        ([1], {"sampling_params": {"temprature": 1.0}}),
        ([1], {"topk_prompt_logprobs": -1}),
        (["a"], {}),
        ([1.5], {}),
    ],
)
def test_a_bad_call_is_refused_before_anything_is_sent(
    sampler: Any, server_engine: FakeEngine, prompt: list[Any], settings: dict[str, Any]
) -> None:
    before = len(server_engine.calls)
    with pytest.raises(InvalidInputError):
        sampler.sample(prompt, **settings)
    assert len(server_engine.calls) == before


def test_a_sample_that_fails_says_whose_fault_it_is(sampler: Any) -> None:
    with pytest.raises(RequestFailedError, match="99 is not a token") as caught:
        sampler.sample([99], 1, {"max_tokens": 1}).result()
    assert caught.value.fault == "user"


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({}, InvalidInputError),
        ({"base_model": "nope"}, BadRequestError),
        ({"model_path": "nope"}, BadRequestError),
        ({"model_path": "tinker://nope/sampler_weights/x"}, NotFoundError),
    ],
)
def test_weights_that_there_are_not(service: Any, weights: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        service.create_sampling_client(**weights)


def test_a_wait_can_be_bounded_and_taken_up_again(sampler: Any, server_engine: FakeEngine, request: pytest.FixtureRequest) -> None:
    if "asyncio" in request.node.name:
        pytest.skip("asyncio has asyncio.timeout")
    server_engine.gate.clear()
    future = sampler.sample([96], 1, {"max_tokens": 1})
    with pytest.raises(WaitTimeoutError) as caught:
        future.result(timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert not future.done()
    server_engine.gate.set()
    assert future.result(timeout=10).sequences
    assert future.done()
    assert future.request_id


def test_a_text_is_encoded_by_the_base_models_tokenizer(connect: Callable[..., Any], torch_server: Server) -> None:
    sampler = connect(torch_server.base_url).create_sampling_client(base_model="tinkex/tiny")
    response = sampler.sample(
        prompt="Summarize: tinkex",
        sampling_params={"max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "seed": 123},
        prompt_logprobs=True,
    ).result()
    assert len(response.prompt_logprobs) == len("Summarize: tinkex")
    assert len(response.sequences[0].tokens) == 4
    with pytest.raises(InvalidInputError, match="empty"):
        sampler.sample(prompt="")


def test_the_base_model_of_saved_weights_is_asked_for(service: Any) -> None:
    trainer = service.create_lora_training_client("fake/base", rank=4)
    path = trainer.save_weights_for_sampler("one").result().path
    assert service.create_sampling_client(model_path=path).get_base_model() == "fake/base"
