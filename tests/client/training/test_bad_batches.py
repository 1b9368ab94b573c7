"""A batch that no server can train on is refused before anything is sent. The error names the
datum, the field, and what was expected and found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinkex import Datum, InvalidInputError, ModelInput, TensorData
from tinkex.losses.batch_checks import check_batch


def datum(**inputs: Any) -> Datum:
    return Datum([1, 2], {"target_tokens": [2, 3], "weights": np.ones(2, np.float32), **inputs})


def changed(name: str, value: Any) -> Datum:
    made = datum()
    made.loss_fn_inputs[name] = value
    return made


def overwritten(name: str, value: Any) -> Datum:
    made = datum()
    made.loss_fn_inputs[name].to_numpy()[1] = value
    return made


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (7, r"data\[1\] must be a Datum, found int"),
        (
            Datum(ModelInput()),
            r"data\[1\]\.model_input is empty: expected at least one token",
        ),
        (
            Datum([1]),
            r"data\[1\]\.loss_fn_inputs lacks 'target_tokens', which cross_entropy needs; "
            "found none",
        ),
        (
            datum(wieghts=[1.0, 1.0]),
            r"data\[1\]\.loss_fn_inputs has the unknown input 'wieghts'\n"
            r"  Did you mean 'weights'\?",
        ),
        (
            changed("weights", np.ones(2)),
            r"data\[1\]\.loss_fn_inputs\['weights'\] must be a TensorData, found ndarray",
        ),
        (
            changed("weights", TensorData([1, 1])),
            r"data\[1\]\.loss_fn_inputs\['weights'\] must be of float32, found int64",
        ),
        (
            changed("weights", TensorData([1.0])),
            r"data\[1\]\.loss_fn_inputs\['weights'\] .*: expected 2, found 1 values",
        ),
        (
            changed("weights", TensorData([[[1.0]]])),
            r"must be of shape \(N,\) or \(N, K\), found \[1, 1, 1\]",
        ),
        (
            overwritten("weights", np.nan),
            r"data\[1\]\.loss_fn_inputs\['weights'\] must hold finite .*, found NaN at \[1\]",
        ),
        (
            overwritten("target_tokens", -100),
            r"data\[1\]\.loss_fn_inputs\['target_tokens'\] must hold tokens .*, found -100",
        ),
        (
            overwritten("target_tokens", 2**31),
            r"must hold tokens from 0 to 2147483647, found 2147483648",
        ),
    ],
)
def test_the_datum_and_the_field_are_named(wrong: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_batch([datum(), wrong], "cross_entropy")


def test_an_empty_batch_or_loss_name_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the batch is empty: expected at least one datum"):
        check_batch([], "cross_entropy")
    with pytest.raises(InvalidInputError, match="loss_fn is empty"):
        check_batch([datum()], "")


def test_a_good_batch_passes_and_is_not_changed() -> None:
    several = Datum(
        [1, 2], {"target_tokens": np.eye(2, 40, dtype=np.int64), "weights": np.eye(2, 40)}
    )
    data = [datum(), datum(advantages=[0.5, -0.5], logprobs=[-1.0, -2.0]), several]
    before = [dict(one.loss_fn_inputs) for one in data]
    check_batch(data, "cross_entropy")
    assert [dict(one.loss_fn_inputs) for one in data] == before
    check_batch([datum(anything=[[1], [2]])], "a_loss_of_the_servers_own")


@pytest.mark.parametrize(
    ("tokens", "inputs", "words"),
    [
        ([[1, 2]], {}, r"tokens must be one-dimensional, found shape \[1, 2\]"),
        ([1, -2], {}, r"tokens\[1\] is out of range: expected 0 to 2147483647, found -2"),
        (
            [1, 2**31],
            {},
            r"tokens\[1\] is out of range: expected 0 to 2147483647, found 2147483648",
        ),
        ([1.0, 2.0], {}, r"tokens must hold integers, found float64"),
        (
            [1, 2],
            [("weights", [1, 1])],
            r"loss_fn_inputs must be a mapping of names to arrays, found list",
        ),
        (
            [1, 2],
            {"weights": [[1.0], [1.0, 2.0]]},
            r"\['weights'\] is not rectangular: expected 1 values .* found 2 values in row 1",
        ),
        (
            [1, 2],
            {"advantages": [0.0, float("inf")]},
            r"\['advantages'\] must hold finite float32 numbers, found inf at \[1\]",
        ),
        (
            [1, 2],
            {"advantages": [1.0]},
            r"\['advantages'\] .* expected 2, found 1 values for 2 tokens",
        ),
        (
            [1, 2],
            {"logprobs": TensorData.received(np.array([np.nan, 0], np.float32), "float32")},
            r"found NaN at \[0\]",
        ),
        (
            [1, 2],
            {"target_tokens": TensorData([-1], "int64", [2, 9], [0, 0, 1], [4])},
            r"tokens from 0 to .*, found -1",
        ),
    ],
)
def test_a_datum_names_its_field(tokens: Any, inputs: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Datum(tokens, inputs)


@pytest.mark.parametrize(
    ("tokens", "inputs", "advice"),
    [
        ([[1, 2]], {}, "a list of sequences"),
        ([1, 2], {"target_tokens": [-100, 3]}, "the weight"),
        ([1, 2], {"logprobs": [None, -1.0]}, "put 0.0 in its place"),
    ],
    ids=["padded batch", "label of transformers", "logprobs of a prompt"],
)
def test_habits_of_other_libraries_are_told_what_to_do(
    tokens: Any, inputs: dict[str, Any], advice: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Datum(ModelInput.from_ints(tokens), inputs)
    assert advice in (caught.value.advice or "")
