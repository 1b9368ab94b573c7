"""`Context`: what a recipe works with, and the checks of data that recipes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from attrs import frozen

from tinkex import (
    InvalidInputError,
    NotFoundError,
    ServiceClient,
    Tokenizer,
    TrainingClient,
    UnsupportedByServer,
)
from tinkex.data import ChatTemplate, Dataset, Example, PromptRow, load, load_prompts
from tinkex.recipes.activity import Activity
from tinkex.recipes.run_folder import RunFolder

T = TypeVar("T")


@frozen
class Context:
    """The model in training, its tokenizer, and the run that it belongs to."""

    service: ServiceClient
    trainer: TrainingClient
    tokenizer: Tokenizer
    folder: RunFolder
    activity: Activity
    template: ChatTemplate | None
    context_length: int | None
    """The tokens that the model can read; None if the server does not tell."""

    def examples(self, path: str, max_length: int | None, *, packed: bool = False) -> Dataset:
        """Returns the examples of a file for supervised training.

        Raises:
            DataError: a line cannot be used.
            InvalidInputError: there is nothing to learn in the file.
        """
        length = max_length or self.context_length
        data = load(path, self.tokenizer, template=self.template, max_length=length, packed=packed)
        not_empty(path, data.examples)
        return data

    def prompt_of(self, example: Example) -> str:
        """Returns the text before the first answer of an example."""
        first = next(example.pieces(self.tokenizer))
        return "" if first.trained else first.text

    def prompts(self, path: str, max_tokens: int) -> Sequence[PromptRow]:
        """Returns the prompts of a file.

        Raises:
            DataError: a line cannot be used, or its prompt leaves no room for `max_tokens`.
            InvalidInputError: there are no prompts in the file.
        """
        prompts = load_prompts(path, self.tokenizer, template=self.template)
        for prompt in prompts:
            length = len(prompt.tokens) + max_tokens
            if self.context_length is not None and length > self.context_length:
                raise prompt.row.error(
                    f"the prompt has {len(prompt.tokens)} tokens, which leaves no room for "
                    f"{max_tokens} more in the model's context of {self.context_length}",
                    "Shorten the prompt, or lower --max-tokens.",
                )
        return not_empty(path, prompts)


def not_empty(path: Path | str, rows: Sequence[T]) -> Sequence[T]:
    """Returns the rows. Raises `InvalidInputError` if there are none."""
    if not rows:
        raise InvalidInputError(
            f"{path} has nothing to train on",
            advice=f"`tinkex data check {path}` says what is in it.",
        )
    return rows


def context_length(service: ServiceClient, model: str) -> int | None:
    """Returns the tokens that a base model can read, or None if the server does not tell."""
    try:
        models = service.get_server_capabilities().supported_models
    except (UnsupportedByServer, NotFoundError):
        return None
    return next((each.max_context_length for each in models if each.model_name == model), None)
