"""`CustomLossLimits`: limits on the memory and the time of the graph of one datum's custom loss,
checked before each operation.

The size of a result is found by torch's meta device, which allocates no memory. It is used only if
the sizes of the inputs do not already show that the result is small enough.
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
"""The most bytes of all tensors of one datum's loss and their gradients."""

MOST_WORK = 10**12
"""The most work of one datum's loss, in multiplications of a float matrix product: about a minute
on one core, and two for the backward pass.
"""

_WIDEST = 8  # bytes of the largest dtype
# an operation may return several tensors of one size, such as values and indices
_SEVERAL = 4
# the cost, in multiplications, of one value of another operation, or of one product of integers or
# of half-precision floats
_VALUE = 128
_ORDERED = 1024  # the cost of sorting one value
_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default: 0,
    _aten.bmm.default: 0,
    _aten.addmm.default: 1,
    _aten.baddbmm.default: 1,
}
"""The matrix products, with the index of the first of their two factors."""
_ORDERING = frozenset({_aten.sort, _aten.topk, _aten.kthvalue, _aten.median, _aten.nanmedian})


class CustomLossLimits(TorchDispatchMode):
    """A context in which an operation beyond the limits raises `ValueError` before it takes memory
    or time.

    Each tensor counts twice: it is kept for the backward pass, which makes a gradient of its size.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = MOST_BYTES // 2
        self._work_left = MOST_WORK
        self.depends_on_values = False
        """Whether the size of some result depended on the values of the inputs, as in a selection
        by a mask.
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
                f"the loss of this datum needs more than the allowed {MOST_WORK:,} "
                "multiplications. Use smaller matrices or shorter data"
            )

    def _check(self, count: int) -> None:
        if count > self._left:
            raise ValueError(
                "the loss of this datum and its gradients need more than the allowed "
                f"{MOST_BYTES >> 20} MiB. Reduce earlier, avoid token-by-token tables, or use "
                "shorter data"
            )

    def _planned_bytes(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """Returns an upper bound of the bytes that the operation would allocate."""
        if func is torch.ops.aten.masked_select.default:
            return math.prod(torch.broadcast_shapes(args[0].shape, args[1].shape)) * _WIDEST
        if func is torch.ops.aten.index.Tensor and any(_is_mask(index) for index in args[1]):
            args = (args[0], [part for index in args[1] for part in _mask_as_indices(index)])
        try:
            meta_args, meta_kwargs = tree_map(_on_meta_device, (args, dict(kwargs)))
            return _bytes(tree_leaves(func(*meta_args, **meta_kwargs)))
        # the size depends on values, or the validity of indices does
        except (NotImplementedError, IndexError):
            return _upper_bound_bytes(tree_leaves((args, kwargs)))


def _multiplications(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Returns the approximate cost of the operation, in multiplications."""
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
    """Returns whether the operation returns only views of its inputs."""
    return all(
        result.alias_info is not None and not result.alias_info.is_write
        for result in func._schema.returns
    )


@cache
def _makes(func: Any) -> Sequence[bool]:
    """Returns, for each result of the operation, whether it is a new tensor rather than an input or
    a view.
    """
    returns = func._schema.returns
    return [result.alias_info is None and "Tensor" in str(result.type) for result in returns]


def _upper_bound_bytes(leaves: Sequence[Any]) -> int:
    """Returns an upper bound of the bytes of the results, from the inputs alone. It is cheap, and
    often far too high.
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
    """Returns the indices that a mask selects if it is true everywhere, one tensor for each of its
    dimensions.
    """
    if not _is_mask(index):
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device="meta") for _ in range(index.ndim)]


def _on_meta_device(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
