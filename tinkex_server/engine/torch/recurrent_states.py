"""`RecurrentStates`: the states of layers such as Mamba and linear attention, for rows that come
and go.
"""

# transformers ships few types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache

_GROWTH = 2  # the growth factor of buffers
_KINDS = ("conv_states", "recurrent_states")

_Place: TypeAlias = tuple[int, str, int]
"""The index of a layer, one of the kinds, and the index of the state in the layer."""


class RecurrentStates:
    """The states of all rows in all recurrent layers. A state stands for all tokens of its row, and
    has the same size for any number of them.
    """

    def __init__(self) -> None:
        self.layers: list[Any] = []
        """Layers of a cache of transformers, with the states of these rows; empty if the model has
        no recurrent layer."""
        self._buffers: dict[_Place, Tensor] = {}  # with room for more rows
        self._rows = 0

    @property
    def bytes_per_row(self) -> int:
        """The bytes of the states of one row, over all layers, while there is a row."""
        return sum(buffer[0].nbytes for buffer in self._buffers.values())

    def add_rows(self, read: Cache, sources: Sequence[int]) -> None:
        """Adds a row for each of the rows `sources` of the cache `read`."""
        found = dict(_states(read.layers))
        if not found:
            return
        if not self._rows:
            self.layers = [copy.copy(layer) for layer in read.layers]
        first, self._rows = self._rows, self._rows + len(sources)
        for place, states in found.items():
            buffer = self._buffers.get(place)
            if buffer is None or len(buffer) < self._rows:
                larger = states.new_zeros(_GROWTH * self._rows, *states.shape[1:])
                if buffer is not None:
                    larger[:first] = buffer[:first]
                buffer = self._buffers[place] = larger
            buffer[first : self._rows] = states[list(sources)]
        self._show_rows()

    def remove_row(self, row: int) -> None:
        """Removes a row; the last row takes its index."""
        if not self._rows:
            return
        self._rows -= 1
        for buffer in self._buffers.values():
            buffer[row] = buffer[self._rows]
        if not self._rows:
            self.layers, self._buffers = [], {}
        self._show_rows()

    def _show_rows(self) -> None:
        """Gives the layers the states of the rows that there are, which they change in place."""
        shown: dict[tuple[int, str], dict[int, Tensor]] = {}
        for (layer, kind, index), buffer in self._buffers.items():
            shown.setdefault((layer, kind), {})[index] = buffer[: self._rows]
        for (layer, kind), states in shown.items():
            setattr(self.layers[layer], kind, {**getattr(self.layers[layer], kind), **states})


def _states(layers: Sequence[Any]) -> Iterator[tuple[_Place, Tensor]]:
    for place, layer in enumerate(layers):
        for kind in _KINDS:
            for index, states in (getattr(layer, kind, None) or {}).items():
                if isinstance(states, torch.Tensor):
                    yield (place, kind, index), states
