"""`TensorData`: an array that is sent or was received, made from a list, numpy array or torch
tensor.
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

_SHOWN = 8
"""The most values of a tensor in its repr."""
_INDEX_SIZE = 8
"""The number of bytes of one index of a sparse matrix."""


@hinted
@as_dataclass
@frozen(eq=False, init=False, repr=False)
class TensorData:
    """An array with its wire dtype. Read it with `to_numpy()`, `to_torch()` or `tolist()`.

    A matrix that is mostly padding can be sparse, which makes it smaller on the wire: `data` then
    holds only the cells that are not padding, and `sparse_crow_indices` and `sparse_col_indices`
    give their places, in compressed sparse row (CSR) form.

    Example:
        >>> tensor = TensorData([[1, 2], [3, 4]])
        >>> tensor.dtype, tensor.shape, tensor.data
        ('int64', [2, 2], [1, 2, 3, 4])

    Args:
        data: the values, as a nested list, numpy array or torch tensor; flat if `shape` is
            given.
        dtype: `"float32"` or `"int64"`; by default float32 for floats, int64 for integers.
        shape: the shape that flat `data` stands for.
        sparse_crow_indices: for a sparse matrix `(rows, columns)`, the index in `data` of each
            row's first value, `(rows + 1,)`.
        sparse_col_indices: for a sparse matrix, the column of each value, `(nnz,)`.

    Raises:
        InvalidInputError: the data is ragged, not numeric, not finite, or of floats for int64; or
            the shape or the indices do not fit the data.
    """

    values: Array = field()
    """The values in the tensor's shape; flat if the tensor is sparse."""
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
                "data must be an array, found a TensorData", advice="Use the TensorData as it is."
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
        self.__attrs_init__(values, dtype, shape, crow, col)  # type: ignore[attr-defined] # attrs adds this method, which pyright does not know

    @classmethod
    def received(cls, array: Array, dtype: TensorDtype) -> TensorData:
        """Makes one from a received array, unchecked: unlike one to be sent, it may hold NaN."""
        return cls._made(array, dtype, array.shape, None, None)

    @classmethod
    def received_sparse(
        cls, matrix: csr.Csr, dtype: TensorDtype, shape: tuple[int, ...]
    ) -> TensorData:
        """Makes a sparse one from received arrays. Raises `ValueError` if they are not a matrix of
        this shape.
        """
        if wrong := csr.problem(matrix, shape):
            raise ValueError(wrong)
        values, crow, col = matrix
        return cls._made(values, dtype, shape, crow, col)

    @classmethod
    def _made(cls, *fields: Any) -> TensorData:
        tensor = cls.__new__(cls)
        tensor.__attrs_init__(*fields)  # type: ignore[attr-defined] # attrs adds this method, which pyright does not know
        return tensor

    def __repr__(self) -> str:
        if self._crow is not None:
            return (
                f"TensorData(sparse, {self.values.size} values, dtype={self.dtype!r}, "
                f"shape={self.shape})"
            )
        shape = f", shape={self.shape}" if self.values.size > _SHOWN else ""
        return f"TensorData({_brief(self.values)}, dtype={self.dtype!r}{shape})"

    @property
    def csr(self) -> csr.Csr | None:
        """The values, row starts and columns; None if the tensor is dense."""
        if self._crow is None or self._col is None:
            return None
        return self.values, self._crow, self._col

    @property
    def sparse_crow_indices(self) -> list[int] | None:
        """The index of each row's first value; None if the tensor is dense. `csr` has the array."""
        return None if self._crow is None else self._crow.tolist()

    @property
    def sparse_col_indices(self) -> list[int] | None:
        """The column of each value; None if the tensor is dense. `csr` has the array."""
        return None if self._col is None else self._col.tolist()

    @property
    def data(self) -> list[Any]:
        """The values as a flat list of Python numbers; those of a sparse tensor without padding."""
        return self.values.ravel().tolist()

    @property
    def nbytes(self) -> int:
        """The number of bytes of the values and the indices."""
        if self._crow is None or self._col is None:
            return self.values.nbytes
        return self.values.nbytes + self._crow.nbytes + self._col.nbytes

    def tolist(self, pad_value: int = 0) -> list[Any]:
        """Returns the values as a list nested like `shape`. The padding of a sparse tensor has the
        value `pad_value`.
        """
        return self.to_numpy(pad_value).tolist()

    def to_numpy(self, pad_value: int = 0) -> Array:
        """Returns the values as an array of `shape`, without a copy if the tensor is dense. The
        padding of a sparse tensor has the value `pad_value`.
        """
        if type(pad_value) is not int:
            raise InvalidInputError(f"pad_value must be an int, found {pad_value!r}")
        return (
            self.values if self.csr is None else csr.expand(self.csr, tuple(self.shape), pad_value)
        )

    def to_torch(self, pad_value: int = 0) -> Any:
        """Returns a torch tensor that shares no memory with this one. Needs torch."""
        import torch  # pyright: ignore[reportMissingImports]  # torch is optional

        return torch.tensor(self.to_numpy(pad_value))  # pyright: ignore

    @classmethod
    def from_numpy(cls, array: Array) -> TensorData:
        return cls(array)

    @classmethod
    def from_torch(cls, tensor: Any) -> TensorData:
        return cls(tensor)

    @classmethod
    def from_torch_sparse(cls, tensor: Any, pad_value: int = 0) -> TensorData:
        """Makes one from a matrix `(rows, columns)`, without the cells that are `pad_value`; it is
        dense if the sparse form would not have fewer numbers.

        Raises:
            InvalidInputError: the tensor is not a matrix, or `pad_value` is not an int.
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
        """Returns the form with the fewest bytes: a sparse one for a dense matrix that is mostly
        zeros, else this tensor itself.
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
        """Returns whether dtype and values are equal; the padding of a sparse one counts as 0."""
        return (
            isinstance(other, TensorData)
            and self.dtype == other.dtype
            and np.array_equal(self.to_numpy(), other.to_numpy())
        )

    __hash__ = None  # type: ignore[assignment] # like an array's


def as_tensor(
    value: TensorData | ArrayLike | Number, dtype: TensorDtype | None, name: str
) -> TensorData:
    """Converts `value` to a `TensorData` of this dtype, by default its own. Raises
    `InvalidInputError`, naming `name`, for a value that cannot be sent.
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
            f"sparse_{here}_indices is given without sparse_{missing}_indices: expected both or "
            "neither"
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


def _brief(values: Array) -> str:
    """Returns an array in one line: all values, or the first and last ones of many."""
    text = np.array2string(values, separator=", ", threshold=_SHOWN, edgeitems=3, precision=4)
    return " ".join(text.split()).replace("[ ", "[").replace("...", "…")
