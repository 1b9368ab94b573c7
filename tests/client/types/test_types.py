"""Bad input is refused where it is made, naming the field; errors survive a pickle."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinkex
from tinkex import (
    AdamParams,
    Config,
    ConfigError,
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    InvalidInputError,
    ModelInput,
    ParsedCheckpointTinkerPath,
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
    st.lists(
        st.one_of(
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.floats(allow_nan=False, allow_infinity=False, width=32),
        )
    )
)
def test_a_list_is_read_as_numpy_reads_it(values: list[float]) -> None:
    expected = np.asarray(
        values,
        np.float32 if any(isinstance(value, float) for value in values) or not values else np.int64,
    )
    assert TensorData(values).to_numpy().tobytes() == expected.tobytes()


def test_text_becomes_tokens_and_back() -> None:
    assert (
        bytes(ModelInput.from_text("héllo\n", model_name="tinkex/tiny").to_ints()).decode()
        == "héllo\n"
    )


def test_text_is_encoded_by_a_given_tokenizer_without_special_tokens() -> None:
    class Tokens:
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [1] * add_special_tokens + [len(word) for word in text.split()]

    assert ModelInput.from_text("a bc def", tokenizer=Tokens()).to_ints() == [1, 2, 3]
    assert ModelInput.from_text(
        "hi", tokenizer=get_tokenizer("tinkex/tiny")
    ) == ModelInput.from_ints([104, 105])
    assert ModelInput.from_text("", model_name="tinkex/tiny").is_empty


@pytest.mark.parametrize(
    ("text", "settings", "error", "words"),
    [
        ("hi", {}, InvalidInputError, "either model_name or tokenizer"),
        (
            "hi",
            {"model_name": "tinkex/tiny", "tokenizer": get_tokenizer("tinkex/tiny")},
            InvalidInputError,
            "either",
        ),
        ([104], {"model_name": "tinkex/tiny"}, InvalidInputError, "text is list, not str"),
        (
            "hi",
            {"model_name": "no such/tokenizer at all"},
            TokenizerError,
            "no tokenizer for 'no such/",
        ),
    ],
)
def test_text_that_cannot_be_encoded_is_refused(
    text: Any, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ModelInput.from_text(text, **settings)


@pytest.mark.parametrize(
    ("path", "run_id", "kind", "checkpoint_id"),
    [
        ("tinker://S1:train:0/weights/0001", "S1:train:0", "training", "weights/0001"),
        ("tinker://r/sampler_weights/a-b", "r", "sampler", "sampler_weights/a-b"),
        ("tinker://r/external_weights/x", "r", "external", "external_weights/x"),
    ],
)
def test_the_parts_of_a_checkpoints_path(
    path: str, run_id: str, kind: str, checkpoint_id: str
) -> None:
    parts = ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert (parts.tinker_path, parts.training_run_id) == (path, run_id)
    assert (parts.checkpoint_type, parts.checkpoint_id) == (kind, checkpoint_id)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "r/weights/a",
        "http://r/weights/a",
        "tinker://r/other/a",
        "tinker://r/weights",
        "tinker:///weights/a",
        "tinker://r/weights/a/b",
    ],
)
def test_a_path_of_another_form_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not of the form tinker://"):
        ParsedCheckpointTinkerPath.from_tinker_path(path)


def test_chunks_take_bytes_and_base64() -> None:
    for kind in (lambda data: ImageChunk(data, "png").data, lambda data: DmelChunk(data).dmel):
        assert kind(b"\x00\x01") == kind("AAE=") == kind(bytearray([0, 1])) == b"\x00\x01"
        for wrong, words in (
            ("not base64!", "text that is not base64"),
            (7, "bytes or base64, found int"),
        ):
            with pytest.raises(InvalidInputError, match=words):
                kind(wrong)


def test_a_chunks_length_is_in_tokens() -> None:
    assert (
        ModelInput(
            [
                EncodedTextChunk([1, 2]),
                ImageChunk(b"", "png", 5),
                DmelChunk(bytes([254, 1, 2, 131, 1, 8])),
            ]
        ).length
        == 2 + 5 + 131
    )
    for image in (ImageChunk(b"", "png"), ImageAssetPointerChunk("x", "png")):
        assert ModelInput([image]).known_length is None
        with pytest.raises(InvalidInputError, match="expected_tokens"):
            ModelInput([image]).length  # noqa: B018
        with pytest.raises(InvalidInputError, match="some chunks are not text"):
            ModelInput([image]).to_ints()
    for dmel, words in (
        (b"", "ends within"),
        (bytes([9, 1, 3]), "not a tensor's header"),
        (bytes([0, 1, 131]), "ends within"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            DmelChunk(dmel).length  # noqa: B018


def test_every_type_can_be_had_from_tinkex_itself() -> None:
    import tinkex.types

    for name in tinkex.types.__all__:
        assert getattr(tinkex, name) is getattr(tinkex.types, name)


def test_a_prompt_grows_by_chunks_and_by_tokens() -> None:
    image = ImageAssetPointerChunk("there", "png", expected_tokens=4)
    prompt = (
        ModelInput.empty()
        .append(EncodedTextChunk([1, 2]))
        .append_int(3)
        .append(image)
        .append_int(5)
    )
    assert prompt.length == 8
    assert ModelInput.empty().append_int(7).to_ints() == [7]
    assert ModelInput.empty().to_ints() == []


def test_wire_defaults() -> None:
    assert AdamParams.from_dict({}) == AdamParams(1e-4, 0.9, 0.95, 1e-12, 0.0, 0.0)
    assert SamplingParams(max_tokens=3, seed=None).to_dict() == {
        "max_tokens": 3,
        "temperature": 1.0,
        "top_k": -1,
        "top_p": 1.0,
    }


def test_errors_survive_a_pickle() -> None:
    error = pickle.loads(
        pickle.dumps(RateLimitError("slow", status_code=429, body={"a": 1}, operation="sample"))
    )
    assert (str(error), error.status_code, error.body) == ("slow (operation sample)", 429, {"a": 1})


def test_config_errors_name_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="no API key"):
        Config()
    with pytest.raises(ConfigError, match="not an http"):
        Config(base_url="localhost")
    assert "secret" not in repr(Config(base_url="http://127.0.0.1:1", api_key="tml-secret"))


def test_completion_knows_all_public_names() -> None:
    names = dir(tinkex)
    assert {
        "ServiceClient",
        "Datum",
        "RateLimitError",
        "events",
        "__version__",
        "get_tokenizer",
    } <= set(names)
    assert all(getattr(tinkex, name) is not None for name in names)


# ---- lists, where programs of the official SDK expect lists ----


def test_tokens_of_a_chunk_are_a_list() -> None:
    chunk = EncodedTextChunk(tokens=np.array([1, 2, 3]), type="encoded_text")
    assert chunk.tokens + [4] == [1, 2, 3, 4]  # noqa: RUF005 # which an array would add to each; programs do so
    assert (bool(EncodedTextChunk([]).tokens), json.dumps(chunk.tokens), chunk.type) == (
        False,
        "[1, 2, 3]",
        "encoded_text",
    )
    assert (chunk.tokens_np.tolist(), chunk.tokens_np.dtype) == ([1, 2, 3], np.int64)
    with pytest.raises(InvalidInputError, match="type must be 'encoded_text'"):
        EncodedTextChunk([1], type="image")  # type: ignore[arg-type]


def test_tokens_of_a_list_wait_in_half_of_the_memory() -> None:
    chunk = EncodedTextChunk([1, 2, 2**31 - 1])
    assert chunk.tokens_to_send.dtype == np.int32
    assert chunk.tokens_to_send.tolist() == chunk.tokens_np.tolist() == [1, 2, 2**31 - 1]
    chunk.tokens_np[0] = 7  # the array of the chunk, and not a copy
    assert chunk.tokens_to_send.tolist() == chunk.tokens == [7, 2, 2**31 - 1]


def test_a_chunk_follows_changes_of_its_list() -> None:
    chunk = EncodedTextChunk([1, 2])
    chunk.tokens.append(3)
    assert (chunk.length, chunk.tokens_np.tolist(), chunk) == (
        3,
        [1, 2, 3],
        EncodedTextChunk([1, 2, 3]),
    )
    assert ModelInput([chunk]).append_int(4).to_ints() == [1, 2, 3, 4]
    assert pickle.loads(pickle.dumps(chunk)) == chunk
    chunk.tokens.append(-1)
    with pytest.raises(InvalidInputError, match="out of range"):
        ModelInput([chunk]).to_ints()


def test_chunks_of_an_input_are_a_list() -> None:
    prompt = ModelInput(chunks=[EncodedTextChunk(tokens=[1], type="encoded_text")])
    longer = ModelInput(chunks=prompt.chunks + [EncodedTextChunk([2])])  # noqa: RUF005
    assert (longer.to_ints(), prompt.chunks) == ([1, 2], [EncodedTextChunk([1])])
    image = ImageChunk(b"x", "png", 3, type="image")
    assert (image.type, ModelInput([image]).length) == ("image", 3)


def test_the_shape_of_a_tensor_is_a_list() -> None:
    assert TensorData([1, 2, 3]).shape == [3]
    assert TensorData(np.zeros((2, 3))).shape == [2, 3]
    assert TensorData([1.0], shape=(1, 1)).shape == [1, 1]
    assert TensorData.from_torch_sparse(np.eye(10)).shape == [10, 10]


def test_a_chunk_shows_its_tokens_as_they_are() -> None:
    chunk = EncodedTextChunk([1, 2])
    chunk.tokens.append(3)
    assert repr(chunk) == "EncodedTextChunk(tokens=[1, 2, 3])"
    assert len(repr(EncodedTextChunk(range(10_000)))) < 60
