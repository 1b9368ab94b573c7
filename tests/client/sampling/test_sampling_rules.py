"""Plans of samples: the requests that each kind of server is sent. Pure functions, no server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinkex import (
    Config,
    InvalidInputError,
    ModelInput,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
    UnsupportedByServer,
)
from tinkex.dialects.dialect import Dialect, SamplingRules
from tinkex.dialects.table import DIALECTS, UNKNOWN
from tinkex.sampling import handle
from tinkex.sampling.params import read_params
from tinkex.sampling.plan import ExtraOutputs, SamplePlan, plan_samples
from tinkex.sampling.sampling_session import check_weights
from tinkex.types import ImageChunk

HATCHERY, TWINKLE, MILES = (DIALECTS[name] for name in ("hatchery", "twinkle", "miles"))


def planned(
    num_samples: int = 1, params: Any = None, dialect: Dialect = UNKNOWN, **extras: Any
) -> SamplePlan:
    return plan_samples(num_samples, params, ExtraOutputs(**extras), dialect)


def sent(params: Any, dialect: Dialect = UNKNOWN) -> dict[str, Any]:
    request = planned(1, params, dialect).request(ModelInput.from_ints([1]), 0)
    return request.to_dict()["sampling_params"]


@pytest.mark.rule(3)
@pytest.mark.parametrize(
    ("params", "dialect", "expected"),
    [
        (
            {"max_tokens": 4},
            "hosted",
            {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "max_tokens": 4},
        ),
        ({}, "hosted", {"temperature": 1.0, "top_k": -1, "top_p": 1.0}),
        ({}, "skyrl", {"max_tokens": 256}),
        ({"temperature": 0}, "twinkle", {"temperature": 1e-6}),
        ({"temperature": 0.5}, "twinkle", {"temperature": 0.5}),
        ({}, "hatchery", {"top_p": 0.999999, "top_k": 1000}),
        ({"top_p": 0.9, "top_k": 5}, "hatchery", {"top_p": 0.9, "top_k": 5}),
        ({"temperature": 0}, "hatchery", {"temperature": 0.0, "top_p": 1.0, "top_k": -1}),
        ({"seed": 3}, "hosted", {"seed": 3}),
        (
            {"max_tokens": np.int64(4), "temperature": np.float32(0.5)},
            "hosted",
            {"max_tokens": 4, "temperature": 0.5},
        ),
    ],
)
def test_every_parameter_is_sent_as_the_server_takes_it(
    params: dict[str, Any], dialect: str, expected: dict[str, Any]
) -> None:
    given = sent(params, DIALECTS[dialect])
    assert given.keys() >= {"temperature", "top_k", "top_p"}
    assert expected.items() <= given.items()
    assert given.keys() <= expected.keys() | {"temperature", "top_k", "top_p", "max_tokens"}


@pytest.mark.rule(12)
@pytest.mark.parametrize(
    ("stop", "expected"),
    [("\n", ["\n"]), (["a", "b"], ["a", "b"]), ([1, 2], [1, 2]), (7, [7]), ([], [])],
)
def test_stop_is_sent_as_a_list(stop: Any, expected: Any) -> None:
    assert sent({"stop": stop})["stop"] == expected
    assert sent(SamplingParams(stop=stop))["stop"] == expected
    assert "stop" not in sent({"stop": None})


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        read_params(params)


def test_the_users_own_parameters_are_left_alone() -> None:
    params = SamplingParams(temperature=0, stop="x")
    sent(params, TWINKLE)
    assert (params.temperature, params.stop, params.max_tokens) == (0, "x", None)


@pytest.mark.rule(18)
def test_more_tokens_than_a_server_gives_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"5000.*4096"):
        sent({"max_tokens": 5000}, DIALECTS["tinker-cloud"])


@pytest.mark.rule(18)
def test_more_samples_than_a_server_gives_at_once_are_asked_for_in_parts() -> None:
    plan = planned(
        150, {"seed": 5, "max_tokens": 1}, MILES, prompt_logprobs=True, topk_sample_logprobs=2
    )
    requests = [
        plan.request(ModelInput.from_ints([1, 2]), part) for part in range(len(plan.part_sizes))
    ]
    assert [request.num_samples for request in requests] == [64, 64, 22]
    assert [request.sampling_params.seed for request in requests] == [5, 6, 7], (
        "or the parts would be copies of one another"
    )
    assert [request.prompt_logprobs for request in requests] == [True, False, False]
    assert [request.topk_sample_logprobs for request in requests] == [2, 2, 2]


@pytest.mark.rule(2)
def test_default_fields_are_not_sent() -> None:
    request = planned(1, {"max_tokens": 1}).request(ModelInput.from_ints([1]), 0)
    fields = {
        "prompt",
        "sampling_params",
        "num_samples",
        "prompt_logprobs",
        "topk_prompt_logprobs",
        "type",
    }
    assert request.to_dict().keys() == fields


@pytest.mark.rule(3)
def test_adjacent_text_chunks_are_joined() -> None:
    """Rule 3: one server reads the first alone."""
    image = ImageChunk(b"x", "png", expected_tokens=2)
    prompt = ModelInput(
        (
            *ModelInput.from_ints([1]).chunks,
            *ModelInput.from_ints([2, 3]).chunks,
            image,
            *ModelInput.from_ints([4]).chunks,
        )
    )
    joined = prompt.with_texts_joined()
    assert [chunk.length for chunk in joined.chunks] == [3, 2, 1]
    assert joined.chunks[0] == ModelInput.from_ints([1, 2, 3]).chunks[0]


@pytest.mark.parametrize(
    ("questions", "match"),
    [
        ({"topk_prompt_logprobs": -1}, "topk_prompt_logprobs"),
        ({"topk_sample_logprobs": -1}, "topk_sample_logprobs"),
        ({"prompt_alt_tokens_k": -1}, "prompt_alt_tokens_k"),
        ({"prompt_logprobs_last_n": 1}, "needs prompt_logprobs"),
        ({"prompt_logprobs_last_n": 0, "prompt_logprobs": True}, "1 or more"),
        ({"prompt_logprobs_last_n": 3, "prompt_logprobs": True}, "less than the prompt's 3"),
        ({"target_prompt_logprobs": [1, 2]}, "int64"),
        ({"target_prompt_logprobs": TensorData([[1.0], [2.0]])}, "int64"),
        ({"target_prompt_logprobs": [[1.5], [2.0]]}, "integers"),
        ({"target_prompt_logprobs": [[1]]}, "2 rows.*found 1"),
    ],
)
def test_a_wrong_option_is_refused(questions: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        planned(**questions).check_prompt(ModelInput.from_ints([1, 2, 3]))


def test_targets_are_taken_as_any_array() -> None:
    for targets in ([[1], [-1]], np.array([[1], [-1]], np.int32), TensorData([[1], [-1]])):
        tensor = ExtraOutputs(target_prompt_logprobs=targets).target_prompt_logprobs
        assert tensor is not None
        assert tensor.tolist() == [[1], [-1]]


@pytest.mark.parametrize(
    "question", [{"prompt_logprobs": True}, {"topk_prompt_logprobs": 1}, {"prompt_alt_tokens_k": 1}]
)
def test_prompt_logprobs_that_are_never_given_are_refused(question: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedByServer, match="twinkle") as caught:
        planned(1, None, TWINKLE, **question)
    assert caught.value.operation == "sample"
    assert caught.value.advice


def test_weights_that_cannot_be_sampled_are_refused() -> None:
    with pytest.raises(UnsupportedByServer, match="base model"):
        check_weights(DIALECTS["open-rl-old"], base_model="b", model_path=None)
    with pytest.raises(UnsupportedByServer, match="by name"):
        check_weights(HATCHERY, base_model=None, model_path="tinker://run/sampler_weights/x")
    check_weights(HATCHERY, base_model=None, model_path="tinker://run/checkpoints/x")
    check_weights(DIALECTS["open-rl-old"], base_model="b", model_path="/absolute/folder")
    with pytest.raises(InvalidInputError):
        check_weights(UNKNOWN, base_model=None, model_path=None)


@pytest.mark.rule(20)
def test_options_without_effect_cause_a_warning() -> None:
    params = {"seed": 1, "max_tokens": 2}
    assert ["seed" in warning for warning in planned(1, params, TWINKLE).warnings] == [True]
    assert planned(1, params, DIALECTS["hosted"]).warnings == []
    assert "256" in planned().warnings[0]


def response(**fields: Any) -> SampleResponse:
    return SampleResponse([SampledSequence("stop", "", np.array([1]))], **fields)


@pytest.mark.parametrize(
    ("questions", "answer", "name"),
    [
        ({"target_prompt_logprobs": [[1], [2]]}, {}, "target_prompt_logprobs"),
        ({"prompt_alt_tokens_k": 1}, {}, "prompt_alt_tokens_k"),
        (
            {"prompt_logprobs": True, "prompt_logprobs_last_n": 1},
            {"prompt_logprobs_np": np.array([np.nan, -1, -1], np.float32)},
            "prompt_logprobs_last_n",
        ),
    ],
)
def test_an_ignored_option_is_an_error(
    questions: dict[str, Any], answer: dict[str, Any], name: str
) -> None:
    with pytest.raises(UnsupportedByServer, match=name):
        planned(**questions).check_response(response(**answer), UNKNOWN)


def test_a_complete_answer_is_not_an_error() -> None:
    answer = response(prompt_logprobs_np=np.array([np.nan, np.nan, -1], np.float32))
    planned(prompt_logprobs=True, prompt_logprobs_last_n=1).check_response(answer, UNKNOWN)


def test_a_handle_holds_the_rules_of_the_server_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-from-env")
    dialect = Dialect(
        name="mine",
        joins_samplers=True,
        missing={"get_sampler": "ask"},
        sampling=SamplingRules(max_samples=2),
    )
    text = handle.pack("http://there", "S1", "S1:sample:0", "base", dialect)
    known = handle.unpack(text)
    assert (known.session_id, known.sampling_session_id, known.base_model) == (
        "S1",
        "S1:sample:0",
        "base",
    )
    config = known.config(None)
    assert (config.base_url, config.api_key) == ("http://there", "tml-from-env")
    assert config.dialect is not None
    assert config.dialect.joins_samplers
    assert config.dialect.lacks("get_sampler")
    assert config.dialect.sampling.max_samples == 2
    assert known.config("tml-other").api_key == "tml-other"
    assert Config(base_url="http://there", api_key="tml-secret").api_key not in text


@pytest.mark.parametrize(
    "text", ["", "not base64!", "e30=", "W10=", handle.pack("u", "s", "x", None, UNKNOWN)[:-9]]
)
def test_an_arbitrary_string_is_not_a_handle(text: str) -> None:
    with pytest.raises(InvalidInputError, match="handle"):
        handle.unpack(text)
