"""Text to tokens and back, for the playground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from tinkex_server.engine.interface import ModelInfo
from tinkex_server.errors import bad_request

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_INCOMPLETE = "\ufffd"  # what a part of a character is decoded to
_CONTEXT = 16  # tokens before a new one that are decoded with it


class Vocabulary(Protocol):
    """The way from text to tokens of one model, and back."""

    def encode(self, text: str, *, rendered: bool = False) -> Sequence[int]:
        """Returns the tokens of a prompt. One that a chat template has rendered has all special
        tokens, and gets no more. Raises `Refused` for a prompt that cannot be read.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens."""
        ...


class TokenizerVocabulary:
    """The vocabulary of a model that has a tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, rendered: bool = False) -> Sequence[int]:
        return self._tokenizer.encode(text, add_special_tokens=not rendered).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)


class NumberVocabulary:
    """The vocabulary of a model without a tokenizer.json: numbers, separated by spaces."""

    def encode(self, text: str, *, rendered: bool = False) -> Sequence[int]:
        try:
            return [int(word) for word in text.split()]
        except ValueError:
            raise bad_request(
                "this model has no tokenizer.json on the server, so a prompt is the ids of its "
                "tokens, as in: 5 6 7"
            ) from None

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{token} " for token in tokens)


def vocabulary(model: ModelInfo) -> Vocabulary:
    """Returns the vocabulary of a base model. To read a tokenizer takes up to a second."""
    if model.tokenizer_json is None:
        return NumberVocabulary()
    return _read(model.tokenizer_json)


@lru_cache(8)
def _read(tokenizer_json: str) -> Vocabulary:
    # imported here: most servers show no playground
    from tokenizers import Tokenizer

    return TokenizerVocabulary(Tokenizer.from_str(tokenizer_json))


class TextPieces:
    """The text of a sample, token by token. A character that several tokens make belongs to the
    last of them.
    """

    def __init__(self, words: Vocabulary, prompt: Sequence[int]) -> None:
        self._words = words
        self._tokens = list(prompt[-_CONTEXT:])
        self._told = words.decode(self._tokens)
        self._names: dict[int, str] = {}

    def add(self, token: int) -> str:
        """Returns the text that a token adds."""
        self._tokens.append(token)
        text = self._words.decode(self._tokens)
        if text.endswith(_INCOMPLETE):
            return ""
        piece = text.removeprefix(self._told) if text.startswith(self._told) else self.name(token)
        self._tokens = self._tokens[-_CONTEXT:]
        self._told = self._words.decode(self._tokens)
        return piece

    def name(self, token: int) -> str:
        """Returns the text of a token alone."""
        if token not in self._names:
            self._names[token] = self._words.decode([token])
        return self._names[token]

    def names(self, pairs: Sequence[tuple[int, float]]) -> Sequence[Mapping[str, object]]:
        """Returns tokens with their logprobs for a browser."""
        return [
            {"token": token, "text": self.name(token), "logprob": logprob}
            for token, logprob in pairs
        ]
