"""`TensorData`: one array on its way to or from the server, and the taking of lists, numpy arrays and torch tensors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from tinkex.errors import InvalidInputError

TensorDtype = Literal["float32", "int64"]
Array: TypeAlias = NDArray[np.generic]
ArrayLike: TypeAlias = Any
"""A list of numbers (nested for more dimensions), a numpy array, a torch tensor, or a `TensorData`."""

_PACKED = (("q", np.int64), ("d", np.float64))
_NUMPY_DTYPE: dict[str, type[np.generic]] = {"float32": np.float32, "int64": np.int64}


def to_numpy(value: ArrayLike, name: str) -> Array:
    """`value` as an array of whatever dtype it has; a torch tensor is detached and brought to the CPU (torch is not imported).

    Raises `InvalidInputError`, naming `name`, for ragged lists and for what is no array of numbers.
    """
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        if str(tensor.dtype) in ("torch.bfloat16", "torch.float16"):
            tensor = tensor.float()
        value = tensor.numpy()
    try:
        array = _from_list(cast(list[Any], value)) if isinstance(value, list) else np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} is not rectangular: {error}") from error
    if array.size and array.dtype.kind not in "iufb":
        raise InvalidInputError(f"{name} must hold numbers, not {array.dtype}")
    return array


def _from_list(values: list[Any]) -> Array:
    """What `np.asarray` makes of it; of a flat list of numbers in a third of the time."""
    for code, dtype in _PACKED if values else ():
        array = np.empty(len(values), dtype)
        try:
            struct.pack_into(f"{len(values)}{code}", array.data, 0, *values)
        except (struct.error, OverflowError):  # not all are of this kind
            continue
        return array
    return np.asarray(values)


def to_dtype(array: Array, dtype: TensorDtype, name: str) -> Array:
    """`array` as float32 or int64, C-contiguous. Raises `InvalidInputError` when that would change a value or hide a NaN."""
    if dtype == "int64" and array.dtype.kind == "f" and array.size:
        raise InvalidInputError(f"{name} must hold integers, not {array.dtype}", advice="Convert it with .astype('int64').")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInputError(f"{name} holds NaN or infinity at flat position {int(np.argmin(np.isfinite(array)))}")
    return np.ascontiguousarray(array, dtype=_NUMPY_DTYPE[dtype]) if array.ndim else array.astype(_NUMPY_DTYPE[dtype])


def natural_dtype(array: Array) -> TensorDtype:
    """The wire's dtype for an array that nobody named one for: float32 for floats, else int64."""
    return "float32" if array.dtype.kind == "f" else "int64"


@frozen(eq=False, init=False)
class TensorData:
    """An array with its wire dtype. Read it with `to_numpy()`, `to_torch()` or `tolist()`.

    Example:
        >>> TensorData([[1, 2], [3, 4]]).shape
        (2, 2)

    Args:
        data: the values, as a nested list, numpy array or torch tensor; flat, when `shape` is given.
        dtype: `"float32"` or `"int64"`; by default float32 for floats, int64 for integers.
        shape: the shape that flat `data` stands for.

    Raises:
        InvalidInputError: ragged or non-numeric data, NaN or infinity, floats for int64, or a shape that does not fit.
    """

    array: Array = field()
    dtype: TensorDtype = field()

    def __init__(self, data: ArrayLike, dtype: TensorDtype | None = None, shape: Sequence[int] | None = None) -> None:
        if isinstance(data, TensorData):
            data = data.array
        array = to_numpy(data, "data")
        dtype = dtype or natural_dtype(array)
        if dtype not in _NUMPY_DTYPE:
            raise InvalidInputError(f"dtype must be 'float32' or 'int64', not {dtype!r}")
        array = to_dtype(array, dtype, "data")
        if shape is not None:
            array = _reshaped(array, tuple(shape))
        self.__attrs_init__(array, dtype)  # type: ignore[attr-defined] # made by attrs, which pyright does not see

    @classmethod
    def received(cls, array: Array, dtype: TensorDtype) -> TensorData:
        """One that a server sent, as it is: it may hold NaN, which one that is to be sent may not."""
        tensor = cls.__new__(cls)
        tensor.__attrs_init__(array, dtype)  # type: ignore[attr-defined] # made by attrs, which pyright does not see
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def data(self) -> list[Any]:
        """The values, flat, as Python numbers."""
        return self.array.ravel().tolist()

    def tolist(self) -> list[Any]:
        """The values as a list nested like `shape`."""
        return self.array.tolist()

    def to_numpy(self) -> Array:
        return self.array

    def to_torch(self) -> Any:
        """A torch tensor that shares no memory with this one. Needs torch."""
        import torch  # pyright: ignore[reportMissingImports]  # only where the user has it

        return torch.tensor(self.array)  # pyright: ignore

    @classmethod
    def from_numpy(cls, array: Array) -> TensorData:
        return cls(array)

    @classmethod
    def from_torch(cls, tensor: Any) -> TensorData:
        return cls(tensor)

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorData) and self.dtype == other.dtype and np.array_equal(self.array, other.array)

    __hash__ = None  # type: ignore[assignment] # like an array's


def _reshaped(array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise InvalidInputError(f"shape {list(shape)} does not fit {array.size} values") from error
