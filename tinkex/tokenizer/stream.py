"""`StreamDecoder`: incremental decoding of tokens to text, in whole characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field

_BROKEN = "\N{REPLACEMENT CHARACTER}"


@define(eq=False)
class StreamDecoder:
    """An incremental decoder of the tokens of one text, created by `Tokenizer.stream_decoder`.

    A character whose bytes are spread over several tokens is held back until it is complete. The
    results of `push` and `end` together are the text of all tokens, except for bytes that are not
    valid text, which some decoders represent differently in parts.

    Example:
        >>> decoder = get_tokenizer("tinkex/tiny").stream_decoder()
        >>> [decoder.push(token) for token in "né".encode()] + [decoder.end()]
        ['n', '', 'é', '']
    """

    _decode: Callable[[Sequence[int]], str]
    _shown: list[int] = field(init=False, factory=list[int])
    """Tokens whose text was already returned.

    They are decoded again as context, because some decoders drop the space of the first token.
    """
    _held: list[int] = field(init=False, factory=list[int])
    """Tokens whose text was not returned yet, or only in part."""
    _given: int = field(init=False, default=0)
    """The number of characters returned of the text of both lists."""

    def push(self, tokens: int | Sequence[int]) -> str:
        """Adds one or more tokens and returns the new complete text, which is often empty."""
        self._held += [tokens] if isinstance(tokens, int) else [int(token) for token in tokens]
        text = self._decode([*self._shown, *self._held])
        whole = text.rstrip(_BROKEN)
        new = whole[self._given :]
        self._given = max(self._given, len(whole))
        if new and whole == text:
            self._shown, self._held = self._held, []
            self._given = len(self._decode(self._shown))
        elif self._shown and len(text) == self._given:
            self._held = []  # They have no text, like skipped special tokens, and are not context.
        return new

    def end(self) -> str:
        """Returns the text held back, with a replacement character for an incomplete one."""
        text = self._decode([*self._shown, *self._held])[self._given :]
        self._shown, self._held, self._given = [], [], 0
        return text
