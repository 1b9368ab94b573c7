"""`AdapterPlanner`: plans batches whose rows have different adapters.

Several adapters are applied by one product of stacked matrices, since for the few rows of a
decoding step the calls cost more than the arithmetic. Each row meets its own adapter's weights
only, so weights that are not finite do not reach other rows.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from attrs import define, field, frozen
from torch import Tensor

from tinkex_server.engine.torch.adapter import Adapter, LayerWeights

# a larger stack saves nothing: reading its weights takes longer than the calls
_STACK_BYTES = 64 << 20
_KEPT_BYTES = 2 * _STACK_BYTES
_RANK_SPREAD = 8  # of the largest to the smallest rank in one stack, which is padded to the largest
_PADDING = 2  # rows computed for one row that is needed, at most

_Rows: TypeAlias = Mapping[Adapter, Sequence[int]]


@frozen(eq=False)
class _Stack:
    """Adapters whose weights are stacked, padded to one rank; the scaling is part of B."""

    adapters: Sequence[Adapter]
    layers: Mapping[str, tuple[Tensor, Tensor]]  # (adapters, in, rank), (adapters, rank, out)

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> _Stack:
        rank = max(adapter.rank for adapter in adapters)
        # in a fixed order, each once
        names = dict.fromkeys(name for adapter in adapters for name in adapter.linear_layers)
        return cls(adapters, {name: _stacked(name, adapters, rank) for name in names})


@frozen(eq=False)
class _StackedRows:
    """Rows of a batch that a stack of adapters is applied to, as many for each adapter."""

    stack: _Stack
    gathered: Tensor  # the rows of the first adapter, of the second, ...; padded by repeating one

    def added_output(self, name: str, input: Tensor) -> Tensor | None:
        if (weights := self.stack.layers.get(name)) is None:
            return None
        a, b = weights
        rows = input.index_select(0, self.gathered).to(a.dtype)
        added = rows.view(a.shape[0], -1, a.shape[1]).bmm(a).bmm(b)
        return added.view(*rows.shape[:-1], b.shape[2])


@frozen(eq=False)
class _SingleRows:
    """Rows of a batch that one adapter is applied to."""

    adapter: Adapter
    gathered: Tensor

    def added_output(self, name: str, input: Tensor) -> Tensor | None:
        if (weights := self.adapter.layers.get(name)) is None:
            return None
        return weights.output(input.index_select(0, self.gathered)).mul_(self.adapter.scaling)


@frozen(eq=False)
class MixedAdapters:
    """The plan of a batch whose rows have different adapters, or of which some have none."""

    adapters: Sequence[Adapter]
    adapter_of_row: Tensor
    """The index of each row's adapter in `adapters`, -1 for a row without one."""
    _parts: Sequence[_StackedRows | _SingleRows]
    _places: Tensor
    """The place of each row in the outputs of all parts, one after another; a row without an
    adapter has the place after the last."""
    _some_have_none: bool

    def added_output(self, name: str, input: Tensor) -> Tensor | None:
        """Returns what the adapters add to the output of the layer `name`, for each row of `input`
        `(rows, ..., in)`; None if that layer has no adapter. Some layers, such as experts that all
        tokens share, get the tokens of all rows as `(rows * tokens, in)`.
        """
        rows = self.adapter_of_row.shape[0]
        if input.shape[0] != rows:
            added = self.added_output(name, input.view(rows, -1, input.shape[-1]))
            return None if added is None else added.flatten(0, 1)
        outputs = [part.added_output(name, input) for part in self._parts]
        joined = outputs[0] if self._is_one_part else self._joined(outputs)
        return None if joined is None else joined.index_select(0, self._places)

    @property
    def _is_one_part(self) -> bool:
        return len(self._parts) == 1 and not self._some_have_none

    def _joined(self, outputs: Sequence[Tensor | None]) -> Tensor | None:
        """Returns the outputs of all parts, one after another, and zeros for rows without an
        adapter; None if no part has any.
        """
        like = next((output for output in outputs if output is not None), None)
        if like is None:
            return None
        filled = [
            like.new_zeros(part.gathered.shape[0], *like.shape[1:]) if output is None else output
            for part, output in zip(self._parts, outputs, strict=True)
        ]
        if self._some_have_none:
            filled.append(like.new_zeros(1, *like.shape[1:]))
        return torch.cat(filled)


AdapterPlan: TypeAlias = Adapter | MixedAdapters | None
"""The adapters of a batch: one for all rows, one for each row, or none at all."""


@define(eq=False)
class CurrentPlan:
    """The plan of the current forward pass, shared by all layers of a model."""

    plan: AdapterPlan = None


@frozen(eq=False)
class AdapterPlanner:
    """Plans batches, and keeps the stacks of the latest ones. It must be used on one thread."""

    _device: torch.device
    # the latest used last
    _stacks: OrderedDict[tuple[Adapter, ...], _Stack] = field(factory=OrderedDict, init=False)

    @property
    def kept_bytes(self) -> int:
        """The size of the stacks that are kept."""
        return sum(map(_stack_bytes, self._stacks))

    def plan(self, adapters: Sequence[Adapter | None]) -> AdapterPlan:
        """Returns the plan of a batch whose rows have these adapters."""
        rows = defaultdict[Adapter, list[int]](list)
        for row, adapter in enumerate(adapters):
            if adapter is not None:
                rows[adapter].append(row)
        if not rows:
            return None
        if len(rows) == 1 and None not in adapters:
            return next(iter(rows))
        return self._mixed(rows, len(adapters))

    def _mixed(self, rows: _Rows, count: int) -> MixedAdapters:
        parts: list[_StackedRows | _SingleRows] = []
        places, end = [-1] * count, 0
        for group in _groups(rows):
            stack = self._stack(group) if len(group) > 1 else None
            members = stack.adapters if stack else group
            width = max(len(rows[adapter]) for adapter in group)
            gathered: list[int] = []
            for adapter in members:
                # a stack that is used again may hold adapters of other groups
                own = rows[adapter] if adapter in group else ()
                for index, row in enumerate(own):
                    places[row] = end + len(gathered) + index
                gathered += [*own, *[rows[group[0]][0]] * (width - len(own))]
            index = torch.tensor(gathered, device=self._device)
            parts.append(_StackedRows(stack, index) if stack else _SingleRows(group[0], index))
            end += len(gathered)
        without = -1 in places
        order = torch.tensor([end if place < 0 else place for place in places], device=self._device)
        adapters = list(rows)
        of_row = [-1] * count
        for place, adapter in enumerate(adapters):
            for row in rows[adapter]:
                of_row[row] = place
        of_rows = torch.tensor(of_row, device=self._device)
        return MixedAdapters(adapters, of_rows, parts, order, without)

    def _stack(self, adapters: Sequence[Adapter]) -> _Stack:
        """Returns a stack of these adapters, and of at most as many others."""
        wanted = set(adapters)
        for key, stack in self._stacks.items():
            if len(key) <= _PADDING * len(wanted) and wanted.issubset(key):
                self._stacks.move_to_end(key)
                return stack
        # the same adapters are the same stack, whichever has the first row
        stack = _Stack.of(sorted(adapters, key=id))
        self._stacks[tuple(stack.adapters)] = stack
        while self.kept_bytes > _KEPT_BYTES:
            self._stacks.popitem(last=False)
        return stack


def _groups(rows: _Rows) -> Iterator[list[Adapter]]:
    """Yields the adapters in groups that are worth stacking, and the others one by one."""
    by_rank = sorted(rows, key=lambda adapter: -adapter.rank)
    while by_rank:
        least = by_rank[0].rank / _RANK_SPREAD
        group = [adapter for adapter in by_rank if adapter.rank >= least]
        by_rank = by_rank[len(group) :]
        if _stack_bytes(group) > _STACK_BYTES:
            yield from ([adapter] for adapter in group)
            continue
        group.sort(key=lambda adapter: len(rows[adapter]))
        # one with many more rows than the others would pad them all
        while len(group) * len(rows[group[-1]]) > _PADDING * sum(len(rows[one]) for one in group):
            yield [group.pop()]
        yield group


def _stack_bytes(adapters: Sequence[Adapter]) -> int:
    return max(adapter.rank for adapter in adapters) * sum(
        adapter.bytes_per_rank for adapter in adapters
    )


@torch.no_grad()
def _stacked(name: str, adapters: Sequence[Adapter], rank: int) -> tuple[Tensor, Tensor]:
    """Returns the weights of one layer; an adapter without that layer has zeros."""
    layers = [adapter.layers.get(name) for adapter in adapters]
    like = next(weights for weights in layers if weights is not None)
    a = like.a.new_zeros(len(adapters), like.a.shape[1], rank)
    b = like.b.new_zeros(len(adapters), rank, like.b.shape[0])
    for index, (adapter, weights) in enumerate(zip(adapters, layers, strict=True)):
        if weights is not None:
            _fill(a[index], b[index], weights, adapter.scaling)
    return a, b


def _fill(a: Tensor, b: Tensor, weights: LayerWeights, scaling: float) -> None:
    rank = len(weights.a)
    a[:, :rank] = weights.a.T
    torch.mul(weights.b.T, scaling, out=b[:rank])
