"""The task of the demo: its examples as datums, and the score of what a model writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Literal, NamedTuple

from tinkex.sync.sampling import SamplingClient
from tinkex.tokenizer import Tokenizer
from tinkex.types import Datum, ModelInput

GREEDY = {"max_tokens": 8, "temperature": 0.0, "stop": ["\n"]}


class Example(NamedTuple):
    """A number in words and in digits."""

    prompt: str
    """ "four hundred and two =" """
    completion: str
    """ " 402" """


def read(part: Literal["train", "held_out"]) -> list[Example]:
    """Returns the examples to train on, or those that the model never sees."""
    file = resources.files("tinkex.demo") / f"numbers.{part}.jsonl"
    return [Example(**json.loads(line)) for line in file.read_text("utf-8").splitlines()]


def to_datum(tokenizer: Tokenizer, example: Example) -> Datum:
    """Returns a datum in which only the tokens of the completion have a weight."""
    prompt = tokenizer.encode(example.prompt)
    completion = tokenizer.encode(f"{example.completion}\n")
    tokens = prompt + completion
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(completion)
    return Datum(
        ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": weights}
    )


def complete(
    sampler: SamplingClient, tokenizer: Tokenizer, examples: Sequence[Example]
) -> list[str]:
    """Returns what the model writes after each prompt, at temperature 0. All prompts are sent
    before the first result is awaited.
    """
    futures = [sampler.sample(tokenizer.encode(example.prompt), 1, GREEDY) for example in examples]
    return [
        tokenizer.decode(future.result().sequences[0].tokens).rstrip("\n") for future in futures
    ]


def score(examples: Sequence[Example], completions: Sequence[str]) -> float:
    """Returns the fraction of examples whose completion the model wrote."""
    right = [
        example.completion == written
        for example, written in zip(examples, completions, strict=True)
    ]
    return sum(right) / len(right)
