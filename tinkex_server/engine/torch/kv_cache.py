"""`KVCache`: a KV cache whose rows come and go, each with its own length, for any transformers
model with attention.

`cache_arguments` passes it, or a cache of transformers, to a forward pass.
"""

# transformers ships few types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.model_kinds import FULL, SLIDING, unsupported_layers

_GROWTH = 2  # the growth factor of buffers
_ALL_LAYERS = "all"


def cache_arguments(model: Any, cache: Cache) -> dict[str, Any]:
    """Returns the arguments that make a forward pass read from and append to `cache`."""
    return {_cache_argument_name(type(model)): cache, "use_cache": True}


@functools.cache
def _cache_argument_name(model: type) -> str:
    """Returns the argument's name, which changed between releases of transformers; models ignore an
    unknown one.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class KVCache(Cache):
    """Padded buffers `(rows, heads, tokens, dim)`, one for keys and one for values of each layer.
    They grow as needed and are freed with the last row.

    Unused entries are zero: attention multiplies them by weight 0, and 0 times NaN is NaN.
    """

    def __init__(self, windows: Mapping[str, int | None]) -> None:
        super().__init__(layers=[])
        self._windows = windows
        self.lengths: list[int] = []
        """The length of each row in tokens."""
        self._buffers: list[Tensor] = []  # keys and values of layer 0, of layer 1, ...

    @property
    def bytes_per_token(self) -> int:
        """The bytes of one token of one row, over all layers, while there is a row."""
        return sum(
            buffer.shape[1] * buffer.shape[3] * buffer.element_size() for buffer in self._buffers
        )

    def add_rows(self, read: Cache, rows: Sequence[tuple[int, int]]) -> None:
        """Adds a row for each `(source, length)`: the last `length` positions of row `source` of
        the cache `read`.
        """
        sources = keys_and_values(read)
        lengths, first = self.lengths + [length for _, length in rows], len(self.lengths)
        by_length = defaultdict[int, list[int]](list)
        for index, (_, length) in enumerate(rows):
            by_length[length].append(index)
        self._reserve(len(lengths), max(lengths), sources)
        for buffer, source in zip(self._buffers, sources, strict=True):
            buffer[first : len(lengths)] = 0
            for length, indices in by_length.items():
                taken = source[[rows[index][0] for index in indices], :, source.shape[2] - length :]
                buffer[[first + index for index in indices], :, :length] = taken
        self.lengths = lengths

    def remove_row(self, row: int) -> None:
        """Removes a row; the last row takes its index."""
        last, longest = len(self.lengths) - 1, max(self.lengths)
        if row != last:
            for buffer in self._buffers:
                buffer[row, :, :longest] = buffer[last, :, :longest]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._buffers = []

    def prepare(self, model: Any) -> dict[str, Any]:
        """Reserves one more token for each row; returns the arguments of the forward pass over
        these tokens.
        """
        device = self._buffers[0].device
        self._longest, self._same_length = max(self.lengths), len(set(self.lengths)) == 1
        self._reserve(len(self.lengths), self._longest + 1, self._buffers)
        self._positions = torch.tensor(self.lengths, device=device)
        self._rows = torch.arange(len(self.lengths), device=device)
        # without a mask the model applies its own, which is right for rows of one length
        mask = None if self._same_length else self._mask()
        return {
            "position_ids": self._positions[:, None],
            "attention_mask": mask,
            **cache_arguments(model, self),
        }

    def _mask(self) -> Tensor | dict[str, Tensor]:
        """Returns the additive attention mask `(rows, 1, 1, tokens)`, or one for each kind of layer
        if there are several.
        """
        columns, ends = (
            torch.arange(self._longest + 1, device=self._positions.device),
            self._positions[:, None],
        )
        masks: dict[str, Tensor] = {}
        for kind, window in self._windows.items():
            hidden = (
                columns > ends if window is None else (columns > ends) | (columns <= ends - window)
            )
            zeros = torch.zeros(hidden.shape, dtype=self._buffers[0].dtype, device=hidden.device)
            masks[kind] = zeros.masked_fill_(hidden, -torch.inf)[:, None, None]
        return masks.get(_ALL_LAYERS, masks)

    def advance(self) -> None:
        """Lengthens each row by the token that a forward pass has written."""
        self.lengths = [length + 1 for length in self.lengths]

    def _reserve(self, rows: int, tokens: int, like: Sequence[Tensor]) -> None:
        """Grows the buffers to at least this size, with the heads of `like`."""
        had_rows, had_tokens = (
            (self._buffers[0].shape[0], self._buffers[0].shape[2]) if self._buffers else (0, 0)
        )
        if rows <= had_rows and tokens <= had_tokens:
            return
        rows = had_rows if rows <= had_rows else max(rows, _GROWTH * had_rows)
        tokens = had_tokens if tokens <= had_tokens else _GROWTH * tokens
        larger = [
            source.new_zeros(rows, source.shape[1], tokens, source.shape[3]) for source in like
        ]
        for old, new in zip(self._buffers, larger, strict=False):
            new[:had_rows, :, :had_tokens] = old
        self._buffers = larger

    # the methods below are called by a model's forward pass, for one token of each row

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the token's keys and values; returns those of all tokens so far."""
        return self._write(self._buffers[2 * layer_idx], key_states), self._write(
            self._buffers[2 * layer_idx + 1], value_states
        )

    def _write(self, buffer: Tensor, states: Tensor) -> Tensor:
        rows, longest = len(self.lengths), self._longest
        if self._same_length:
            buffer[:rows, :, longest] = states[:, :, 0]
        else:
            buffer[self._rows, :, self._positions] = states[:, :, 0]
        return buffer[:rows, :, : longest + 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._longest

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self._longest

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._longest + query_length, 0


def keys_and_values(cache: Cache) -> list[Tensor]:
    """Returns what a cache of transformers holds: keys and values of layer 0, of layer 1, ..., each
    `(rows, heads, tokens, dim)`.
    """
    layers: list[Any] = cache.layers
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]


def attention_windows(config: Any) -> dict[str, int | None]:
    """Returns the attention window of each kind of layer, in tokens including the current one; None
    if unlimited.

    Raises `InvalidRequest` for layers with another state than keys and values of each token.
    """
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {_ALL_LAYERS: window}
    if unknown := unsupported_layers(list(kinds)):
        raise InvalidRequest(
            f"layers of the kind {', '.join(unknown)} keep a state other than the keys and "
            "values of each token"
        )
    return {_ALL_LAYERS: None} if set(kinds) == {FULL} else {FULL: None, SLIDING: window}
