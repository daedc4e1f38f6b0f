"""What makes a search cheap, narrow blocks and float32, takes nothing from what it finds."""

import tracemalloc

import numpy as np
import pytest

import opflow as of
from opflow.spectral import ConvergenceWarning, eigsh
from opflow.spectral.eigen.search import NARROW
from tests.spectral.spectra import rotated


def factored(values):
    """A Gram with these eigenvalues, as it is: products cost as much as their columns."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((len(values) + 400, len(values))))[0]
    return of.Gram(Q * np.sqrt(values))


@pytest.fixture
def narrow(monkeypatch):
    """Products of small factors are too cheap for narrow blocks to pay."""
    monkeypatch.setattr("opflow.spectral.eigen.eigsh._narrow_pays", lambda op, k: True)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("tol", [1e-4, 1e-8])
@pytest.mark.parametrize("copies", [1, 2, 5, 25])
def test_narrow_blocks_miss_no_copy(copies, tol):
    values = np.repeat(np.geomspace(1.0, 0.01, 200 // copies), copies)
    op = factored(values)
    for seed in range(3):
        pairs = eigsh(op, 20, tol=tol, how="factored", method="lanczos", rng=seed)
        np.testing.assert_allclose(pairs.eigenvalues, values[:20], rtol=max(1e-12, tol**2))
        assert pairs.converged


@pytest.mark.usefixtures("narrow")
def test_a_copy_at_the_edge_of_a_continuum_is_found():
    op = factored(np.concatenate([np.full(7, 2.0), np.linspace(1.9, 0.1, 300)]))
    pairs = eigsh(op, 7, tol=1e-6, how="factored", method="lanczos")
    np.testing.assert_allclose(pairs.eigenvalues, 2.0, rtol=1e-11)
    with_fewer = eigsh(op, 7, tol=1e-6, how="factored", method="lanczos", block=NARROW)
    assert with_fewer.eigenvalues[-1] < 1.95  # one that does not verify


def test_narrow_blocks_take_fewer_products():
    X = np.random.default_rng(0).standard_normal((500, 60))
    K = of.collective_kernel(of.ReLUNetwork.random([60, 150, 150], seed=0).fields(X))
    narrow, wide = (
        eigsh(K, 20, tol=1e-6, how="factored", method="lanczos", block=b) for b in (None, 20)
    )
    assert narrow.products < 0.8 * wide.products
    np.testing.assert_allclose(narrow.eigenvalues, wide.eigenvalues, rtol=1e-11)
    dense = eigsh(K, 20, tol=1e-6, how="dense", method="lanczos")
    assert dense.products > narrow.products  # where a block costs little more than a vector


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("k", [5, 9, 10])
def test_narrow_blocks_of_operators_of_low_rank_or_order(k):
    for values in (np.r_[np.ones(6), np.zeros(4)], np.zeros(10), np.arange(10.0, 0, -1)):
        op = factored(values) if values.any() else of.Zero(410)
        for which in ("LM", "LA"):
            pairs = eigsh(op, k, which=which, how="factored", method="lanczos")
            np.testing.assert_allclose(pairs.eigenvalues, values[:k], atol=1e-12)
    small = rotated(np.arange(10.0))
    pairs = eigsh(small, k, which="SA", method="lanczos")
    np.testing.assert_allclose(pairs.eigenvalues[::-1], np.arange(10.0)[:k], atol=1e-12)


@pytest.mark.usefixtures("narrow")
def test_narrow_blocks_restart_in_little_memory():
    op = factored(np.linspace(1.0, 0.0, 500) ** 2)
    memory = 2 * (12 + 5 * 12) * op.shape[0] * 8
    pairs = eigsh(op, 12, tol=1e-6, how="factored", method="lanczos", memory=memory)
    assert pairs.converged and pairs.products > 150
    np.testing.assert_allclose(pairs.eigenvalues, np.linspace(1, 0, 500)[:12] ** 2, rtol=1e-11)


@pytest.mark.parametrize("how", ["dense", "packed"])
@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1.0, 1e12, 1e200])
@pytest.mark.parametrize("which", ["LM", "LA"])
def test_a_search_in_float32_is_finished_in_float64(unit, which, how):
    values = np.concatenate([[1.0, 1.0, 0.9, 0.9, 0.8], np.linspace(0.5, 0, 1995)])
    A = np.diag(values)
    A[:60, :60] = rotated(values[:60])
    op = of.materialise(of.Matrix(unit * A, symmetric=True), how=how)
    pairs = eigsh(op, 5, tol=1e-7, which=which)
    np.testing.assert_allclose(pairs.eigenvalues / unit, values[:5], rtol=1e-13)
    U = pairs.eigenvectors
    gaps = np.linalg.norm(A @ U - U * (pairs.eigenvalues / unit), axis=0)
    assert (gaps <= 1e-7 * values[:5]).all() and U.dtype == np.float64
    np.testing.assert_allclose(pairs.residuals / unit, gaps, atol=1e-13)


@pytest.mark.parametrize("how", ["dense", "packed"])
def test_steps_bound_a_search_in_float32_as_well(how):
    A = of.Matrix(np.diag(np.linspace(0, 1, 2000)), symmetric=True)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        pairs = eigsh(of.materialise(A, how=how), 4, tol=1e-6, steps=3)
    assert pairs.products == 2 * 4 + 5 + 4


@pytest.mark.parametrize("memory, rounded", [(36e6, True), (28e6, False)])
def test_a_packed_search_in_float32_fits_in_memory_or_is_left_out(memory, rounded, monkeypatch):
    seen = []
    product = of.PackedSymmetric._matmat
    monkeypatch.setattr(
        of.PackedSymmetric, "_matmat", lambda op, X: seen.append(op.dtype) or product(op, X)
    )
    K = of.Gram(np.random.default_rng(0).standard_normal((2000, 300)))
    with of.gate_options(threads=1):
        tracemalloc.start()
        try:
            pairs = eigsh(K, 5, tol=1e-6, how="packed", method="lanczos", memory=memory)
            assert tracemalloc.get_traced_memory()[1] <= memory
        finally:
            tracemalloc.stop()
    assert pairs.converged and (np.float32 in seen) == rounded
