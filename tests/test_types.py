"""Bad input is refused where it is made, naming the field; errors survive a pickle."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinkex import (
    AdamParams,
    Config,
    ConfigError,
    Datum,
    InvalidInputError,
    ModelInput,
    RateLimitError,
    SamplingParams,
    TensorData,
    TokenizerError,
    get_tokenizer,
)


@pytest.mark.parametrize(
    ("tokens", "inputs", "words"),
    [
        ([1, 2, 3], {"target_tokens": [2, 3]}, "2 values for 3 tokens"),
        ([1, 2], {"target_tokens": [[2], [3, 4]]}, "not rectangular"),
        ([1, 2], {"weights": [1.0, float("nan")]}, "NaN"),
        ([1, 2], {"target_tokens": [1.5, 2.0]}, "integers"),
        ([1, -2], {}, "out of range"),
        ("text", {}, "the prompt is text"),
    ],
)
def test_a_bad_datum_is_refused(tokens: object, inputs: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Datum(tokens, inputs)  # type: ignore[arg-type]


@given(
    st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False, width=32)))
)
def test_a_list_is_read_as_numpy_reads_it(values: list[float]) -> None:
    expected = np.asarray(values, np.float32 if any(isinstance(value, float) for value in values) or not values else np.int64)
    assert TensorData(values).to_numpy().tobytes() == expected.tobytes()


def test_text_becomes_tokens_and_back() -> None:
    assert bytes(ModelInput.from_text("héllo\n", model_name="tinkex/tiny").to_ints()).decode() == "héllo\n"


def test_text_is_encoded_by_a_given_tokenizer_without_special_tokens() -> None:
    class Tokens:
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [1] * add_special_tokens + [len(word) for word in text.split()]

    assert ModelInput.from_text("a bc def", tokenizer=Tokens()).to_ints() == [1, 2, 3]
    assert ModelInput.from_text("hi", tokenizer=get_tokenizer("tinkex/tiny")) == ModelInput.from_ints([104, 105])
    assert ModelInput.from_text("", model_name="tinkex/tiny").is_empty


@pytest.mark.parametrize(
    ("text", "settings", "error", "words"),
    [
        ("hi", {}, InvalidInputError, "either model_name or tokenizer"),
        ("hi", {"model_name": "tinkex/tiny", "tokenizer": get_tokenizer("tinkex/tiny")}, InvalidInputError, "either"),
        ([104], {"model_name": "tinkex/tiny"}, InvalidInputError, "text is list, not str"),
        ("hi", {"model_name": "no such/tokenizer at all"}, TokenizerError, "no tokenizer for 'no such/"),
    ],
)
def test_text_that_cannot_be_encoded(text: Any, settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ModelInput.from_text(text, **settings)


def test_wire_defaults() -> None:
    assert AdamParams.from_dict({}) == AdamParams(1e-4, 0.9, 0.95, 1e-12, 0.0, 0.0)
    assert SamplingParams(max_tokens=3, seed=None).to_dict() == {"max_tokens": 3, "temperature": 1.0, "top_k": -1, "top_p": 1.0}


def test_errors_survive_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(RateLimitError("slow", status_code=429, body={"a": 1}, operation="sample")))
    assert (str(error), error.status_code, error.body) == ("slow (operation sample)", 429, {"a": 1})


def test_config_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="no API key"):
        Config()
    with pytest.raises(ConfigError, match="not an http"):
        Config(base_url="localhost")
    assert "secret" not in repr(Config(base_url="http://127.0.0.1:1", api_key="tml-secret"))
