"""`StreamDecoder`: the text of tokens that come one after another, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field

_BROKEN = "\N{REPLACEMENT CHARACTER}"


@define(eq=False)
class StreamDecoder:
    """Text as its tokens come. All that `push` and `end` give, joined, is the text of all tokens
    together.

    (But for bytes that are no text: some decoders show those otherwise alone than together.) A
    character whose bytes are spread over several tokens is held back until it is whole. Made by
    `Tokenizer.stream_decoder`; one for each text.

    Example:
        >>> decoder = get_tokenizer("tinkex/tiny").stream_decoder()
        >>> [decoder.push(token) for token in "né".encode()] + [decoder.end()]
        ['n', '', 'é', '']
    """

    _decode: Callable[[Sequence[int]], str]
    _shown: list[int] = field(init=False, factory=list[int])
    """Tokens whose text was given already, which what follows may lean on: of the first token some
    decoders drop a blank.
    """
    _held: list[int] = field(init=False, factory=list[int])
    _given: int = field(init=False, default=0)
    """Characters given of the text of both."""

    def push(self, tokens: int | Sequence[int]) -> str:
        """Takes the next token or tokens, and returns the text that is now whole, often none."""
        self._held += [tokens] if isinstance(tokens, int) else [int(token) for token in tokens]
        text = self._decode([*self._shown, *self._held])
        whole = text.rstrip(_BROKEN)
        new = whole[self._given :]
        self._given = max(self._given, len(whole))
        if new and whole == text:
            self._shown, self._held = self._held, []
            self._given = len(self._decode(self._shown))
        elif self._shown and len(text) == self._given:
            self._held = []  # without a text, as skipped special tokens are: nothing leans on them
        return new

    def end(self) -> str:
        """Returns what was held back: of a character that was never finished a replacement
        character.
        """
        text = self._decode([*self._shown, *self._held])[self._given :]
        self._shown, self._held, self._given = [], [], 0
        return text
