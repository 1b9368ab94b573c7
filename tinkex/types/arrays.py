"""Arrays as callers give them: the type `ArrayLike`, and its conversion to numpy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from tinkex.errors import ArgumentError, InvalidInputError


class SupportsDetach(Protocol):
    """A torch tensor of any dtype, on any device."""

    def detach(self) -> Any:
        """Returns the tensor without its gradient."""
        ...


class SupportsArray(Protocol):
    """An array that numpy can read, such as a jax array or a pandas column."""

    def __array__(self) -> NDArray[Any]: ...


G = TypeVar("G", bound=np.generic)
Number: TypeAlias = float | np.generic
TensorDtype = Literal["float32", "int64"]
Array: TypeAlias = NDArray[np.generic]
ArrayLike: TypeAlias = (
    NDArray[Any]
    | SupportsDetach
    | SupportsArray
    | Sequence[Number]
    | Sequence[Sequence[Number]]
    | Sequence[Sequence[Sequence[Number]]]
    | Sequence[NDArray[Any]]
    | Sequence[SupportsDetach]
)
"""An array of numbers as a caller may give it: a numpy array, a torch tensor, or a list of numbers,
nested for more dimensions.
"""

DTYPES: dict[str, type[np.generic]] = {"float32": np.float32, "int64": np.int64}


def to_numpy(value: ArrayLike | Number, name: str) -> Array:
    """Converts `value` to a numpy array without a change of dtype. A torch tensor is detached and
    copied to the CPU; torch is not imported.

    Raises `InvalidInputError`, naming `name`, for ragged lists and for values that are not numbers.
    """
    plain: Any = _without_torch(value)
    try:
        array = _to_array(plain)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} is not rectangular: {_ragged(plain) or error}") from error
    if array.size and array.dtype.kind not in "iufb":
        what = "text" if isinstance(plain, str) else f"{type(plain).__name__} of {array.dtype}"
        advice = None
        if array.dtype.kind in "US":
            advice = "Encode text with a tokenizer first: client.get_tokenizer().encode(text)."
        elif isinstance(plain, list) and None in (flat := array.ravel().tolist()):
            what = f"None at [{flat.index(None)}]"
            advice = "compute_logprobs gives None for the first token: put 0.0 in its place."
        raise ArgumentError(f"{name} must hold numbers, found {what}", advice=advice)
    return array


def _to_array(plain: Any) -> Array:
    return _from_list(cast("list[Any]", plain)) if isinstance(plain, list) else np.asarray(plain)


def _from_list(values: list[Any]) -> Array:
    """Converts like `np.asarray`, in a third of the time for a flat list of numbers."""
    for dtype in (np.int64, np.float64):
        if (array := packed(values, dtype)) is not None:
            return array
    return np.asarray(values)


def array_of(values: Any, dtype: type[np.int64] | type[np.float32]) -> Array:
    """Converts like `np.asarray(values, dtype)`, in a third of the time for a flat list of numbers
    of that kind.
    """
    array = packed(cast("list[Any]", values), dtype) if isinstance(values, list) else None
    return np.asarray(values, dtype) if array is None else array


def packed(values: Any, dtype: type[G]) -> NDArray[G] | None:
    """Returns an array of numbers; None if some value is of another type, or there is none."""
    if not values:
        return None
    array = np.empty(len(values), dtype)
    try:
        struct.pack_into(f"{len(values)}{array.dtype.char}", array.data, 0, *values)
    except (struct.error, OverflowError, TypeError):
        return None
    return array


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
    """Describes the first row whose length differs from the length of row 0."""
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


@overload
def to_dtype(array: Array, dtype: Literal["int64"], name: str) -> NDArray[np.int64]: ...
@overload
def to_dtype(array: Array, dtype: TensorDtype, name: str) -> Array: ...
def to_dtype(array: Array, dtype: TensorDtype, name: str) -> Array:
    """Converts `array` to float32 or int64, C-contiguous.

    Raises `InvalidInputError` where that would change a value, and for NaN and infinity.
    """
    kind = array.dtype.kind
    if kind == "i" and dtype == "int64":  # the usual case: prompts
        return array.astype(np.int64, order="C", copy=False)
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
    # a value beyond float32 becomes infinite, which is refused below
    with np.errstate(over="ignore"):
        result = array.astype(DTYPES[dtype], order="C", copy=False)
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
    """Returns the default wire dtype of an array: float32 for floats, else int64."""
    return "float32" if array.dtype.kind == "f" else "int64"
