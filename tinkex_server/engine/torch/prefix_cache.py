"""`PrefixCache`: the keys and values of prompts that were read, for prompts that begin alike."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from attrs import define, field
from numpy.typing import NDArray
from torch import Tensor

from tinkex_server.engine.torch.adapter import Adapter

Prompt: TypeAlias = NDArray[np.int64]

_FEWEST_TOKENS = 16  # fewer are sooner computed than kept


@define(eq=False)
class _Piece:
    """Tokens that prompts have in common after those of the piece before, with their keys and
    values.
    """

    tokens: Prompt
    states: Sequence[Tensor]
    """Keys and values of layer 0, of layer 1, ..., each `(heads, tokens, dim)`."""
    before: _Piece | None
    after: dict[int, _Piece] = field(factory=dict[int, "_Piece"])
    """The pieces that follow, by their first token."""

    @property
    def bytes(self) -> int:
        return self.tokens.nbytes + sum(states.nbytes for states in self.states)


class PrefixCache:
    """A tree of prompts for each adapter, in which a common beginning is kept once. The prompts
    that were used longest ago are dropped, from their ends, when it has more than `most_bytes`.

    Keys and values depend on the tokens up to their own, on their positions from the start of the
    prompt, and on the weights. An `Adapter` that samples never changes: weights that are loaded
    again are another one. It must be used on one thread, under `torch.inference_mode`.
    """

    def __init__(self, most_bytes: int) -> None:
        self.bytes = 0
        """The bytes that are kept."""
        self._most_bytes = most_bytes
        # by adapter, which it does not keep alive; None: the base model alone
        self._trees: dict[weakref.ref[Adapter] | None, _Piece] = {}
        # the latest used last, and each after those that follow it: the first has none after it
        self._by_use: OrderedDict[_Piece, None] = OrderedDict()

    def count(self, adapter: Adapter | None, prompt: Prompt) -> int:
        """Returns for how many tokens, from the first, all is known; 0 if they are very few."""
        known = sum(alike for _, alike in self._known(adapter, prompt))
        return known if known >= _FEWEST_TOKENS else 0

    def gather(
        self, prefixes: Sequence[tuple[Adapter | None, Prompt]], columns: int
    ) -> Sequence[Tensor]:
        """Returns the keys and values of these prefixes, one a row, all of whose tokens must be
        known: for each layer two tensors `(rows, heads, columns, dim)`, padded on the left.
        """
        found = [list(self._known(adapter, prefix)) for adapter, prefix in prefixes]
        like = next(piece.states for row in found for piece, _ in row)
        gathered = [
            states.new_zeros(len(found), len(states), columns, states.shape[-1]) for states in like
        ]
        for row, ((_, prefix), pieces) in enumerate(zip(prefixes, found, strict=True)):
            column = columns - len(prefix)
            for piece, count in pieces:
                for states, target in zip(piece.states, gathered, strict=True):
                    target[row, :, column : column + count] = states[:, :count]
                column += count
            if pieces:
                self._note_use(pieces[-1][0])
        return gathered

    def add(self, adapter: Adapter | None, prompt: Prompt, states: Sequence[Tensor]) -> None:
        """Keeps a prompt, or as much of it as there is room for. `states` are its keys and values,
        each `(heads, tokens, dim)`; what is new in them is copied.
        """
        self._drop_unused_trees()
        prompt = prompt[: self._most_bytes // _bytes_per_token(states)]
        pieces = list(self._known(adapter, prompt))
        known = sum(alike for _, alike in pieces)
        last = pieces[-1][0] if pieces else None
        if len(prompt) - known >= _FEWEST_TOKENS:
            if last and pieces[-1][1] < len(last.tokens):
                last = self._split(last, pieces[-1][1])
            before = last or self._tree(adapter)
            new = [part[:, known : len(prompt)].clone() for part in states]
            last = _Piece(prompt[known:].copy(), new, before)
            before.after[int(prompt[known])] = last
            self.bytes += last.bytes
        if last:
            self._note_use(last)
        while self.bytes > self._most_bytes:
            self._drop(next(iter(self._by_use)))

    def _known(self, adapter: Adapter | None, prompt: Prompt) -> Iterator[tuple[_Piece, int]]:
        """Yields the pieces that the prompt begins with, each with the number of its tokens that
        are alike, which is less than all of them for the last one only.
        """
        piece, place = self._trees.get(_key(adapter)), 0
        while piece and place < len(prompt):
            piece = piece.after.get(int(prompt[place]))
            if piece:
                alike = count_common(piece.tokens, prompt[place:])
                yield piece, alike
                if alike < len(piece.tokens):
                    return
                place += alike

    def _tree(self, adapter: Adapter | None) -> _Piece:
        return self._trees.setdefault(_key(adapter), _Piece(np.empty(0, np.int64), (), None))

    def _split(self, piece: _Piece, count: int) -> _Piece:
        """Makes the first tokens of a piece a piece of their own, which it returns."""
        first = _Piece(
            piece.tokens[:count].copy(),
            [states[:, :count].clone() for states in piece.states],
            piece.before,
            {int(piece.tokens[count]): piece},
        )
        assert piece.before
        piece.before.after[int(first.tokens[0])] = first
        piece.before, piece.tokens = first, piece.tokens[count:].copy()
        piece.states = [states[:, count:].clone() for states in piece.states]
        return first

    def _note_use(self, piece: _Piece) -> None:
        """Moves a piece, and then those before it, to the end of the order of use."""
        while piece.before:
            self._by_use[piece] = None
            self._by_use.move_to_end(piece)
            piece = piece.before

    def _drop(self, piece: _Piece) -> None:
        assert piece.before
        assert not piece.after
        del piece.before.after[int(piece.tokens[0])]
        del self._by_use[piece]
        self.bytes -= piece.bytes

    def _drop_unused_trees(self) -> None:
        """Drops the prompts of adapters that nobody can sample from any more."""
        for key in [key for key in self._trees if key is not None and key() is None]:
            left = list(self._trees.pop(key).after.values())
            while left:
                piece = left.pop()
                left += piece.after.values()
                del self._by_use[piece]
                self.bytes -= piece.bytes


def count_common(one: Prompt, other: Prompt) -> int:
    """Returns the number of tokens, from the first, that two prompts have in common."""
    shorter = min(len(one), len(other))
    differences = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differences[0]) if len(differences) else shorter


def _key(adapter: Adapter | None) -> weakref.ref[Adapter] | None:
    return None if adapter is None else weakref.ref(adapter)


def _bytes_per_token(states: Sequence[Tensor]) -> int:
    return np.dtype(np.int64).itemsize + sum(
        part.shape[0] * part.shape[2] * part.element_size() for part in states
    )
