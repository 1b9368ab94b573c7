"""Small batches to train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinkex import Datum, ModelInput
from tinkex_server.engine.interface import Example


def datum(*tokens: int) -> Datum:
    """Makes a datum in which each token is its own target."""
    return Datum(
        model_input=ModelInput.from_ints(list(tokens)),
        loss_fn_inputs={"target_tokens": list(tokens), "weights": [1.0] * len(tokens)},
    )


def text_datum(prompt: str, answer: str) -> Datum:
    """Makes a datum for tinkex/tiny, whose tokens are bytes; only the answer has weight."""
    before, after = list(prompt.encode()), list(answer.encode())
    tokens = [*before, *after]
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tokens[1:],
            "weights": [0.0] * (len(before) - 1) + [1.0] * len(after),
        },
    )


def text_batch() -> list[Datum]:
    """Makes three datums of `text_datum`, of different lengths."""
    return [text_datum("forty two is", " 42\n"), text_datum("six is", " 6\n"), text_datum("a", "b")]


def batch(count: int) -> Sequence[Datum]:
    """Makes `count` datums of tokens 1, 2, 3, …, so that the order of the results can be seen."""
    return [datum(1 + index % 90) for index in range(count)]


def example(*tokens: int) -> Example:
    """Makes the engine's form of a datum in which each token is its own target."""
    return Example(
        np.array(tokens),
        {"target_tokens": np.array(tokens), "weights": np.ones(len(tokens), np.float32)},
    )
