"""Slips of the pen get words that say what was meant, before anything is sent."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

import tinkex
from tinkex import Config, Datum, InvalidInputError, ModelInput
from tinkex.errors.hints import hinted
from tinkex.local import Server

DATUM = Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})


@pytest.mark.parametrize(
    "given", [DATUM, {"a": 1}, "text", None], ids=["one datum", "dict", "text", "none"]
)
def test_a_batch_that_is_not_a_list_gets_a_hint(
    given: Any, connect: Callable[..., Any], server: Server
) -> None:
    trainer = connect(server.base_url).create_lora_training_client("fake/base", 8)
    for call in (trainer.forward_backward, trainer.forward):
        with pytest.raises(InvalidInputError, match="data must be a list of Datum") as caught:
            call(given, "cross_entropy")
        assert "[datum]" in str(caught.value)
    assert trainer.forward_backward([DATUM], "cross_entropy").result().loss_fn_outputs


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TINKER_BASE_ULR", "TINKER_BASE_URL"),
        ("TINKER_API_KEYS", "TINKER_API_KEY"),
        ("TINKEX_TIMOUT", "TINKEX_TIMEOUT"),
        ("TINKEX_RETRY_MAX_ATTEMPT", "TINKEX_RETRY_MAX_ATTEMPTS"),
    ],
)
def test_a_misspelt_environment_variable_gets_a_hint(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING, "tinkex"):
        Config(base_url="http://127.0.0.1:1", api_key="tml-x")
    assert caplog.messages == [f"{name} is set and has no effect: did you mean {meant}?"]


def test_unrelated_environment_variables_cause_no_hint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "TINKER_COOKBOOK_LOGS",
        "TINKEX_TEST_LARGE",
        "TINKERBELL",
        "TINKEX_SERVER_API_KEYS",
    ):
        monkeypatch.setenv(name, "1")
    Config(base_url="http://127.0.0.1:1", api_key="tml-x")
    assert caplog.messages == []


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from tinkex import *", names)
    assert {
        "ServiceClient",
        "AsyncServiceClient",
        "Datum",
        "TinkexError",
        "AdamParams",
    } <= names.keys()
    assert not names.keys() & {"Any", "TYPE_CHECKING", "import_module"}
    assert set(dir(tinkex)) - {"__version__"} <= names.keys()


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (
            lambda: tinkex.ServiceClient(url="http://127.0.0.1:1"),
            "ServiceClient() has no parameter 'url': did you mean base_url?",
        ),
        (
            lambda: tinkex.AsyncServiceClient(base_ulr="x"),
            "AsyncServiceClient() has no parameter 'base_ulr': did you mean base_url?",
        ),
        (
            lambda: tinkex.AdamParams(lr=1e-4),
            "AdamParams() has no parameter 'lr': did you mean learning_rate?",
        ),
        (
            lambda: tinkex.SamplingParams(max_token=3),
            "SamplingParams() has no parameter 'max_token': did you mean max_tokens?",
        ),
        (
            lambda: Datum(input_ids=[1]),
            "Datum() has no parameter 'input_ids': did you mean model_input?",
        ),
        (lambda: Config(time_out=3), "Config() has no parameter 'time_out': did you mean timeout?"),
        (
            lambda: tinkex.RetrySettings(max_attempt=3),
            "RetrySettings() has no parameter 'max_attempt': did you mean max_attempts?",
        ),
    ],
)
def test_a_misspelt_keyword_of_a_constructor_gets_a_hint(
    call: Callable[[], Any], hint: str
) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert isinstance(caught.value, tinkex.ArgumentError)
    assert str(caught.value).startswith(f"{hint}\n  Its parameters are ")


def test_the_known_parameters_are_listed() -> None:
    with pytest.raises(
        ValueError, match=r"Its parameters are temperature, top_k, top_p, max_tokens, seed, stop\."
    ) as caught:
        tinkex.SamplingParams(zzz=3)  # type: ignore[call-arg]
    assert caught.value.message == "SamplingParams() has no parameter 'zzz'"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "arguments", "hint"),
    [
        ("create_lora_training_client", {"model": "fake/base"}, "did you mean base_model?"),
        (
            "create_lora_training_client",
            {"base_model": "fake/base", "lora_rank": 8},
            "did you mean rank?",
        ),
        ("create_sampling_client", {"modelpath": "a"}, "did you mean model_path?"),
    ],
)
def test_a_misspelt_keyword_of_a_call_gets_a_hint(
    name: str, arguments: dict[str, Any], hint: str, connect: Callable[..., Any], server: Server
) -> None:
    with pytest.raises(tinkex.ArgumentError, match=re.escape(hint)):
        getattr(connect(server.base_url), name)(**arguments)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"max_tokens": 3}, "pass it as sampling_params=SamplingParams(max_tokens=…)"),
        ({"max_new_tokens": 3}, "pass it as sampling_params=SamplingParams(max_tokens=…)"),
        ({"n": 3}, "did you mean num_samples?"),
    ],
)
def test_a_keyword_that_belongs_into_an_argument_gets_a_hint(
    arguments: dict[str, Any], hint: str, connect: Callable[..., Any], server: Server
) -> None:
    sampler = connect(server.base_url).create_sampling_client(base_model="fake/base")
    with pytest.raises(tinkex.ArgumentError, match=re.escape(hint)):
        sampler.sample([1], **arguments)


def test_a_type_error_from_within_a_call_is_not_changed() -> None:
    def broken() -> str:
        return len(3)  # type: ignore[arg-type, return-value]

    @hinted
    class Client:
        def call(self, work: Callable[[], Any], **more: Any) -> Any:
            return work()

    with pytest.raises(TypeError, match="has no len") as caught:
        Client().call(work=broken, n=3)
    assert not isinstance(caught.value, tinkex.ArgumentError)


@pytest.mark.parametrize("given", ["some text", ["some", "text"]])
def test_text_in_place_of_token_ids_gets_a_hint(given: Any) -> None:
    for make in (
        ModelInput.from_ints,
        tinkex.EncodedTextChunk,
        lambda value: Datum(ModelInput.from_ints([1]), {"target_tokens": value}),
    ):
        with pytest.raises(tinkex.ArgumentError, match="must hold numbers") as caught:
            make(given)
        assert "encode(text)" in str(caught.value)


def test_hints_leave_signatures_and_coroutines_as_they_are() -> None:
    assert next(iter(inspect.signature(tinkex.AdamParams).parameters)) == "learning_rate"
    assert inspect.iscoroutinefunction(tinkex.AsyncServiceClient.create_lora_training_client)
