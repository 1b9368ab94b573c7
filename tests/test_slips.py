"""Slips of the pen get words that say what was meant, before anything is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import tinkex
from tinkex import Config, Datum, InvalidInputError, ModelInput
from tinkex.local import Server

DATUM = Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})


@pytest.mark.parametrize("given", [DATUM, {"a": 1}, "text", None], ids=["one datum", "dict", "text", "none"])
def test_a_batch_that_is_no_list(given: Any, connect: Callable[..., Any], server: Server) -> None:
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
def test_a_misspelt_variable(name: str, meant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING, "tinkex"):
        Config(base_url="http://127.0.0.1:1", api_key="tml-x")
    assert caplog.messages == [f"{name} is set and has no effect: did you mean {meant}?"]


def test_variables_of_others_are_not_spoken_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("TINKER_COOKBOOK_LOGS", "TINKEX_TEST_LARGE", "TINKERBELL", "TINKEX_SERVER_API_KEYS"):
        monkeypatch.setenv(name, "1")
    Config(base_url="http://127.0.0.1:1", api_key="tml-x")
    assert caplog.messages == []


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from tinkex import *", names)
    assert {"ServiceClient", "AsyncServiceClient", "Datum", "TinkexError", "AdamParams"} <= names.keys()
    assert not names.keys() & {"Any", "TYPE_CHECKING", "import_module"}
    assert set(dir(tinkex)) - {"__version__"} <= names.keys()
