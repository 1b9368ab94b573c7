"""`Example`: the tokens of one training example, with the weight of each in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex.data.segments import Segment
from tinkex.tokenizer import Tokenizer
from tinkex.types import Datum, ModelInput


@frozen(eq=False)
class Example:
    """The tokens of one training example.

    `tokens` is int64 `(N,)`. `weights` is float32 `(N,)`: 1 for a token that the model learns to
    write, and 0 for one that it only reads.

    Example:
        example = tinkex.data.load("numbers.jsonl", tokenizer).examples[0]
        trainer.forward_backward([example.datum()], "cross_entropy")
    """

    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]
    line: int
    """The line of the file that it comes from; the first of them for a packed example."""

    @property
    def loss_tokens(self) -> int:
        """The number of tokens that count in the loss. The first token never does, since nothing
        stands before it.
        """
        return int(np.count_nonzero(self.weights[1:]))

    def cut(self, length: int) -> Example:
        """Returns the first `length` tokens."""
        return Example(self.tokens[:length], self.weights[:length], self.line)

    def datum(self) -> Datum:
        """Returns the datum for `cross_entropy`: N - 1 input tokens, and for each of them the token
        that follows as `target_tokens`, with the weight of that token as `weights`.
        """
        inputs = {"target_tokens": self.tokens[1:], "weights": self.weights[1:]}
        return Datum(ModelInput.from_ints(self.tokens[:-1]), inputs)

    def pieces(self, tokenizer: Tokenizer) -> Iterator[Segment]:
        """Yields the text of the tokens, in pieces that are trained on or only read."""
        counted = self.weights != 0
        counted[:1] = False
        for trained, places in groupby(range(len(self.tokens)), key=lambda at: bool(counted[at])):
            run = list(places)
            text = tokenizer.decode(self.tokens[run[0] : run[-1] + 1], skip_special_tokens=False)
            yield Segment(text, trained)


def encode(segments: Sequence[Segment], tokenizer: Tokenizer, line: int) -> Example:
    """Returns the tokens of segments, with the weight 1 where they are trained.

    The text is encoded as a whole, as the tokenizer meant it. Where a token would cross the edge of
    a segment, each segment is encoded on its own, as when a prompt is sent to be sampled from.
    """
    pieces = [
        ("".join(segment.text for segment in group), trained)
        for trained, group in groupby(segments, key=lambda segment: segment.trained)
    ]
    pieces = [(text, trained) for text, trained in pieces if text]
    parts = _split_whole(pieces, tokenizer)
    if parts is None:
        parts = tokenizer.encode_batch([text for text, _ in pieces])
    flags = [trained for _, trained in pieces]
    return Example(
        np.array([token for part in parts for token in part], np.int64),
        np.repeat(np.array(flags, np.float32), [len(part) for part in parts]),
        line,
    )


def _split_whole(
    pieces: Sequence[tuple[str, bool]], tokenizer: Tokenizer
) -> list[list[int]] | None:
    """Returns the tokens of the whole text in one list per piece, or None if a token crosses the
    edge of a piece.
    """
    beginnings = list(accumulate(text for text, _ in pieces))
    encoded = tokenizer.encode_batch(beginnings)
    if any(encoded[-1][: len(beginning)] != beginning for beginning in encoded[:-1]):
        return None
    edges = pairwise([0, *(len(beginning) for beginning in encoded)])
    return [encoded[-1][begin:end] for begin, end in edges]


def pack(examples: Sequence[Example], length: int) -> list[Example]:
    """Returns the examples in their order, as many together as fit in `length` tokens.

    The same tokens count in the loss as without packing. But a model reads the examples before its
    own as context, since the protocol has no way to separate them.
    """
    packed: list[Example] = []
    group: list[Example] = []
    size = 0
    for example in examples:
        if group and size + len(example.tokens) > length:
            packed.append(_joined(group))
            group, size = [], 0
        group.append(example)
        size += len(example.tokens)
    return [*packed, _joined(group)] if group else packed


def _joined(group: Sequence[Example]) -> Example:
    weights = [example.weights.copy() for example in group]
    for each in weights:
        each[:1] = 0  # what never counts alone
    return Example(
        np.concatenate([example.tokens for example in group]),
        np.concatenate(weights),
        group[0].line,
    )
