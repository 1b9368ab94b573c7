"""`CustomLossLimits`: what the graph of one datum's custom loss may take of memory and time, counted
before each operation.

The sizes of what an operation makes are those that torch's meta device finds, which has no memory.
It is asked only where the sizes of what goes in leave a doubt.
"""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MOST_BYTES = 1 << 30
"""Of all tensors of one datum's loss together, and of their gradients."""

MOST_WORK = 10**12
"""Of all operations of one datum's loss together, as multiplications of floats in a product of
matrices: about a minute of one core, and two for the backward pass.
"""

_WIDEST = 8  # bytes of a value
# of what goes in: an operation may make a few tensors of one size, such as values and indices
_SEVERAL = 4
# multiplications that take as long as one value of another operation, or one product of integers or
# short floats
_VALUE = 128
_ORDERED = 1024  # the same of one value that is put in order
_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default: 0,
    _aten.bmm.default: 0,
    _aten.addmm.default: 1,
    _aten.baddbmm.default: 1,
}
"""Where the two factors are among the arguments."""
_ORDERING = frozenset({_aten.sort, _aten.topk, _aten.kthvalue, _aten.median, _aten.nanmedian})


class CustomLossLimits(TorchDispatchMode):
    """Within it, an operation that would be too much raises `ValueError` before memory or time is
    taken.

    Each tensor counts twice: it is kept for the backward pass, which makes a gradient of its size.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = MOST_BYTES // 2
        self._work_left = MOST_WORK
        self.depends_on_values = False
        """Whether there was an operation whose result is of a size that its inputs' values say,
        such as a choice by a mask.
        """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.depends_on_values |= torch.Tag.dynamic_output_shape in func.tags
        self._count_work(_multiplications(func, args, kwargs))
        if not any(made := _makes(func)):
            return func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        if _upper_bound_bytes(leaves) > self._left:
            self._check(self._planned_bytes(func, args, kwargs))
        results = func(*args, **kwargs)
        several = results if isinstance(results, (tuple, list)) else (results,)
        taken = sum(
            _bytes(tree_leaves(result)) for result, new in zip(several, made, strict=False) if new
        )
        self._check(taken)
        self._left -= taken
        return results

    def _count_work(self, work: int) -> None:
        self._work_left -= work
        if self._work_left < 0:
            raise ValueError(
                f"the loss of this datum would take longer than {MOST_WORK:.0e} multiplications, "
                "which is the most here. Multiply "
                "smaller matrices, or send shorter data"
            )

    def _check(self, count: int) -> None:
        if count > self._left:
            raise ValueError(
                f"the loss of this datum would take more than {MOST_BYTES >> 20} MiB with its "
                "gradients, which is the most here. Sum "
                "earlier, make no table of each token by each other, or send shorter data"
            )

    def _planned_bytes(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """Returns the bytes of what the operation would make, or more."""
        if func is torch.ops.aten.masked_select.default:
            return math.prod(torch.broadcast_shapes(args[0].shape, args[1].shape)) * _WIDEST
        if func is torch.ops.aten.index.Tensor and any(_is_mask(index) for index in args[1]):
            args = (args[0], [part for index in args[1] for part in _mask_as_indices(index)])
        try:
            meta_args, meta_kwargs = tree_map(_on_meta_device, (args, dict(kwargs)))
            return _bytes(tree_leaves(func(*meta_args, **meta_kwargs)))
        # it depends on values, or indices fit by their values alone
        except (NotImplementedError, IndexError):
            return _upper_bound_bytes(tree_leaves((args, kwargs)))


def _multiplications(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Returns about how many multiplications take as long as the operation."""
    if _is_view(func):
        return 0
    if (first := _PRODUCTS.get(func)) is not None:
        left, right = args[first : first + 2]
        return (
            left.numel()
            * right.shape[-1]
            * (1 if left.dtype in (torch.float32, torch.float64) else _VALUE)
        )
    count = sum(leaf.numel() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    if func is _aten._linalg_svd.default:
        count *= min(args[0].shape[-2:])
    return count * (_ORDERED if func.overloadpacket in _ORDERING else _VALUE)


@cache
def _is_view(func: Any) -> bool:
    """Returns whether it only looks at its input in another way."""
    return all(
        result.alias_info is not None and not result.alias_info.is_write
        for result in func._schema.returns
    )


@cache
def _makes(func: Any) -> Sequence[bool]:
    """Returns for each result of the operation whether it is a new tensor, not one of its inputs or
    a view of it.
    """
    returns = func._schema.returns
    return [result.alias_info is None and "Tensor" in str(result.type) for result in returns]


def _upper_bound_bytes(leaves: Sequence[Any]) -> int:
    """Returns bytes that the results cannot exceed, by what goes in. It is quick, and often far too
    much.
    """
    tensors = [max(1, leaf.numel()) for leaf in leaves if isinstance(leaf, Tensor)]
    numbers = [1 + abs(leaf) for leaf in leaves if type(leaf) is int]
    return math.prod(tensors) * math.prod(numbers) * _WIDEST * _SEVERAL


def _bytes(values: Sequence[Any]) -> int:
    return sum(
        value.numel() * value.element_size() for value in values if isinstance(value, Tensor)
    )


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _mask_as_indices(index: Any) -> Sequence[Any]:
    """Returns what a mask chooses when it is true everywhere: as many indices as it has
    dimensions.
    """
    if not _is_mask(index):
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device="meta") for _ in range(index.ndim)]


def _on_meta_device(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
