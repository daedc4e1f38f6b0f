"""Columns of mean 0 and standard deviation 1, however they are stored, and back."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.machine.ranks import RowDistribution
from opflow.machine.workspace import workspace_limit

EPS = np.finfo(float).eps


class OnDisk:
    """Rows that are read by slices and by increasing indices only."""

    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, index):
        assert isinstance(index, slice) or (np.diff(index) > 0).all()
        return self._X[index]


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.standard_normal((200, 3)) * [1e-3, 1.0, 1e4] + [5.0, 0.0, -3e4]


def close(found, X):
    size = 8 * EPS
    np.testing.assert_allclose((found.mean - X.mean(0)) / abs(X).max(0), 0, atol=size)
    np.testing.assert_allclose((found.scale - X.std(0)) / abs(X).max(0), 0, atol=size)


@pytest.mark.parametrize("workspace", [2**23, 500])
@pytest.mark.parametrize("kind", [np.asarray, OnDisk], ids=["array", "rows"])
def test_moments_are_those_of_numpy(X, kind, workspace):
    with workspace_limit(workspace):
        found = of.Standardiser.fit(kind(X))
    close(found, X)


@pytest.mark.parametrize("factor", [2.0**-900, 2.0**900])
def test_moments_scale_with_the_data(X, factor):
    one, other = of.Standardiser.fit(X), of.Standardiser.fit(X * factor)
    np.testing.assert_array_equal(other.mean, one.mean * factor)
    np.testing.assert_array_equal(other.scale, one.scale * factor)


def test_transform_and_back(X):
    found = of.Standardiser.fit(X)
    Z = found.transform(X)
    np.testing.assert_array_equal(Z, (X - found.mean) / found.scale)
    np.testing.assert_allclose(found.inverse(Z), X, rtol=4 * EPS, atol=4 * EPS * 3e4)


def test_rows_are_transformed_when_they_are_read(X):
    found = of.Standardiser.fit(X)
    rows = found.transform(OnDisk(X))
    Z = found.transform(X)
    assert rows.shape == Z.shape and rows.dtype == Z.dtype
    np.testing.assert_array_equal(rows[3:90], Z[3:90])
    net = of.ReLUNetwork.random([3, 8], seed=0)
    np.testing.assert_array_equal(net(rows), net(Z))
    y = np.ones(len(X))
    same = [of.train(net, data, y, steps=2, eliminate=False).losses for data in (rows, Z)]
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("value", [0.1, 0.1 + 0.2, -7.0, 0.0, 1e300])
def test_constant_columns_have_scale_one(value):
    X = np.full((97, 2), value)
    X[::2, 1] = np.nextafter(value, 1)  # constant but for rounding
    found = of.Standardiser.fit(X)
    assert found.scale.tolist() == [1.0, 1.0]
    assert abs(found.transform(X)[:, 0]).max() == 0.0


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool, ">f8", np.float32])
def test_every_kind_of_number(dtype):
    X = np.array([[-128, 3], [127, 5], [0, 0]]).astype(dtype)
    found = of.Standardiser.fit(X)
    close(found, X.astype(float))
    Z = found.transform(X)
    assert Z.dtype == (np.float32 if dtype is np.float32 else np.float64)
    np.testing.assert_allclose(Z, (X.astype(float) - found.mean) / found.scale, rtol=2e-7)


def test_float32_is_standardised_in_float64():
    X = (1e6 + np.arange(100.0)[:, None]).astype(np.float32)
    Z = of.Standardiser.fit(X).transform(X)
    wanted = (np.arange(100.0) - 49.5) / np.arange(100.0).std()
    np.testing.assert_allclose(Z[:, 0], wanted, rtol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_matrix, sp.coo_array, sp.lil_array])
def test_sparse_is_scaled_and_stays_sparse(form):
    X = np.random.default_rng(0).standard_normal((50, 4))
    X[X < 0.4] = 0.0
    X[:, 2:] = [7.0, 0.0]
    found = of.Standardiser.fit(form(X))
    wanted = np.sqrt((X**2).mean(0)) + np.array([0, 0, 0, 1])
    np.testing.assert_allclose(found.scale, wanted, rtol=50 * EPS)
    assert not found.mean.any()
    Z = found.transform(form(X))
    assert sp.issparse(Z) and Z.nnz == np.count_nonzero(X)
    np.testing.assert_allclose(Z.toarray(), X / wanted, rtol=50 * EPS)
    np.testing.assert_allclose(found.transform(X), X / wanted, rtol=50 * EPS)
    np.testing.assert_allclose(found.inverse(Z).toarray(), X, rtol=4 * EPS)


def test_sparse_entries_that_are_stored_twice_count_as_their_sum():
    twice = sp.coo_array(([1.0, 2.0, 4.0], ([0, 0, 1], [0, 0, 0])), shape=(2, 1))
    np.testing.assert_allclose(of.Standardiser.fit(twice).scale, np.sqrt(12.5), rtol=4 * EPS)


class Ranks(RowDistribution):
    """What the others have found, as an allgather would tell."""

    def __init__(self, others):
        self._others = others

    def all_of(self, x):
        return [*self._others, x]


def test_ranks_find_what_one_machine_finds(X):
    said = []
    for rows in (X[:70], X[70:70], X[70:90]):
        with pytest.raises(StopIteration):
            of.Standardiser.fit(
                rows, space=SimpleNamespace(all_of=lambda x: said.append(x) or stop())
            )
    close(of.Standardiser.fit(X[90:], space=Ranks(said)), X)


def stop():
    raise StopIteration


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, OnDisk])
def test_what_is_not_finite_is_told_by_its_column(X, bad, form):
    X[7, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity, in column 2"):
        of.Standardiser.fit(form(X))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: of.Standardiser.fit(X[:0]), "no rows"),
        (lambda X: of.Standardiser.fit(X[0]), "two-dimensional"),
        (lambda X: of.Standardiser.fit(of.Gram(X)), "X is an operator"),
        (lambda X: of.Standardiser.fit(X.astype(str)), "X must be float32 or float64"),
        (
            lambda X: of.Standardiser.fit(X).transform(X[:, :2]),
            "X has 2 columns but the standardiser 3",
        ),
        (lambda X: of.Standardiser.fit(X).transform(sp.csr_array(X)), "cannot be shifted"),
        (lambda X: of.Standardiser.fit(X).inverse(X[:, :2]), "2 columns but the standardiser 3"),
        (lambda X: of.Standardiser(X[0], X[0]), "one a column, scale positive"),
        (lambda X: of.Standardiser(X[0], [1.0]), "one a column, scale positive"),
        (lambda X: of.Standardiser([np.nan], [1.0]), "must be finite numbers"),
        (lambda X: of.Standardiser([0.0], [1.0], "float16"), "dtype must be float32 or float64"),
    ],
)
def test_errors_name_the_argument(X, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(X)
