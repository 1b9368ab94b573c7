"""`TensorData`: one array on its way to or from the server, and the taking of lists, numpy arrays
and torch tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from tinkex.errors import ArgumentError, InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.types import csr
from tinkex.types.as_dataclass import as_dataclass

TensorDtype = Literal["float32", "int64"]
Array: TypeAlias = NDArray[np.generic]
ArrayLike: TypeAlias = Any
"""A list of numbers (nested for more dimensions), a numpy array, a torch tensor, or a `TensorData`.
"""

_PACKED = (("q", np.int64), ("d", np.float64))
_NUMPY_DTYPE: dict[str, type[np.generic]] = {"float32": np.float32, "int64": np.int64}
_INDEX_SIZE = 8  # bytes


def to_numpy(value: ArrayLike, name: str) -> Array:
    """`value` as an array of whatever dtype it has; a torch tensor is detached and brought to the
    CPU (torch is not imported).

    Raises `InvalidInputError`, naming `name`, for ragged lists and for what is no array of numbers.
    """
    plain: Any = _without_torch(value)
    try:
        array = _to_array(plain)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} is not rectangular: {_ragged(plain) or error}") from error
    if array.size and array.dtype.kind not in "iufb":
        what = "text" if isinstance(plain, str) else f"{type(plain).__name__} of {array.dtype}"
        advice = (
            "A tokenizer makes numbers of text: client.get_tokenizer().encode(text)."
            if array.dtype.kind in "US"
            else None
        )
        raise ArgumentError(f"{name} must hold numbers, found {what}", advice=advice)
    return array


def _to_array(plain: Any) -> Array:
    return _from_list(cast("list[Any]", plain)) if isinstance(plain, list) else np.asarray(plain)


def _from_list(values: list[Any]) -> Array:
    """What `np.asarray` makes of it; of a flat list of numbers in a third of the time."""
    for code, dtype in _PACKED if values else ():
        array = np.empty(len(values), dtype)
        try:
            struct.pack_into(f"{len(values)}{code}", array.data, 0, *values)
        except (struct.error, OverflowError, TypeError):  # not all are of this kind
            continue
        return array
    return np.asarray(values)


def _without_torch(value: Any) -> Any:
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return (
            [_from_torch(item) for item in items]
            if items and hasattr(items[0], "detach")
            else items
        )
    return _from_torch(value) if hasattr(value, "detach") else value


def _from_torch(tensor: Any) -> Array:
    tensor = tensor.detach().cpu()
    if str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    if str(tensor.dtype) in ("torch.bfloat16", "torch.float16"):  # numpy has no bfloat16
        tensor = tensor.float()
    return tensor.numpy()


def _ragged(value: Any) -> str | None:
    """Which row differs, where the rows are lists of different lengths."""
    rows = cast("list[Any]", value) if isinstance(value, list) else []
    lengths = [len(row) if hasattr(row, "__len__") else None for row in rows]
    index = next((index for index, length in enumerate(lengths) if length != lengths[0]), None)
    if index is None:
        return None
    expected, found = (
        "one value" if length is None else f"{length} values"
        for length in (lengths[0], lengths[index])
    )
    return f"expected {expected} in each row, found {found} in row {index}"


def to_dtype(array: Array, dtype: TensorDtype, name: str) -> Array:
    """`array` as float32 or int64, C-contiguous. Raises `InvalidInputError` when that would change
    a value or hide a NaN.
    """
    kind = array.dtype.kind
    if dtype == "int64" and kind == "f" and array.size:
        raise InvalidInputError(
            f"{name} must hold integers, found {array.dtype}",
            advice="Convert it with .astype('int64').",
        )
    if (
        kind == "u"
        and dtype == "int64"
        and array.size
        and int(array.max()) > np.iinfo(np.int64).max
    ):  # type: ignore[arg-type]
        raise InvalidInputError(f"{name} must hold numbers that fit int64, found {array.max()}")
    # what float32 does not hold becomes infinite, which is refused below
    with np.errstate(over="ignore"):
        result = array.astype(_NUMPY_DTYPE[dtype], order="C", copy=False)
    if kind == "f" and not np.isfinite(result).all():
        place = tuple(np.argwhere(~np.isfinite(result))[0].tolist())
        raise InvalidInputError(
            f"{name} must hold finite float32 numbers, found {_word(array[place])} at "
            f"{list(place)}: no NaN or infinity"
        )
    return result


def _word(number: Any) -> str:
    return {"nan": "NaN"}.get(str(number), str(number))


def natural_dtype(array: Array) -> TensorDtype:
    """The wire's dtype for an array that nobody named one for: float32 for floats, else int64."""
    return "float32" if array.dtype.kind == "f" else "int64"


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
        data: ArrayLike,
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
        if dtype not in _NUMPY_DTYPE:
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


def as_tensor(value: ArrayLike, dtype: TensorDtype | None, name: str) -> TensorData:
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
    crow, col = (
        to_dtype(to_numpy(value, name), "int64", name)
        for value, name in zip((crow, col), names, strict=True)
    )
    return crow, col


def _reshaped(array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise InvalidInputError(
            f"shape must fit the {array.size} values, found {list(shape)}"
        ) from error
