"""A tensor holds what it was made of, dense or sparse, and is refused where that cannot be sent."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinkex import Datum, InvalidInputError, ModelInput, TensorData
from tinkex.types import ArrayLike

matrices = st.sampled_from([np.float32, np.int64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9),
        elements=st.integers(-3, 3),
        fill=st.just(0),
    )
)


@given(matrices, st.integers(-3, 3))
def test_a_sparse_tensor_has_all_values(matrix: np.ndarray[Any, Any], pad_value: int) -> None:
    tensor = TensorData.from_torch_sparse(torch.from_numpy(matrix), pad_value)
    np.testing.assert_array_equal(tensor.to_numpy(pad_value), matrix)
    assert tensor.to_numpy(pad_value).dtype == matrix.dtype
    assert tensor.tolist(pad_value) == matrix.tolist()
    assert torch.equal(tensor.to_torch(pad_value), torch.from_numpy(matrix))
    assert (tensor.shape, len(tensor)) == (list(matrix.shape), len(matrix))


# torch's own, with which ours is compared
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@given(matrices)
def test_a_tensor_is_sparse_where_that_takes_fewer_numbers(matrix: np.ndarray[Any, Any]) -> None:
    rows, columns = matrix.shape
    count = np.count_nonzero(matrix)
    tensor = TensorData.from_torch_sparse(matrix)
    if rows + 1 + 2 * count < rows * columns:
        assert tensor.csr is not None
        as_torch = torch.from_numpy(matrix).to_sparse_csr()
        assert tensor.sparse_crow_indices == as_torch.crow_indices().tolist()
        assert tensor.sparse_col_indices == as_torch.col_indices().tolist()
        assert tensor.data == as_torch.values().tolist()
    else:
        assert tensor.csr is None
        assert tensor.data == matrix.ravel().tolist()


@given(matrices)
def test_a_tensor_can_be_rebuilt_from_its_fields(matrix: np.ndarray[Any, Any]) -> None:
    tensor = TensorData.from_torch_sparse(matrix)
    again = TensorData(
        tensor.data,
        tensor.dtype,
        tensor.shape,
        tensor.sparse_crow_indices,
        tensor.sparse_col_indices,
    )
    assert again == tensor == TensorData(matrix) == pickle.loads(pickle.dumps(tensor))
    assert (again.csr is None) == (tensor.csr is None)


def test_the_reader_chooses_the_pad_value() -> None:
    tensor = TensorData([7, 8], "int64", [2, 4], [0, 1, 2], [3, 0])
    assert tensor.tolist() == [[0, 0, 0, 7], [8, 0, 0, 0]]
    assert tensor.tolist(pad_value=-1) == [[-1, -1, -1, 7], [8, -1, -1, -1]]
    for read in (tensor.to_numpy, tensor.to_torch, tensor.tolist):
        with pytest.raises(InvalidInputError, match=r"pad_value must be an int, found 0\.5"):
            read(0.5)  # type: ignore[arg-type]


def test_many_targets_a_position_are_made_sparse_and_shrink() -> None:
    targets, weights = np.zeros((64, 50), np.int64), np.zeros((64, 50))
    targets[:, 3], weights[:, 3] = 5, 0.25
    datum = Datum(
        ModelInput.from_ints([1] * 64),
        {"target_tokens": targets, "weights": weights, "advantages": weights},
    )
    sent = datum.loss_fn_inputs
    np.testing.assert_array_equal(sent["target_tokens"].to_numpy(), targets)
    np.testing.assert_array_equal(sent["weights"].to_numpy(), weights.astype(np.float32))
    assert sent["target_tokens"].nbytes < targets.nbytes / 10
    assert sent["weights"].nbytes < weights.astype(np.float32).nbytes / 6
    assert sent["advantages"].csr is None
    same = Datum(datum.model_input, sent)
    assert same == datum
    assert same.loss_fn_inputs["weights"].csr is not None


def test_weights_stay_dense_where_indices_would_take_more_bytes() -> None:
    weights = np.zeros((8, 10), np.float32)
    weights[:, :3] = 1.0  # 24 of 80 cells: fewer numbers as CSR, but not fewer bytes
    assert TensorData.from_torch_sparse(weights).csr is not None
    assert Datum([1] * 8, {"weights": weights}).loss_fn_inputs["weights"].csr is None


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ([[1, 2], [3, 4]], "int64", [[1, 2], [3, 4]]),
        ((1.5, 2), "float32", [1.5, 2.0]),
        (np.array([True, False]), "int64", [1, 0]),
        (np.array([1, 2], ">i4"), "int64", [1, 2]),
        (np.arange(6).reshape(2, 3).T, "int64", [[0, 3], [1, 4], [2, 5]]),
        (torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "float32", [1.5, -2.0]),
        (torch.tensor([1.5, -2.0], dtype=torch.float16), "float32", [1.5, -2.0]),
        (torch.tensor([1.5], dtype=torch.float64, requires_grad=True), "float32", [1.5]),
        (torch.tensor([[0, 0], [0, 9]]).to_sparse(), "int64", [[0, 0], [0, 9]]),
        ([torch.tensor(1.5, requires_grad=True), torch.tensor(2.0)], "float32", [1.5, 2.0]),
        ([torch.tensor([1, 2]), torch.tensor([3, 4])], "int64", [[1, 2], [3, 4]]),
        ([], "float32", []),
    ],
    ids=str,
)
def test_lists_numpy_and_torch_are_taken(value: ArrayLike, dtype: str, expected: Any) -> None:
    tensor = TensorData(value)
    assert (tensor.dtype, tensor.tolist()) == (dtype, expected)
    assert tensor.values.flags.c_contiguous


def test_a_torch_copy_shares_no_memory() -> None:
    tensor = TensorData([1.0, 2.0])
    tensor.to_torch()[0] = 9
    assert tensor.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: TensorData([[1], [2, 3]]),
            r"data is not rectangular: expected 1 values in each row, found 2 values in row 1",
        ),
        (
            lambda: TensorData([1, [2, 3]]),
            r"expected one value in each row, found 2 values in row 1",
        ),
        (lambda: TensorData(["a"]), r"data must hold numbers, found list of <U1"),
        (lambda: TensorData(None), r"must hold numbers, found NoneType"),
        (
            lambda: TensorData([[1.0, 2.0], [3.0, float("nan")]]),
            r"finite float32 numbers, found NaN at \[1, 1\]",
        ),
        (lambda: TensorData([float("-inf")]), r"found -inf at \[0\]"),
        (lambda: TensorData([1.0, 1e300]), r"finite float32 numbers, found 1e\+300 at \[1\]"),
        (lambda: TensorData([1.5], "int64"), r"must hold integers, found float64"),
        (lambda: TensorData(np.array([2**63], np.uint64)), r"fit int64, found 9223372036854775808"),
        (lambda: TensorData([1], "int32"), r"dtype must be 'float32' or 'int64', found 'int32'"),
        (
            lambda: TensorData([1, 2, 3], shape=[2, 2]),
            r"shape must fit the 3 values, found \[2, 2\]",
        ),
        (lambda: TensorData(TensorData([1])), r"must be an array, found a TensorData"),
        (
            lambda: TensorData.from_torch_sparse(torch.zeros(3)),
            r"two dimensions, found shape \[3\]",
        ),
        (
            lambda: TensorData.from_torch_sparse(torch.zeros(3, 3), 0.5),
            r"pad_value must be an int, found 0\.5",
        ),  # type: ignore[arg-type]
        (lambda: sparse(crow=None), r"sparse_col_indices is given without sparse_crow_indices"),
        (lambda: sparse(col=None), r"sparse_crow_indices is given without sparse_col_indices"),
        (lambda: sparse(shape=None), r"two dimensions, found \[\]"),
        (lambda: sparse(shape=[6]), r"two dimensions, found \[6\]"),
        (
            lambda: sparse(crow=[0, 2]),
            r"sparse_crow_indices must be 3 numbers from 0 to 2, found \[0 2\]",
        ),
        (lambda: sparse(crow=[0, 1, 3]), r"from 0 to 2, found \[0 1 3\]"),
        (
            lambda: sparse(data=[1, 2, 3], shape=[3, 3], crow=[0, 3, 1, 3], col=[0, 1, 2]),
            r"must not decrease, found \[0 3 1 3\]",
        ),
        (
            lambda: sparse(col=[0]),
            r"sparse_col_indices must have one index for each of the 2 values, found shape \[1\]",
        ),
        (lambda: sparse(col=[0, 3]), r"sparse_col_indices must be 0 to 2, found 0 to 3"),
        (lambda: sparse(col=[-1, 1]), r"sparse_col_indices must be 0 to 2, found -1 to 1"),
    ],
)
def test_data_that_cannot_be_sent_is_refused_with_what_was_expected_and_found(
    make: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        make()


def sparse(
    data: Any = (1, 2), shape: Any = (2, 3), crow: Any = (0, 1, 2), col: Any = (0, 1)
) -> TensorData:
    return TensorData(data, "int64", shape, crow, col)
