"""Data files as what the recipes train on: examples, preference pairs, and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex.data import items
from tinkex.data.examples import Example, encode, pack
from tinkex.data.rows import DataError, Row, read_rows
from tinkex.data.segments import Renderer
from tinkex.data.templates import ChatTemplate, chat_template
from tinkex.tokenizer import Tokenizer


@frozen
class Dataset:
    """The examples of a file, and how much of it was left out.

    Example:
        data = tinkex.data.load("numbers.jsonl", tokenizer, max_length=512)
        print(data)  # 1,480 examples of 51,930 tokens, 9,214 of them in the loss; …
        batch = [example.datum() for example in data.examples[:8]]
    """

    examples: Sequence[Example]
    rows: int
    """The rows of the file."""
    empty: int
    """The rows without a token to learn."""
    cut: int
    """The examples that were longer than `max_length`, and lost their end."""
    cut_tokens: int
    """The tokens that they lost."""
    lost: int
    """The examples that were left out, since nothing to learn was left of them."""

    @property
    def tokens(self) -> int:
        """The tokens of all examples."""
        return sum(len(example.tokens) for example in self.examples)

    @property
    def loss_tokens(self) -> int:
        """The tokens that count in the loss."""
        return sum(example.loss_tokens for example in self.examples)

    def __str__(self) -> str:
        parts = [
            f"{len(self.examples):,} examples of {self.tokens:,} tokens, {self.loss_tokens:,} of "
            "them in the loss"
        ]
        if self.empty:
            parts.append(f"{self.empty:,} empty row{_s(self.empty)} left out")
        if self.cut:
            parts.append(
                f"{self.cut:,} example{_s(self.cut)} cut by {self.cut_tokens:,} tokens in all"
            )
        if self.lost:
            parts.append(f"{self.lost:,} left out because the cut left nothing to learn")
        return "; ".join(parts)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def load(
    path: Path | str,
    tokenizer: Tokenizer,
    *,
    template: ChatTemplate | None = None,
    max_length: int | None = None,
    packed: bool = False,
) -> Dataset:
    """Reads a JSONL file for supervised training.

    Each row is a text `{"text": …}`, of which all tokens are trained on; a prompt
    `{"prompt": …, "completion": …}`, of which only the completion is; or a chat
    `{"messages": [{"role": …, "content": …}, …]}`, of which the assistant's messages are, except
    those with `"weight": 0`. Prompt and completion may be lists of messages, too.

    Args:
        path: the file.
        tokenizer: the tokenizer of the model to train, as `trainer.get_tokenizer()` returns it.
        template: the chat template; by default the tokenizer's own, or `plain`.
        max_length: tokens after which an example is cut.
        packed: whether to put several examples together, up to `max_length` tokens.

    Raises:
        DataError: a row cannot be used; the message names the line.
        ConfigError: the tokenizer's chat template is not valid, or jinja2 is not installed.
        OSError: the file cannot be read.

    Example:
        data = tinkex.data.load("chats.jsonl", trainer.get_tokenizer(), max_length=2048)
        batch = [example.datum() for example in data.examples[:16]]
        trainer.forward_backward(batch, "cross_entropy")
    """
    renderer = _renderer(tokenizer, template)
    examples: list[Example] = []
    rows = empty = cut = cut_tokens = lost = 0
    for row in read_rows(path):
        rows += 1
        made = row_examples(row, renderer)
        empty += not made
        for example in made:
            if max_length is not None and len(example.tokens) > max_length:
                cut, cut_tokens = cut + 1, cut_tokens + len(example.tokens) - max_length
                example = example.cut(max_length)
            if example.loss_tokens:
                examples.append(example)
            else:
                lost += 1
    if packed:
        examples = pack(examples, max_length or max((len(e.tokens) for e in examples), default=1))
    return Dataset(examples, rows, empty, cut, cut_tokens, lost)


def row_examples(row: Row, renderer: Renderer) -> Sequence[Example]:
    """Returns the examples of a row. There are none if it has no token to learn."""
    made = [
        encode(segments, renderer.tokenizer, row.line)
        for segments in renderer.examples(items.read_item(row), row)
    ]
    return [example for example in made if example.loss_tokens]


@frozen(eq=False)
class Pair:
    """Two answers to one prompt, as examples in which the answer has the weights 1."""

    chosen: Example
    rejected: Example


def load_pairs(
    path: Path | str,
    tokenizer: Tokenizer,
    *,
    template: ChatTemplate | None = None,
    max_length: int | None = None,
) -> Sequence[Pair]:
    """Reads a JSONL file of preference pairs.

    Each row is `{"prompt": …, "chosen": …, "rejected": …}`, as texts or as messages; or two chats
    `{"chosen": […], "rejected": […]}`, which end in different answers.

    Args, and errors: as for `load`. A pair of which `max_length` would cut an answer off is an
    error, since cut answers cannot be compared.
    """
    renderer = _renderer(tokenizer, template)
    pairs = [row_pair(row, renderer) for row in read_rows(path)]
    for pair in pairs:
        longest = max(len(pair.chosen.tokens), len(pair.rejected.tokens))
        if max_length is not None and longest > max_length:
            raise DataError(
                f"{path}:{pair.chosen.line}: an answer with its prompt has {longest} tokens, and "
                f"at most {max_length} can be used"
            )
    return pairs


def row_pair(row: Row, renderer: Renderer) -> Pair:
    """Returns the pair of a row. Raises `DataError` for an answer that is empty."""
    preference = items.read_preference(row)
    chosen, rejected = (
        _one_answer(row, renderer, name, item)
        for name, item in (("chosen", preference.chosen), ("rejected", preference.rejected))
    )
    return Pair(chosen, rejected)


def _one_answer(row: Row, renderer: Renderer, name: str, item: items.Item) -> Example:
    made = renderer.examples(item, row)
    if not made:
        raise row.error(f"{name!r} has no answer")
    if len(made) > 1:
        raise row.error(f"{name!r} has several answers that the chat template shows differently")
    return encode(made[0], renderer.tokenizer, row.line)


@frozen(eq=False)
class PromptRow:
    """A prompt to sample from, with the row that it comes from."""

    tokens: NDArray[np.int64]
    """int64 `(N,)`"""
    row: Row


def load_prompts(
    path: Path | str, tokenizer: Tokenizer, *, template: ChatTemplate | None = None
) -> Sequence[PromptRow]:
    """Reads a JSONL file of prompts.

    Each row has a `prompt`, as a text or as messages; or `messages`, of which those before the last
    answer are the prompt. All other fields are for the function that scores the answers.

    Args, and errors: as for `load`.
    """
    renderer = _renderer(tokenizer, template)
    return [row_prompt(row, renderer) for row in read_rows(path)]


def row_prompt(row: Row, renderer: Renderer) -> PromptRow:
    """Returns the prompt of a row. Raises `DataError` for one that is empty."""
    text = renderer.prompt(items.read_prompt(row), row)
    tokens = renderer.tokenizer.encode_np(text)
    if not len(tokens):
        raise row.error("the prompt is empty")
    return PromptRow(tokens, row)


def _renderer(tokenizer: Tokenizer, template: ChatTemplate | None) -> Renderer:
    return Renderer(tokenizer, template or chat_template(tokenizer))
