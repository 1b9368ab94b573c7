"""`KVCache`: a KV cache whose rows come and go, each with its own length, for any transformers
model with attention, in all of its layers or in some.

`cache_arguments` passes it, or a cache of transformers, to a forward pass. `CacheLayout` says what
a model keeps in a cache.
"""

# transformers ships few types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from attrs import frozen
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.model_kinds import (
    CHUNKED,
    FULL,
    RECURRENT,
    SLIDING,
    STATELESS,
    unsupported_layers,
)
from tinkex_server.engine.torch.recurrent_states import RecurrentStates

Hides: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Returns which tokens, at `columns`, a layer does not see from the positions `ends`."""

_GROWTH = 2  # the growth factor of buffers
_ALL_LAYERS = "all"


@frozen(eq=False)
class CacheLayout:
    """The states that a model keeps of the tokens that it has read."""

    masks: Mapping[str, Hides | None]
    """The tokens that each kind of layer hides; None: it has no attention."""
    recurrent: bool
    """Whether some layers keep a state of all tokens together, which cannot be cut after a prefix,
    and which padding could change."""
    alone: bool
    """Whether prompts are read one by one, without padding."""
    _config: Any
    whole: bool = False
    """Whether a prompt must be read in one pass: some recurrent layers continue from a state by
    single tokens alone. `check_logprobs` finds it."""

    @classmethod
    def of(cls, model: Any) -> CacheLayout:
        """Raises `InvalidRequest` for layers with a state of another kind."""
        config = model.config.get_text_config(decoder=True)
        kinds = layer_kinds(config)
        if unknown := unsupported_layers(kinds):
            raise InvalidRequest(
                f"layers of the kind {', '.join(unknown)} keep a state other than the keys and "
                "values of each token"
            )
        recurrent = not RECURRENT.isdisjoint(kinds)
        return cls(_masks(config, set(kinds)), recurrent, recurrent or CHUNKED in kinds, config)

    def new_cache(self) -> Cache:
        """Returns an empty cache of transformers, which keeps the keys and values of all tokens,
        also of those that a layer no longer sees.
        """
        if not self.recurrent:
            return DynamicCache()
        cache = DynamicCache(config=self._config)
        cache.layers = [
            DynamicLayer() if getattr(layer, "is_sliding", False) else layer
            for layer in cache.layers
        ]
        return cache


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

    def __init__(self, layout: CacheLayout) -> None:
        super().__init__(layers=[])
        self._masks = layout.masks
        self._states = RecurrentStates()
        self.lengths: list[int] = []
        """The length of each row in tokens."""
        self._buffers: list[Tensor] = []  # keys and values of each layer with attention
        self._places: Mapping[int, int] = {}  # of the keys of these layers

    @property
    def bytes_per_token(self) -> int:
        """The bytes of one token of one row, over all layers, while there is a row."""
        return sum(
            buffer.shape[1] * buffer.shape[3] * buffer.element_size() for buffer in self._buffers
        )

    @property
    def bytes_per_row(self) -> int:
        """The bytes that each row has besides those of its tokens, while there is a row."""
        return self._states.bytes_per_row

    def add_rows(self, read: Cache, rows: Sequence[tuple[int, int]]) -> None:
        """Adds a row for each `(source, length)`: the last `length` positions of row `source` of
        the cache `read`.
        """
        self._states.add_rows(read, [source for source, _ in rows])
        self.layers = self._states.layers
        sources, attending = keys_and_values(read), _attending(read)
        self._places = {layer: 2 * place for place, layer in enumerate(attending)}
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
        self._states.remove_row(row)
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
        device = model.device
        self._longest, self._same_length = max(self.lengths), len(set(self.lengths)) == 1
        self._reserve(len(self.lengths), self._longest + 1, self._buffers)
        self._positions = torch.tensor(self.lengths, device=device)
        self._rows = torch.arange(len(self.lengths), device=device)
        # without a mask the model applies its own, which is right for rows of one length
        mask = None if self._same_length or not self._buffers else self._mask()
        return {
            "position_ids": self._positions[:, None],
            "attention_mask": mask,
            **cache_arguments(model, self),
        }

    def _mask(self) -> Tensor | dict[str, Tensor | None]:
        """Returns the additive attention mask `(rows, 1, 1, tokens)`, or one for each kind of layer
        if there are several.
        """
        columns, ends = (
            torch.arange(self._longest + 1, device=self._positions.device),
            self._positions[:, None],
        )
        masks: dict[str, Tensor | None] = {}
        for kind, hides in self._masks.items():
            if hides is None:
                masks[kind] = None
                continue
            hidden = hides(columns, ends)
            zeros = torch.zeros(hidden.shape, dtype=self._buffers[0].dtype, device=hidden.device)
            masks[kind] = zeros.masked_fill_(hidden, -torch.inf)[:, None, None]
        only = masks.get(_ALL_LAYERS)
        return masks if only is None else only

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
        place = self._places[layer_idx]
        return self._write(self._buffers[place], key_states), self._write(
            self._buffers[place + 1], value_states
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
    """Returns the keys and values of each layer with attention, first to last, in a cache of
    transformers, each `(rows, heads, tokens, dim)`.
    """
    layers: list[Any] = cache.layers
    return [
        tensor
        for place in _attending(cache)
        for tensor in (layers[place].keys, layers[place].values)
    ]


def _attending(cache: Cache) -> list[int]:
    """Returns the indices of the layers that hold keys and values."""
    return [
        place
        for place, layer in enumerate(cache.layers)
        if getattr(layer, "keys", None) is not None
    ]


def layer_kinds(config: Any) -> list[str]:
    """Returns the kind of each layer, by transformers' names; none: all have attention of one
    kind.
    """
    return list(getattr(config, "layer_types", None) or [])


def _masks(config: Any, kinds: set[str]) -> dict[str, Hides | None]:
    window: int | None = getattr(config, "sliding_window", None)
    if not kinds:
        return {_ALL_LAYERS: _later if window is None else _beyond(window)}
    if kinds <= {FULL} | RECURRENT | STATELESS:
        # a model has one mask for its attention, and none for other layers
        return {_ALL_LAYERS: _later}
    masks: dict[str, Hides | None] = dict.fromkeys(kinds)
    masks[FULL] = _later
    if SLIDING in kinds:
        masks[SLIDING] = _beyond(window) if window else _later
    if CHUNKED in kinds:
        masks[CHUNKED] = _of_earlier_chunks(config.attention_chunk_size)
    return masks


def _later(columns: Tensor, ends: Tensor) -> Tensor:
    return columns > ends


def _beyond(window: int) -> Hides:
    """Hides what is not among the last `window` tokens, the current one included."""
    return lambda columns, ends: (columns > ends) | (columns <= ends - window)


def _of_earlier_chunks(size: int) -> Hides:
    return lambda columns, ends: (columns > ends) | (columns < ends // size * size)
