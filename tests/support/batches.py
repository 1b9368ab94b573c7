"""Small batches to train on."""

from __future__ import annotations

from collections.abc import Sequence

from tinkex import Datum, ModelInput


def datum(*tokens: int) -> Datum:
    """Each token is its own target; enough for an engine that only does sums."""
    return Datum(
        model_input=ModelInput.from_ints(list(tokens)),
        loss_fn_inputs={"target_tokens": list(tokens), "weights": [1.0] * len(tokens)},
    )


def text_datum(prompt: str, answer: str) -> Datum:
    """For tinkex/tiny, whose tokens are bytes: the answer is to be learned."""
    before, after = list(prompt.encode()), list(answer.encode())
    tokens = [*before, *after]
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tokens[1:],
            "weights": [0.0] * (len(before) - 1) + [1.0] * len(after),
        },
    )


def batch(count: int) -> Sequence[Datum]:
    """`count` datums of tokens 1, 2, 3, …, so that the order of the results can be seen."""
    return [datum(1 + index % 90) for index in range(count)]
