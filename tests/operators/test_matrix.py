"""Rows that are read of a file."""

import numpy as np
import pytest

import opflow as of

SHAPE = 7, 4


@pytest.fixture(params=["<f8", ">f8", "<f4", ">f4"])
def rows(request, tmp_path):
    h5py = pytest.importorskip("h5py")
    X = np.arange(28.0).reshape(SHAPE)
    with h5py.File(tmp_path / "X.h5", "w") as file:
        yield file.create_dataset("X", data=X.astype(request.param)), X


SLICES = [slice(None, None, -1), slice(5, 1, -2), slice(1, 5, -1), slice(0, 0), slice(None, 0, -1)]
INDICES = [[], [3], [3, 0, 3], [-1, 0], [False, True] * 3 + [True], range(6, -1, -3), *SLICES]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_data_sets_give_the_blocks_of_arrays(rows, index):
    data, X = rows
    op = of.RowMatrix(data)
    assert op.dtype.isnative
    picked = np.array(index, dtype=int) if isinstance(index, list) and not index else index
    picked = list(picked) if isinstance(picked, range) else picked
    np.testing.assert_array_equal(op.block(index, slice(None)), X[picked])
    np.testing.assert_array_equal(op.block(index, slice(None, None, -2)), X[picked][:, ::-2])
    columns = [2, 0]
    np.testing.assert_array_equal(op.block(index, columns), X[picked][:, columns])
    if isinstance(index, slice):
        np.testing.assert_array_equal(op.rows(index), X[index])


def test_products_with_data_sets_are_those_with_arrays(rows):
    data, X = rows
    for op in (of.RowMatrix(data), of.as_operator(data)):
        assert (op @ np.ones(4, dtype=op.dtype)).dtype == op.dtype
        np.testing.assert_array_equal(op @ np.arange(4), X @ np.arange(4))
        np.testing.assert_array_equal(op.T @ np.arange(7), X.T @ np.arange(7))
        np.testing.assert_array_equal(of.Gram(op).todense(), X @ X.T)


def test_a_kernel_function_takes_a_list():
    X = [[0.0], [1.0], [3.0]]
    G = of.FunctionGram(lambda A, B: np.exp(-((A - B.T) ** 2)), X)
    x = np.array(X)
    np.testing.assert_allclose(G.todense(), np.exp(-((x - x.T) ** 2)))
    with pytest.raises(ValueError, match="X must be two-dimensional"):
        of.FunctionGram(lambda A, B: A @ B.T, [1.0, 2.0])
