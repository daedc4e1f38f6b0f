"""Resolution and posterior variance against dense formulas."""

import numpy as np
import pylops
import pytest
import scipy.sparse as sp

import opflow as of


def problem(n=300, rows=80, dtype=np.float64):
    """A kernel on a grid, random rows of an operator, and a noise."""
    net = of.ReLUNetwork.random([2, 40, 30], seed=0, bias=True, dtype=dtype)
    X = of.coordinates((n // 20, 20), dtype=dtype)
    K = of.collective_kernel(net.fields(X))
    G = np.random.default_rng(0).standard_normal((rows, n)).astype(dtype) / n**0.5
    return K, G, float(1e-2 * np.trace(G @ K.todense() @ G.T) / rows)


@pytest.mark.parametrize("how", ["direct", "iterative"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, pylops.MatrixMult])
@pytest.mark.parametrize("memory", [None, 50_000])
def test_resolution_and_variance_are_those_of_dense_formulas(how, form, memory):
    K, G, noise = problem()
    found = of.spectral.resolution(K, form(G), noise, how=how, tol=1e-11, memory=memory)
    dense = K.todense()
    R = dense @ G.T @ np.linalg.solve(G @ dense @ G.T + noise * np.eye(80), G)
    np.testing.assert_allclose(found.diagonal, R.diagonal(), atol=1e-8)
    np.testing.assert_allclose(found.columns([7, 200]), R[:, [7, 200]], atol=1e-8)
    np.testing.assert_allclose(found.columns(slice(3, 6)), R[:, 3:6], atol=1e-8)
    np.testing.assert_allclose(found.operator @ dense[:, 0], R @ dense[:, 0], atol=1e-8)
    variance = (dense - R @ dense).diagonal()
    np.testing.assert_allclose(found.variance, variance, atol=1e-8 * dense.diagonal().max())


def test_samples_that_are_measured_alone_are_a_gaussian_process():
    """G = identity gives the leverages and the variance of the posterior itself."""
    K, _, noise = problem(100, 10)
    found = of.spectral.resolution(K, of.Identity(100), noise)
    plain = of.spectral.posterior(K, np.ones(100), noise)
    np.testing.assert_allclose(found.diagonal, plain.leverages.values, atol=1e-10)
    np.testing.assert_allclose(found.variance, plain.variance, atol=1e-10)


def test_single_precision_stays():
    K, G, noise = problem(100, 10, np.float32)
    found = of.spectral.resolution(K, G, noise)
    assert found.diagonal.dtype == found.variance.dtype == np.float32
    exact = of.spectral.resolution(K.todense().astype(float), G.astype(float), noise)
    np.testing.assert_allclose(found.diagonal, exact.diagonal, atol=1e-3)


@pytest.mark.parametrize("G", [np.ones((3, 99)), np.ones((3, 100), complex), np.ones(100)])
def test_what_does_not_fit_is_refused_by_name(G):
    with pytest.raises((ValueError, TypeError), match="measurement"):
        of.spectral.resolution(problem(100, 10)[0], G, 1.0)
