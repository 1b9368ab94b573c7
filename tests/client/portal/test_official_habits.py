"""Programs written for the official SDK run with the names of tinkex: they make and catch errors,
and use clients as futures.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pickle
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from attrs import frozen

import tinkex
from tests.support.scripted_client import PROMISE, SAMPLE, scripted_sampler, scripted_session
from tinkex import (
    AdamParams,
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AsyncSamplingClient,
    AsyncServiceClient,
    BadRequestError,
    Checkpoint,
    Config,
    Datum,
    DimuonParams,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageChunk,
    InternalServerError,
    InvalidInputError,
    ModelInput,
    RateLimitError,
    RequestFailedError,
    RestClient,
    RetrySettings,
    SampledProvenanceSpan,
    SamplingParams,
    ServiceClient,
    TensorData,
    TinkexError,
    TrainingClient,
)
from tinkex.config import as_retry_settings
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server

ANSWER = httpx.Response(429, headers={"retry-after": "3"}, json={"detail": "slow down"})


def test_an_error_made_of_an_answer() -> None:
    for error in (
        RateLimitError("slow down", ANSWER, {"detail": "slow down"}),
        RateLimitError("slow down", response=ANSWER, body={"detail": "slow down"}),
    ):
        assert (error.status_code, error.body) == (429, {"detail": "slow down"})
        assert error.headers["retry-after"] == "3"
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.status_code, str(again)) == (RateLimitError, 429, "slow down")
    assert BadRequestError("no", status_code=400).status_code == 400
    with pytest.raises(TypeError, match="status_code"):
        APIStatusError("no")


@pytest.mark.parametrize(
    "name",
    [
        *("APIConnectionError", "APITimeoutError", "APIStatusError", "APIResponseValidationError"),
        *(
            "BadRequestError",
            "AuthenticationError",
            "BillingError",
            "PermissionDeniedError",
            "NotFoundError",
        ),
        *("ConflictError", "UnprocessableEntityError", "RateLimitError", "InternalServerError"),
    ],
)
def test_the_tree_of_errors_has_the_same_branch(name: str) -> None:
    assert issubclass(getattr(tinkex, name), APIError)
    assert issubclass(APIError, TinkexError)


def test_a_client_that_was_made_is_its_own_future(server: Server) -> None:
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        trainer = service.create_lora_training_client("fake/base", 8)
        sampler = service.create_sampling_client(base_model="fake/base")
        assert trainer.result() is trainer
        assert sampler.result(timeout=5) is sampler

        async def awaited() -> TrainingClient:
            return await trainer

        assert asyncio.run(awaited()) is trainer


@pytest.mark.parametrize(
    ("given", "meant"),
    [({"team": "a"}, "user_metadata="), (Config(base_url="http://a", api_key="tml-x"), "config=")],
)
def test_a_wrong_type_as_the_base_url_is_refused_with_a_hint(given: object, meant: str) -> None:
    with pytest.raises(InvalidInputError, match="base_url must be a string") as caught:
        ServiceClient(given)  # type: ignore[arg-type]
    assert meant in str(caught.value)


def test_the_value_of_a_blocking_call_is_its_own_future(server: Server) -> None:
    with (
        ServiceClient(base_url=server.base_url, api_key="tml-x") as service,
        RestClient(base_url=server.base_url, api_key="tml-x") as rest,
    ):
        trainer = service.create_lora_training_client("fake/base", 8)
        saved = trainer.save_state("a").result()
        run = rest.get_training_run(trainer.model_id)
        assert run.result() is run
        assert run.result(timeout=1).training_run_id == trainer.model_id
        assert (
            rest.list_checkpoints(trainer.model_id).future().result(0).checkpoints[0].tinker_path
            == saved.path
        )
        assert rest.get_server_capabilities().result().supported_models
        done = rest.set_checkpoint_ttl_from_tinker_path(saved.path, 60)
        assert done.result() is None
        assert done.future().result(0) is None
        assert not done

        async def awaited() -> tuple[Any, ...]:
            listed = rest.list_sessions()
            ways = (
                listed,
                listed.coroutine(),
                listed.result_async(),
                trainer.get_info(),
                done,
                done.coroutine(),
            )
            return tuple([await way for way in ways])

        first, second, third, info, nothing, nothing_again = asyncio.run(awaited())
        assert first is second is third
        assert info.model_id == trainer.model_id
        assert (nothing, nothing_again) == (None, None)


def test_a_string_from_a_blocking_call_is_a_str(server: Server) -> None:
    config = Config(base_url=server.base_url, api_key="tml-x", project_id="mine")
    with ServiceClient(config=config) as service:
        trainer = service.create_lora_training_client("fake/base", 8)
        path = trainer.save_state("a").result().path
        copy = service.copy_weights(path)
        assert copy.result() == copy
        assert copy.startswith("tinker://")
        assert json.dumps(copy) == f'"{copy}"'


def test_a_future_gives_a_coroutine(server: Server) -> None:
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        sampler = service.create_sampling_client(base_model="fake/base")
        work: Coroutine[Any, Any, Any] = sampler.sample([1, 2], 1, {"max_tokens": 2}).coroutine()
        assert len(asyncio.run(work).sequences) == 1


DATUM = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3]})


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (DATUM, {"loss_fn_inputs": {"target_tokens": TensorData([5, 6])}}),
        (TensorData([[1, 2], [3, 4]]), {"shape": [4]}),
        (SampledProvenanceSpan(sequence_id="a", length=3), {"offset": 1}),
        (ForwardBackwardOutput("scalar", [], {"loss:sum": 1.0}), {"metrics": {}}),
    ],
)
def test_types_that_are_dataclasses_there_are_dataclasses_here(
    value: Any, changed: dict[str, Any]
) -> None:
    assert dataclasses.is_dataclass(value)
    assert dataclasses.replace(value) == value
    other = dataclasses.replace(value, **changed)
    assert type(other) is type(value)
    assert other != value
    assert {name: getattr(other, name) for name in changed} == changed
    assert changed.keys() <= {field.name for field in dataclasses.fields(value)}


def test_values_are_copied_and_written_as_pydantic_does() -> None:
    params = SamplingParams(max_tokens=4, stop=["a"])
    other = params.model_copy(update={"max_tokens": 8})
    assert (params.max_tokens, other.max_tokens, other.stop) == (4, 8, ["a"])
    assert params.model_dump(exclude_none=True, exclude={"temperature", "top_k", "top_p"}) == {
        "max_tokens": 4,
        "stop": ["a"],
    }
    assert AdamParams.model_validate_json(AdamParams(beta1=0.5).model_dump_json()) == AdamParams(
        beta1=0.5
    )
    with pytest.raises(ValueError, match="lacks 'learning_rate'"):
        DimuonParams.model_validate({})


def test_the_fields_of_values_are_read_as_those_of_pydantic() -> None:
    params = SamplingParams(max_tokens=4, stop=["a"])
    assert [*SamplingParams.model_fields] == [name for name, _ in params]
    assert dict(params) == params.model_dump()
    assert params.model_dump(exclude_unset=True, by_alias=True) == {"max_tokens": 4, "stop": ["a"]}
    assert json.loads(params.model_dump_json(exclude_defaults=True)) == {
        "max_tokens": 4,
        "stop": ["a"],
    }
    assert ModelInput.from_ints([1]).model_dump(exclude_defaults=True) == {
        "chunks": [{"tokens": [1]}]
    }
    assert ModelInput().model_dump(exclude_defaults=True) == {}
    assert EncodedTextChunk.model_construct(tokens=[1]) == EncodedTextChunk([1])
    schema = DimuonParams.model_json_schema()
    assert schema["required"] == ["learning_rate"]
    assert {"learning_rate"} < {*schema["properties"]}


def test_a_prompt_is_made_of_the_mappings_of_its_chunks() -> None:
    text: Any = {"tokens": [1, 2], "type": "encoded_text"}
    assert ModelInput(chunks=[text]) == ModelInput.from_ints([1, 2])
    untyped: Any = {"tokens": [1]}
    assert ModelInput(chunks=[untyped, EncodedTextChunk([2])]).to_ints() == [1, 2]


def test_extra_fields_from_the_server_are_kept_in_a_copy() -> None:
    params = AdamParams.from_dict({"beta1": 0.5, "own": 3})
    assert params.model_copy(update={"beta1": 0.6})["own"] == 3


def test_prompts_are_written_and_read_as_pydantic_does() -> None:
    prompt = ModelInput([EncodedTextChunk([1, 2]), ImageChunk(b"abc", "png", 3)])
    assert prompt.model_dump()["chunks"][1] == {
        "data": "YWJj",
        "format": "png",
        "expected_tokens": 3,
        "type": "image",
    }
    assert ModelInput.model_validate(prompt.model_dump()) == prompt
    assert ModelInput.model_validate_json(prompt.model_dump_json()) == prompt
    chunk = EncodedTextChunk([1])
    chunk.tokens.append(2)
    assert chunk.model_copy().tokens == [1, 2]
    with pytest.raises(ValueError, match="encoded_text"):
        ModelInput.model_validate({"chunks": [{"type": "smell"}]})


def test_times_are_texts_in_json_alone() -> None:
    time = datetime(2026, 1, 2, tzinfo=UTC)
    checkpoint = Checkpoint(
        checkpoint_id="weights/a",
        checkpoint_type="training",
        time=time,
        tinker_path="tinker://r/weights/a",
    )
    assert checkpoint.model_dump()["time"] == time
    assert checkpoint.model_dump(mode="json")["time"] == "2026-01-02T00:00:00+00:00"
    assert Checkpoint.model_validate(checkpoint.model_dump(mode="json")) == checkpoint


def test_they_may_be_fields_of_pydantics_models() -> None:
    pydantic = pytest.importorskip("pydantic")
    made = pydantic.create_model(
        "Made", params=(AdamParams, ...), prompt=(ModelInput, ...), datum=(Datum, ...)
    )
    given = made(params={"beta1": 0.5}, prompt=ModelInput.from_ints([1]), datum=DATUM)
    assert given.params == AdamParams(beta1=0.5)
    assert given.model_dump()["prompt"] == {"chunks": [{"tokens": [1], "type": "encoded_text"}]}
    written = pydantic.create_model("Written", params=(AdamParams, ...)).model_json_schema()
    assert "AdamParams" in str(written)


def test_arguments_by_the_places_that_they_have_there(server: Server) -> None:
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        trainer = service.create_lora_training_client("fake/base", 8)
        once = RetrySettings(max_attempts=1)
        path = trainer.save_weights_for_sampler("a").result().path
        for sampler in (
            trainer.save_weights_and_get_sampling_client(name="a"),
            trainer.save_weights_and_get_sampling_client("a", once, False, "snapshot"),
            trainer.create_sampling_client(path, once, False),
            service.create_sampling_client(path, None, once, False),
            service.create_sampling_client(base_model="fake/base", retry_config=once),
        ):
            assert sampler.result().sample([1, 2], 1, {"max_tokens": 2}).result().sequences


@pytest.mark.parametrize("wrong", [{"max_attempts": 1}, 3])
def test_a_wrong_type_as_retry_config_is_refused(wrong: Any, server: Server) -> None:
    with (
        ServiceClient(base_url=server.base_url, api_key="tml-x") as service,
        pytest.raises(InvalidInputError, match="retry_config must be a RetrySettings"),
    ):
        service.create_sampling_client(base_model="fake/base", retry_config=wrong)


@frozen
class RetryConfig:
    """A class with the fields of the official SDK's RetryConfig."""

    max_connections: int = 1000
    progress_timeout: float = 7200
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    jitter_factor: float = 0.25
    enable_retry_logic: bool = True
    enable_stuck_detection: bool = True


@pytest.mark.parametrize(
    ("given", "tries"),
    [
        (None, 10),
        (RetrySettings(max_attempts=1), 1),
        (RetryConfig(enable_retry_logic=False), 1),
        (RetryConfig(retry_delay_base=0.0), 21),
        (RetryConfig(retry_delay_base=0.0, enable_stuck_detection=False), 21),
    ],
)
def test_a_sampling_client_has_its_own_settings_of_retries(given: Any, tries: int) -> None:
    session, routes = scripted_session(
        {"asample": [(503, b"{}")] * 20 + [(400, b'{"detail": "no"}')]}, DIALECTS["tinkex"]
    )

    async def run() -> None:
        settings = as_retry_settings(given)
        sampler = AsyncSamplingClient(session, "s", base_model="b", retry_config=settings)
        with pytest.raises(BadRequestError if tries > 20 else (InternalServerError, TimeoutError)):
            await sampler.sample([1], 1, {"max_tokens": 1})

    asyncio.run(run())
    assert routes.calls == ["asample"] * tries


def test_an_observer_is_told_the_queue_state_of_a_sample() -> None:
    paused = (
        200,
        b'{"type": "try_again", "queue_state": "paused_capacity", "queue_state_reason": "full"}',
    )
    told: list[tuple[str, str | None]] = []

    async def run() -> None:
        sampler, _ = scripted_sampler(
            {"asample": [PROMISE], "retrieve_future": [paused, paused, SAMPLE]}, DIALECTS["tinkex"]
        )
        sampler.on_queue_state_change = lambda state, reason: told.append((state, reason))
        await sampler.sample([1], 1, {"max_tokens": 1})

    asyncio.run(run())
    assert told == [("paused_capacity", "full"), ("active", None)]


def test_an_observer_that_raises_harms_no_sample(caplog: pytest.LogCaptureFixture) -> None:
    paused = (200, b'{"type": "try_again", "queue_state": "paused_capacity"}')

    async def run() -> None:
        sampler, _ = scripted_sampler(
            {"asample": [PROMISE], "retrieve_future": [paused, SAMPLE]}, DIALECTS["tinkex"]
        )
        sampler.on_queue_state_change = lambda state, reason: 1 / 0
        assert (await sampler.sample([1], 1, {"max_tokens": 1})).sequences

    asyncio.run(run())
    assert any("on_queue_state_change raised" in message for message in caplog.messages)


def test_a_blocking_client_has_the_observer_too(server: Server) -> None:
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        sampler = service.create_sampling_client(base_model="fake/base")
        sampler.on_queue_state_change("active", None)
        told: list[str] = []
        sampler.on_queue_state_change = lambda state, reason: told.append(state)
        sampler.on_queue_state_change("active", None)
        assert told == ["active"]


@pytest.mark.parametrize("made", [ServiceClient, AsyncServiceClient])
def test_settings_that_are_arguments_there(made: Any) -> None:
    config = Config(
        base_url="http://127.0.0.1:1",
        api_key="tml-x",
        project_id="theirs",
        timeout=9.0,
        max_retries=2,
    )
    given = made(
        config=config, project_id="mine", default_headers={"a": "1"}, timeout=3.0, max_retries=0
    ).config
    assert (given.project_id, given.default_headers, given.timeout, given.retry.max_attempts) == (
        "mine",
        {"a": "1"},
        3.0,
        1,
    )
    kept = made(config=config).config
    assert (kept.project_id, kept.timeout, kept.retry.max_attempts) == ("theirs", 9.0, 3)
    assert made(config=config, default_headers_overrides={"b": "2"}).config.default_headers == {
        "b": "2"
    }


REQUEST = httpx.Request("POST", "http://a/api/v1/asample")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: APIConnectionError(request=REQUEST), "no answer came"),
        (lambda: APIConnectionError(request=REQUEST, message="gone"), "gone"),
        (lambda: APIConnectionError(REQUEST, "gone"), "gone"),
        (lambda: APITimeoutError(REQUEST), "no answer came"),
        (lambda: APIError("odd", REQUEST, body=None), "odd"),
    ],
)
def test_an_error_made_of_a_request(made: Any, message: str) -> None:
    error = pickle.loads(pickle.dumps(made()))
    assert (error.message, error.request.url.path, error.body) == (message, "/api/v1/asample", None)


def test_an_error_made_as_its_fields_stand_there() -> None:
    failed = RequestFailedError("broke", "r1", "server")
    assert (failed.message, failed.request_id, failed.category, failed.retryable) == (
        "broke",
        "r1",
        "server",
        True,
    )
    for error in (
        APIResponseValidationError(ANSWER, {"a": 1}),
        APIResponseValidationError(response=ANSWER, body={"a": 1}),
    ):
        assert (error.status_code, error.body, error.response) == (429, {"a": 1}, ANSWER)


def test_an_error_has_the_answer(server: Server) -> None:
    with (
        ServiceClient(base_url=server.base_url, api_key="tml-x") as service,
        pytest.raises(BadRequestError) as caught,
    ):
        service.create_lora_training_client("nobody/nothing", 8)
    answer = caught.value.response
    assert (answer.status_code, answer.json()) == (400, caught.value.body)
    assert answer.headers["content-type"].startswith("application/json")


def test_parameters_can_be_keys() -> None:
    assert {AdamParams(beta1=0.5): 1}[AdamParams(beta1=0.5)] == 1
    assert (
        len(
            {
                SamplingParams(max_tokens=1),
                SamplingParams(max_tokens=1),
                SamplingParams(max_tokens=2),
            }
        )
        == 2
    )
    with pytest.raises(TypeError, match="unhashable"):
        hash(SamplingParams(stop=["a"]))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            ("InvalidInputError", ValueError),
            ("ConfigError", ValueError),
            ("ArgumentError", TypeError),
        ),
        *(
            ("WaitTimeoutError", TimeoutError),
            ("ClientClosedError", RuntimeError),
            ("ClientPoisonedError", RuntimeError),
        ),
        ("UnsupportedByServer", RuntimeError),
    ],
)
def test_errors_have_the_base_classes_that_programs_catch(name: str, kind: type[Exception]) -> None:
    assert issubclass(getattr(tinkex, name), (kind,))
    assert issubclass(getattr(tinkex, name), TinkexError)
