"""Functions on matrices in compressed sparse row (CSR) form."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Csr: TypeAlias = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]
"""The values `(nnz,)`, the index of each row's first value `(rows + 1,)`, and the column of each
value `(nnz,)`.
"""


def compress(matrix: NDArray[Any], pad_value: int, index_size: float) -> Csr | None:
    """Returns the cells that are not `pad_value`, or None if they would take at least as much space
    as the dense matrix. One index takes the space of `index_size` values.
    """
    kept = matrix != pad_value
    count = int(np.count_nonzero(kept))
    if (len(matrix) + 1 + count) * index_size + count >= matrix.size:
        return None
    crow = np.zeros(len(matrix) + 1, np.int64)
    np.cumsum(kept.sum(axis=1), out=crow[1:])
    return matrix[kept], crow, np.ascontiguousarray(np.nonzero(kept)[1])


def expand(csr: Csr, shape: tuple[int, ...], pad_value: int) -> NDArray[Any]:
    """Returns the dense matrix, with `pad_value` in the cells that are not stored."""
    values, crow, col = csr
    matrix = np.full(shape, pad_value, values.dtype)
    matrix[np.repeat(np.arange(shape[0]), np.diff(crow)), col] = values
    return matrix


def problem(csr: Csr, shape: tuple[int, ...]) -> str | None:
    """Describes why the arrays are not a matrix of this shape; None if they are one."""
    values, crow, col = csr
    if len(shape) != 2:
        return f"a sparse tensor needs a shape of two dimensions, found {list(shape)}"
    if (
        values.ndim != 1
        or crow.ndim != 1
        or crow.size != shape[0] + 1
        or crow[0] != 0
        or crow[-1] != values.size
    ):
        return (
            f"sparse_crow_indices must be {shape[0] + 1} numbers from 0 to {values.size}, found "
            f"{np.array2string(crow, threshold=6)}"
        )
    if (np.diff(crow) < 0).any():
        return f"sparse_crow_indices must not decrease, found {np.array2string(crow, threshold=6)}"
    if col.shape != values.shape:
        return (
            f"sparse_col_indices must have one index for each of the {values.size} values, found "
            f"shape {list(col.shape)}"
        )
    if col.size and not (int(col.min()) >= 0 and int(col.max()) < shape[1]):
        return (
            f"sparse_col_indices must be 0 to {shape[1] - 1}, found {int(col.min())} to "
            f"{int(col.max())}"
        )
    return None
