"""Stop rules: a sample ends at a stop token, or when its text contains a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinkex_server.engine.interface import SampleSpec

Decode = Callable[[Sequence[int]], str]


class StopRule:
    """The stop tokens and stop strings of one request. A token is decoded only if it may complete a
    stop string.
    """

    def __init__(self, spec: SampleSpec, end_of_text: frozenset[int], decode: Decode) -> None:
        default = spec.stop_tokens is None and spec.stop_strings is None
        self._tokens = end_of_text if default else frozenset(spec.stop_tokens or ())
        self._strings = tuple(spec.stop_strings or ())
        self._decode = decode
        # a character has at most four bytes, a token at least one
        self._tail = 4 * max((len(text) for text in self._strings), default=0) + 4
        self._may_complete: dict[int, bool] = {}

    def ends(self, tokens: Sequence[int]) -> bool:
        """Returns whether the sample ends with the last of these tokens."""
        last = tokens[-1]
        if last in self._tokens:
            return True
        if not self._strings:
            return False
        if last not in self._may_complete:
            self._may_complete[last] = self._looks_complete(self._decode([last]))
        return self._may_complete[last] and self._complete(tokens[-self._tail :])

    def _looks_complete(self, piece: str) -> bool:
        """Returns whether a token may complete a stop string, judged by its own text, which may be
        part of a character or lack a leading space.
        """
        ends = {text[-1:] for text in self._strings}
        return "\ufffd" in piece or any(end in piece or end == " " for end in ends)

    def _complete(self, tokens: Sequence[int]) -> bool:
        text = self._decode(tokens)
        return any(stop in text for stop in self._strings)
