"""Tensors and lists of tokens, between the contract's types and numpy's arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tinkex_api import models as api

from tinkex_server.errors import Location, malformed

MOST_CELLS = 1 << 26
"""The number of cells of all sparse tensors in a batch. A sparse tensor with few values is small as
it is sent, however many cells it has.
"""
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

_KINDS = {"int64": (np.int64, "iu", "integers"), "float32": (np.float32, "iuf", "numbers")}


def tokens(value: api.ModelInput, at: Location) -> NDArray[np.int64]:
    """Returns the token ids of all chunks of a prompt, shape `(N,)`."""
    parts = [_chunk(chunk, (*at, "chunks", index)) for index, chunk in enumerate(value.chunks)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _chunk(chunk: api.ModelInputChunk, at: Location) -> NDArray[np.int64]:
    if chunk.type != "encoded_text":
        raise malformed(
            *at, "type", message=f"is {chunk.type!r}: this server reads only encoded_text"
        )
    if chunk.tokens is None:
        raise malformed(*at, "tokens", message="is missing")
    return _flat(chunk.tokens, "int64", (*at, "tokens")).astype(np.int64, copy=False)


def to_array(tensor: api.TensorData, at: Location, pad: int = 0) -> NDArray[np.generic]:
    """Returns a tensor as an array. `pad` is the value of the cells that a sparse tensor leaves
    out.
    """
    if tensor.dtype not in _KINDS:
        raise malformed(*at, "dtype", message=f"must be one of {', '.join(_KINDS)}")
    flat = _flat(tensor.data, tensor.dtype, (*at, "data"))
    if tensor.sparse_crow_indices is not None or tensor.sparse_col_indices is not None:
        return _from_csr(flat, tensor, at, pad)
    if not tensor.shape:
        return flat
    if (
        not all(type(size) is int and size >= 0 for size in tensor.shape)
        or math.prod(tensor.shape) != flat.size
    ):
        raise malformed(*at, "shape", message=f"does not fit the {flat.size} values of data")
    return flat.reshape(tensor.shape)


def _from_csr(
    flat: NDArray[np.generic], tensor: api.TensorData, at: Location, pad: int
) -> NDArray[np.generic]:
    rows, columns = csr_cells(flat.size, tensor, at)
    if math.prod(tensor.shape or ()) > MOST_CELLS:
        raise malformed(*at, "shape", message=f"has more than {MOST_CELLS} cells")
    array = np.full(tensor.shape or (), pad, flat.dtype)
    array[rows, columns] = flat
    return array


def csr_cells(
    count: int, tensor: api.TensorData, at: Location
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows and the columns of the `count` values of a sparse tensor."""
    shape = tensor.shape or []
    if len(shape) != 2 or not all(type(size) is int and size >= 0 for size in shape):
        raise malformed(*at, "shape", message="must be two sizes, since the tensor is sparse")
    borders, columns = (
        _flat([] if indices is None else indices, "int64", (*at, name)).astype(np.int64, copy=False)
        for name, indices in (
            ("sparse_crow_indices", tensor.sparse_crow_indices),
            ("sparse_col_indices", tensor.sparse_col_indices),
        )
    )
    if (
        borders.size != shape[0] + 1
        or borders[0] != 0
        or borders[-1] != count
        or (np.diff(borders) < 0).any()
    ):
        raise malformed(
            *at,
            "sparse_crow_indices",
            message=f"must be {shape[0] + 1} numbers that rise from 0 to {count}",
        )
    if columns.size != count or ((columns < 0) | (columns >= shape[1])).any():
        raise malformed(
            *at, "sparse_col_indices", message=f"must be {count} numbers from 0 to {shape[1] - 1}"
        )
    return np.repeat(np.arange(shape[0]), np.diff(borders)), columns


def _flat(
    values: Sequence[object] | NDArray[np.generic], dtype: str, at: Location
) -> NDArray[np.generic]:
    target, kinds, words = _KINDS[dtype]
    if not len(values):
        return np.empty(0, target)
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        raise malformed(*at, message=f"must be a flat list of {words}") from None
    if (
        array.ndim != 1
        or array.dtype.kind not in kinds
        or (array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max)
    ):
        raise malformed(*at, message=f"must be a flat list of {words}")
    if array.dtype.kind != "f":
        return array.astype(target, copy=False)
    with np.errstate(over="ignore"):
        fitting = array.astype(target, copy=False)
    if fitting is not array and not (np.isfinite(fitting) == np.isfinite(array)).all():
        raise malformed(*at, message=f"must be numbers that fit in {dtype}")
    return fitting


def tensor_data(array: NDArray[np.generic], dtype: str) -> api.TensorData:
    """Returns an array as a tensor of the contract. It holds the array itself, for orjson."""
    return api.TensorData(np.ascontiguousarray(array, dtype).ravel(), dtype, list(array.shape))  # pyright: ignore[reportArgumentType]
