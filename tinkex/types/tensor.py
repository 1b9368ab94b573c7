"""`TensorData`: one array on its way to or from the server, and the taking of lists, numpy arrays
and torch tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.types import csr
from tinkex.types.arrays import (
    DTYPES,
    Array,
    ArrayLike,
    Number,
    TensorDtype,
    natural_dtype,
    to_dtype,
    to_numpy,
)
from tinkex.types.as_dataclass import as_dataclass

_INDEX_SIZE = 8
"""Bytes of one index of a sparse matrix."""


@hinted
@as_dataclass
@frozen(eq=False, init=False)
class TensorData:
    """An array with its wire dtype. Read it with `to_numpy()`, `to_torch()` or `tolist()`.

    A matrix that is mostly padding can be sparse, which makes it smaller on the wire: then `data`
    holds the cells that are not padding, and `sparse_crow_indices` and `sparse_col_indices` say
    where they stand, in compressed sparse rows.

    Example:
        >>> TensorData([[1, 2], [3, 4]]).shape
        [2, 2]

    Args:
        data: the values, as a nested list, numpy array or torch tensor; flat, when `shape` is
            given.
        dtype: `"float32"` or `"int64"`; by default float32 for floats, int64 for integers.
        shape: the shape that flat `data` stands for.
        sparse_crow_indices: of a sparse matrix `(rows, columns)`: where each row begins in `data`,
            `(rows + 1,)`.
        sparse_col_indices: the column of each value.

    Raises:
        InvalidInputError: ragged or non-numeric data, NaN or infinity, floats for int64, a shape or
            indices that do not fit.
    """

    values: Array = field()
    """Of the tensor's shape; flat where it is sparse."""
    dtype: TensorDtype = field()
    shape: list[int] = field(converter=list[int])
    _crow: NDArray[np.int64] | None = field()
    _col: NDArray[np.int64] | None = field()

    def __init__(
        self,
        data: ArrayLike | Number,
        dtype: TensorDtype | None = None,
        shape: Sequence[int] | None = None,
        sparse_crow_indices: ArrayLike | None = None,
        sparse_col_indices: ArrayLike | None = None,
    ) -> None:
        if isinstance(data, TensorData):
            raise InvalidInputError(
                "data must be an array, found a TensorData", advice="It can be used as it is."
            )
        values = to_numpy(data, "data")
        dtype = dtype or natural_dtype(values)
        if dtype not in DTYPES:
            raise InvalidInputError(f"dtype must be 'float32' or 'int64', found {dtype!r}")
        values = to_dtype(values, dtype, "data")
        crow, col = _indices(sparse_crow_indices, sparse_col_indices)
        if crow is not None and col is not None:
            shape = tuple(shape or ())
            if wrong := csr.problem((values, crow, col), shape):
                raise InvalidInputError(wrong)
        else:
            values = values if shape is None else _reshaped(values, tuple(shape))
            shape = values.shape
        self.__attrs_init__(values, dtype, shape, crow, col)  # type: ignore[attr-defined] # made by attrs, which pyright does not see

    @classmethod
    def received(cls, array: Array, dtype: TensorDtype) -> TensorData:
        """One that a server sent, as it is: it may hold NaN, which one that is to be sent may
        not.
        """
        return cls._made(array, dtype, array.shape, None, None)

    @classmethod
    def received_sparse(
        cls, matrix: csr.Csr, dtype: TensorDtype, shape: tuple[int, ...]
    ) -> TensorData:
        """A sparse one that a server sent. Raises `ValueError` when it is no matrix."""
        if wrong := csr.problem(matrix, shape):
            raise ValueError(wrong)
        values, crow, col = matrix
        return cls._made(values, dtype, shape, crow, col)

    @classmethod
    def _made(cls, *fields: Any) -> TensorData:
        tensor = cls.__new__(cls)
        tensor.__attrs_init__(*fields)  # type: ignore[attr-defined] # made by attrs, which pyright does not see
        return tensor

    @property
    def csr(self) -> csr.Csr | None:
        """The values, row borders and columns; None where it is dense."""
        if self._crow is None or self._col is None:
            return None
        return self.values, self._crow, self._col

    @property
    def sparse_crow_indices(self) -> list[int] | None:
        """Where each row begins in the values; None where it is dense. `csr` has the array."""
        return None if self._crow is None else self._crow.tolist()

    @property
    def sparse_col_indices(self) -> list[int] | None:
        """The column of each value; None where it is dense. `csr` has the array."""
        return None if self._col is None else self._col.tolist()

    @property
    def data(self) -> list[Any]:
        """The values, flat, as Python numbers; where it is sparse those of the cells that are not
        padding.
        """
        return self.values.ravel().tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of the values and indices."""
        return self.values.nbytes + sum(array.nbytes for array in (self.csr or ())[1:])

    def tolist(self, pad_value: int = 0) -> list[Any]:
        """The values as a list nested like `shape`; `pad_value` stands in a sparse one's other
        cells.
        """
        return self.to_numpy(pad_value).tolist()

    def to_numpy(self, pad_value: int = 0) -> Array:
        """The values as an array of `shape`; `pad_value` stands in a sparse one's other cells. A
        dense one is not copied.
        """
        if type(pad_value) is not int:
            raise InvalidInputError(f"pad_value must be an int, found {pad_value!r}")
        return (
            self.values if self.csr is None else csr.expand(self.csr, tuple(self.shape), pad_value)
        )

    def to_torch(self, pad_value: int = 0) -> Any:
        """A torch tensor that shares no memory with this one. Needs torch."""
        import torch  # pyright: ignore[reportMissingImports]  # only where the user has it

        return torch.tensor(self.to_numpy(pad_value))  # pyright: ignore

    @classmethod
    def from_numpy(cls, array: Array) -> TensorData:
        return cls(array)

    @classmethod
    def from_torch(cls, tensor: Any) -> TensorData:
        return cls(tensor)

    @classmethod
    def from_torch_sparse(cls, tensor: Any, pad_value: int = 0) -> TensorData:
        """A matrix `(rows, columns)` without the cells that are `pad_value`; dense where that would
        take no fewer numbers.

        Raises:
            InvalidInputError: it is of another number of dimensions, or `pad_value` is no int.
        """
        dense = cls(tensor)
        if len(dense.shape) != 2:
            raise InvalidInputError(
                "from_torch_sparse needs a tensor of two dimensions, found shape "
                f"{list(dense.shape)}"
            )
        if type(pad_value) is not int:
            raise InvalidInputError(f"pad_value must be an int, found {pad_value!r}")
        return dense._compressed(pad_value, 1)

    def smallest(self) -> TensorData:
        """The same values, sparse where it is a dense matrix whose zeros take more bytes than their
        places would.
        """
        if len(self.shape) != 2 or self.csr is not None:
            return self
        return self._compressed(0, _INDEX_SIZE / self.values.itemsize)

    def _compressed(self, pad_value: int, index_size: float) -> TensorData:
        matrix = csr.compress(self.values, pad_value, index_size)
        if matrix is None:
            return self
        values, crow, col = matrix
        return self._made(values, self.dtype, self.shape, crow, col)

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        """Whether the values are the same; a sparse one equals the dense one that has zeros in its
        other cells.
        """
        return (
            isinstance(other, TensorData)
            and self.dtype == other.dtype
            and np.array_equal(self.to_numpy(), other.to_numpy())
        )

    __hash__ = None  # type: ignore[assignment] # like an array's


def as_tensor(
    value: TensorData | ArrayLike | Number, dtype: TensorDtype | None, name: str
) -> TensorData:
    """`value` with this dtype, or its own. Raises `InvalidInputError`, naming `name`, for what
    cannot be sent.
    """
    if isinstance(value, TensorData):
        dtype = dtype or value.dtype
        values = to_dtype(value.values, dtype, name)
        return TensorData._made(values, dtype, value.shape, value._crow, value._col)  # pyright: ignore[reportPrivateUsage]
    array = to_numpy(value, name)
    dtype = dtype or natural_dtype(array)
    return TensorData.received(to_dtype(array, dtype, name), dtype)


def _indices(
    crow: ArrayLike | None, col: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[None, None]:
    if crow is None and col is None:
        return None, None
    if crow is None or col is None:
        here, missing = ("col", "crow") if crow is None else ("crow", "col")
        raise InvalidInputError(
            f"sparse_{here}_indices came without sparse_{missing}_indices: expected both or neither"
        )
    names = ("sparse_crow_indices", "sparse_col_indices")
    row_starts, columns = (
        to_dtype(to_numpy(value, name), "int64", name)
        for value, name in zip((crow, col), names, strict=True)
    )
    return row_starts, columns


def _reshaped(array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise InvalidInputError(
            f"shape must fit the {array.size} values, found {list(shape)}"
        ) from error
