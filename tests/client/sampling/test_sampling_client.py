"""Sampling through both facades."""

from __future__ import annotations

import asyncio
import base64
import math
import os
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from attrs import evolve

from tests.support.recording_engine import RecordingEngine
from tests.support.scripted_client import (
    PROMISE,
    SAMPLE,
    Routes,
    scripted_sampler,
    scripted_session,
)
from tinkex import (
    AsyncSamplingClient,
    AsyncServiceClient,
    BadRequestError,
    Config,
    GoneError,
    InvalidInputError,
    ModelInput,
    NotFoundError,
    RequestFailedError,
    SamplingClient,
    SamplingParams,
    ServiceClient,
    TensorData,
    TinkexError,
    UnsupportedByServer,
    WaitTimeoutError,
)
from tinkex.dialects.dialect import Dialect, SamplingRules
from tinkex.dialects.table import DIALECTS, UNKNOWN
from tinkex.local import Server
from tinkex.sampling.plan import asked_for


@pytest.fixture
def sampler(service: Any) -> Any:
    return service.create_sampling_client(base_model="fake/base")


def test_samples_come_with_tokens_logprobs_and_ids(sampler: Any) -> None:
    response = sampler.sample([5, 6], num_samples=3, sampling_params={"max_tokens": 2}).result()
    assert [sequence.tokens for sequence in response.sequences] == [[6, 1]] * 3
    assert response.sequences[0].logprobs == [-0.5, -1.0]
    assert len({sequence.sequence_id for sequence in response.sequences}) == 3
    assert response.sequences[0].stop_reason == "stop"


def test_logprobs_and_alternatives_of_the_prompt_are_returned(sampler: Any) -> None:
    response = sampler.sample(
        [5, 6, 7], 1, {"max_tokens": 1}, prompt_logprobs=True, topk_prompt_logprobs=1
    ).result()
    assert response.prompt_logprobs == [None, -1.0, -1.0]
    assert response.topk_prompt_logprobs == [None, [(1, -0.5)], [(1, -0.5)]]
    assert sampler.compute_logprobs([5, 6, 7]).result() == [None, -1.0, -1.0]


def test_the_same_seed_gives_the_same_sample(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    sampler = connect(torch_server.base_url).create_sampling_client(base_model="tinkex/tiny")
    first, second, other = (
        sampler.sample(list(b"The "), 1, SamplingParams(max_tokens=12, seed=seed))
        .result()
        .sequences[0]
        for seed in (1, 1, 2)
    )
    assert first.tokens == second.tokens != other.tokens


def test_many_samples_at_once(sampler: Any) -> None:
    futures = [sampler.sample([1 + number % 90], 1, {"max_tokens": 2}) for number in range(200)]
    assert [future.result().sequences[0].tokens[0] for future in futures] == [
        1 + number % 90 for number in range(200)
    ]


def test_what_changes_from_call_to_call_is_noticed(sampler: Any) -> None:
    params = SamplingParams(max_tokens=3)

    def count(number: int, params: SamplingParams) -> list[int]:
        sampled = sampler.sample([1], number, params).result()
        return [len(sequence.tokens) for sequence in sampled.sequences]

    assert count(1, params) == count(1, SamplingParams(max_tokens=3)) == [3]
    params.max_tokens = 2
    assert count(1, params) == [2]
    assert count(2, params) == [2, 2]
    assert count(1, params) == [2]
    with pytest.raises(InvalidInputError):
        sampler.sample([1], True, params)  # which equals 1
    params.temperature = -1.0
    with pytest.raises(InvalidInputError):
        sampler.sample([1], 1, params)


@pytest.mark.parametrize("stop", [["a"], [1]])
def test_arguments_that_can_change_later_are_never_taken_for_the_same(stop: Any) -> None:
    assert asked_for(UNKNOWN, SamplingParams(stop="a"), 1, None) is not None
    assert asked_for(UNKNOWN, SamplingParams(stop=stop), 1, None) is None
    assert asked_for(UNKNOWN, SamplingParams(), 1, np.zeros((1, 1))) is None
    assert asked_for(UNKNOWN, {"stop": stop}, 1) is None


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
    sampler: Any, server_engine: RecordingEngine, prompt: list[Any], settings: dict[str, Any]
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
def test_unknown_weights_are_not_found(
    service: Any, weights: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        service.create_sampling_client(**weights)


def test_a_wait_can_be_bounded_and_taken_up_again(
    sampler: Any, server_engine: RecordingEngine, request: pytest.FixtureRequest
) -> None:
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


def test_a_text_is_encoded_by_the_base_models_tokenizer(
    connect: Callable[..., Any], torch_server: Server
) -> None:
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


def test_the_official_order_of_arguments_is_taken(
    sampler: Any, server_engine: RecordingEngine
) -> None:
    targets = TensorData([[5, -1], [6, 7]])
    response = sampler.sample(
        ModelInput.from_ints([5, 6, 7]), 2, {"max_tokens": 2}, True, 1, 1, targets, 3, 1
    ).result()
    spec = server_engine.specs[-1]
    assert (
        spec.num_samples,
        spec.prompt_logprobs,
        spec.topk_prompt_logprobs,
        spec.topk_sample_logprobs,
    ) == (2, True, 1, 1)
    assert (spec.prompt_alt_tokens_k, spec.prompt_logprobs_last_n) == (3, 1)
    assert response.prompt_logprobs == [None, None, -1.0]
    assert response.topk_prompt_logprobs == [None, None, [(1, -0.5)]]
    assert response.sequences[0].topk_logprobs == [[(1, -0.5)]] * 2
    assert response.target_prompt_logprobs.tolist() == [[-1.0, 0.0], [-1.0, -1.0]]
    assert response.prompt_alt_tokens.tokens.tolist() == [[1] * 3] * 2
    assert sampler.compute_logprobs([5, 6, 7], 2).result() == [None, -1.0, -1.0]


def test_all_requested_logprobs_are_those_of_the_model(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    """All ways to ask for a logprob agree."""
    sampler = connect(torch_server.base_url).create_sampling_client(base_model="tinkex/tiny")
    prompt = list(b"forty two")
    targets = [[token] for token in prompt[1:]]
    response = sampler.sample(
        prompt,
        sampling_params={"max_tokens": 3, "temperature": 0.0, "stop": []},
        prompt_logprobs=True,
        topk_prompt_logprobs=512,
        topk_sample_logprobs=2,
        target_prompt_logprobs=targets,
        prompt_alt_tokens_k=2,
    ).result()
    logprobs = response.prompt_logprobs
    assert response.target_prompt_logprobs.to_numpy()[:, 0] == pytest.approx(logprobs[1:], abs=1e-5)
    assert [
        dict(row)[token]
        for row, token in zip(response.topk_prompt_logprobs[1:], prompt[1:], strict=True)
    ] == pytest.approx(logprobs[1:], abs=1e-5)
    likeliest = [row[0] for row in response.topk_prompt_logprobs[1:]]
    assert response.prompt_alt_tokens.tokens.to_numpy()[:, 1].tolist() == [
        token for token, _ in likeliest
    ], "greedy draws"
    assert response.prompt_alt_tokens.logprobs.to_numpy()[:, 0] == pytest.approx(
        [logprob for _, logprob in likeliest], abs=1e-5
    )
    sequence = response.sequences[0]
    assert [row[0][0] for row in sequence.topk_logprobs] == sequence.tokens
    assert [row[0][1] for row in sequence.topk_logprobs] == pytest.approx(
        sequence.logprobs, abs=1e-5
    )
    last = sampler.compute_logprobs(prompt, 2).result()
    assert last == [*[None] * (len(prompt) - 2), *logprobs[-2:]]


def test_drawn_tokens_are_those_of_the_distribution(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    sampler = connect(torch_server.base_url).create_sampling_client(base_model="tinkex/tiny")
    asked = {
        "sampling_params": {"max_tokens": 1, "temperature": 1.0, "seed": 1},
        "prompt_alt_tokens_k": 1024,
        "topk_prompt_logprobs": 1,
    }
    first, again = (sampler.sample(list(b"one"), **asked).result() for _ in range(2))
    drawn = first.prompt_alt_tokens.tokens.to_numpy()
    assert (drawn == again.prompt_alt_tokens.tokens.to_numpy()).all(), "one seed, one draw"
    for row, [(token, logprob)] in zip(drawn, first.topk_prompt_logprobs[1:], strict=True):
        assert (row == token).mean() == pytest.approx(math.exp(logprob), abs=0.06)


def test_a_wait_for_a_sample_can_be_bounded_by_the_call(
    sampler: Any, server_engine: RecordingEngine
) -> None:
    server_engine.gate.clear()
    try:
        with pytest.raises(WaitTimeoutError, match="await_timeout") as caught:
            sampler.sample([96], 1, {"max_tokens": 1}, await_timeout=0.2).result()
    finally:
        server_engine.gate.set()
    assert caught.value.request_id


@pytest.mark.rule(18)
def test_more_samples_than_the_server_gives_at_once(
    connect: Callable[..., Any], server: Server, server_engine: RecordingEngine
) -> None:
    server_engine.gate.set()
    few = evolve(DIALECTS["tinkex"], sampling=SamplingRules(max_samples=2, default_max_tokens=None))
    sampler = connect(
        server.base_url, config=Config(dialect=few, api_key="tml-test")
    ).create_sampling_client(base_model="fake/base")
    before = len(server_engine.specs)
    response = sampler.sample([5, 6], 5, {"max_tokens": 2}, prompt_logprobs=True).result()
    assert len(response.sequences) == 5
    assert len({sequence.sequence_id for sequence in response.sequences}) == 5
    assert response.prompt_logprobs == [None, -1.0]
    assert sorted(spec.num_samples for spec in server_engine.specs[before:]) == [1, 2, 2]


def test_a_handle_leads_to_the_same_weights(
    connect: Callable[..., Any],
    service: Any,
    server: Server,
    server_engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-elsewhere")
    sampler = service.create_sampling_client(base_model="fake/base")
    handle = sampler.get_sampler_handle()
    assert "tml-test" not in base64.urlsafe_b64decode(handle).decode()
    before = server_engine.count("sample")
    with SamplingClient.from_sampler_handle(handle) as other:
        assert other.sampling_session_id == sampler.sampling_session_id
        assert other.get_base_model() == "fake/base"
        for client in (sampler, other):
            assert client.sample([5], 1, {"max_tokens": 1}).result().sequences[0].tokens == [5, 1]
    assert server_engine.count("sample") == before + 2, "neither took the other's number"


def test_a_seed_without_effect_is_warned_of_once(
    connect: Callable[..., Any],
    server: Server,
    caplog: pytest.LogCaptureFixture,
    server_engine: RecordingEngine,
) -> None:
    server_engine.gate.set()
    deaf = evolve(DIALECTS["tinkex"], name="deaf", sampling=SamplingRules(seeds=False))
    sampler = connect(
        server.base_url, config=Config(dialect=deaf, api_key="tml-test")
    ).create_sampling_client(base_model="fake/base")
    for _ in range(3):
        sampler.sample([5], 1, {"max_tokens": 1, "seed": 1}).result()
    assert sum("deaf: seed is ignored" in record.message for record in caplog.records) == 1


def scripted(
    answers: dict[str, Any], dialect: Dialect = UNKNOWN, **asked: Any
) -> tuple[Any, Routes]:
    """Returns a sample or its error, and the routes that were asked for it."""

    async def run() -> tuple[Any, Routes]:
        sampler, routes = scripted_sampler(answers, dialect)
        try:
            return await sampler.sample([1, 2], 1, {"max_tokens": 1}, **asked), routes
        except TinkexError as error:
            return error, routes

    return asyncio.run(run())


@pytest.mark.rule(9)
@pytest.mark.parametrize(
    "lost",
    [
        (410, b"{}"),
        (404, b"{}"),
        (200, b'{"error": "result was already retrieved", "category": "Application"}'),
    ],
)
def test_a_sample_whose_result_is_lost_is_requested_again(lost: tuple[int, bytes]) -> None:
    """Rule 9: it changes nothing, so it may be."""
    response, routes = scripted({"asample": [PROMISE] * 3, "retrieve_future": [lost, lost, SAMPLE]})
    assert response.sequences[0].tokens == [7]
    assert [body["seq_id"] for body in routes.bodies if "seq_id" in body] == [0, 1, 2], (
        "each time under a new number"
    )


@pytest.mark.rule(9)
def test_a_sample_whose_result_is_always_lost_fails_in_the_end() -> None:
    most = Config(base_url="http://x").retry.max_attempts
    error, routes = scripted(
        {"asample": [PROMISE] * most, "retrieve_future": [(410, b"{}")] * most}
    )
    assert isinstance(error, GoneError)
    assert routes.calls.count("asample") == most


def test_a_submit_that_is_tried_again_keeps_its_number() -> None:
    response, routes = scripted(
        {"asample": [(503, b""), httpx.ReadError("reset"), PROMISE], "retrieve_future": [SAMPLE]}
    )
    assert response.sequences[0].tokens == [7]
    assert [body["seq_id"] for body in routes.bodies if "seq_id" in body] == [0, 0, 0]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"target_prompt_logprobs": [[1]]}, "target_prompt_logprobs"),
        ({"prompt_alt_tokens_k": 2}, "prompt_alt_tokens_k"),
    ],
)
def test_an_option_that_the_server_ignores_is_an_error(asked: dict[str, Any], name: str) -> None:
    error, routes = scripted({"asample": [PROMISE], "retrieve_future": [SAMPLE]}, **asked)
    assert isinstance(error, UnsupportedByServer)
    assert name in error.message
    assert name in routes.bodies[0], "it was sent"


def test_missing_logprobs_are_an_error() -> None:
    async def run() -> None:
        sampler, _ = scripted_sampler({"asample": [PROMISE], "retrieve_future": [SAMPLE]}, UNKNOWN)
        with pytest.raises(UnsupportedByServer, match="no logprobs of a prompt"):
            await sampler.compute_logprobs([1, 2])

    asyncio.run(run())


@pytest.mark.rule(15)
def test_a_sampling_session_that_is_promised_is_waited_for() -> None:
    """The answer is hatchery's: CreateSamplingSessionResponse in openapi/tinker.yaml."""

    async def run() -> None:
        session, routes = scripted_session(
            {
                "create_sampling_session": [
                    (200, b'{"request_id": "c", "operation": "create_sampling_session"}')
                ],
                "retrieve_future": [
                    (200, b'{"type": "try_again"}'),
                    (200, b'{"sampling_session_id": "late", "type": "x"}'),
                    SAMPLE,
                ],
                "asample": [PROMISE],
            },
            DIALECTS["hatchery"],
        )
        sampler = await AsyncSamplingClient.open(
            session, base_model="base", model_path=None, record_stability_info=True
        )
        assert sampler.sampling_session_id == "late"
        await sampler.sample([1], 1, {"max_tokens": 1})
        sent = next(
            body
            for call, body in zip(routes.calls, routes.bodies, strict=True)
            if call == "asample"
        )
        assert (sent["sampling_session_id"], sent["record_stability_info"]) == ("late", True)
        assert (sent["sampling_params"]["top_p"], sent["sampling_params"]["top_k"]) == (
            0.999999,
            1000,
        ), "or it would be greedy"

    asyncio.run(run())


@pytest.mark.rule(14)
def test_a_server_that_does_not_tell_the_base_model_says_what_to_do() -> None:
    async def run() -> None:
        session, _ = scripted_session({}, DIALECTS["twinkle"])
        sampler = AsyncSamplingClient(session, "x", base_model=None)
        with pytest.raises(UnsupportedByServer, match="Give base_model"):
            await sampler.get_tokenizer()

    asyncio.run(run())


def test_clients_can_be_made_side_by_side(server: Server, server_engine: RecordingEngine) -> None:
    server_engine.gate.set()
    with ServiceClient(base_url=server.base_url, api_key="tml-test") as service:
        futures = [SamplingClient.create_async(service, base_model="fake/base") for _ in range(3)]
        samplers = [
            *(future.result() for future in futures),
            SamplingClient.create(service, None, "fake/base"),
        ]
        assert len({sampler.sampling_session_id for sampler in samplers}) == 4
        assert samplers[0].sample([5], 1, {"max_tokens": 1}).result().sequences
        with pytest.raises(BadRequestError):
            SamplingClient.create_async(service, base_model="nope").result()


def test_asyncio_clients_can_be_made_side_by_side(server: Server) -> None:
    async def run() -> None:
        async with AsyncServiceClient(base_url=server.base_url, api_key="tml-test") as service:
            first, second = [
                AsyncSamplingClient.create_async(service, base_model="fake/base") for _ in range(2)
            ]
            third = await AsyncSamplingClient.create(service, base_model="fake/base")
            assert (
                len({sampler.sampling_session_id for sampler in (await first, await second, third)})
                == 3
            )

    asyncio.run(run())


def test_the_example_of_the_elixir_sdks_guide_runs_as_written(
    torch_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", torch_server.base_url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    model, prompt = "tinkex/tiny", "Summarize: Tinkex ports the Python SDK."
    client = ServiceClient(api_key=os.environ["TINKER_API_KEY"])
    sampler = client.create_sampling_client(base_model=model)
    resp = sampler.sample(
        prompt=prompt,
        sampling_params={"max_tokens": 64, "temperature": 0.7, "top_p": 0.9, "seed": 123},
        prompt_logprobs=True,
    )
    assert len(resp.result().prompt_logprobs or ()) == len(prompt)
    client.close()
