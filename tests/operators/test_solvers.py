"""Solvers of SciPy and PyLops run on our operators unchanged."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg as spla
from pylops.optimization.basic import cg as pylops_cg
from pylops.optimization.basic import lsqr as pylops_lsqr

import opflow as of

N = 40


@pytest.fixture(params=["Gram", "sum", "tiled", "dense"])
def K(request):
    rng = np.random.default_rng(3)
    X, gates = rng.standard_normal((N, 8)), rng.random((N, 30)) < 0.5
    K = of.Hadamard(of.Gram(X), of.CoActivation(gates))
    if request.param == "sum":
        return K + 0.5 * of.Identity(N)
    return of.materialise(K, how={"Gram": "factored"}.get(request.param, request.param))


@pytest.fixture
def A(K):
    return K.todense()


@pytest.fixture
def b():
    return np.random.default_rng(4).standard_normal(N)


def test_eigsh(K, A):
    values = spla.eigsh(K, k=4, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(A)[-4:], rtol=1e-9)


def test_lobpcg(K, A):
    X = np.random.default_rng(5).standard_normal((N, 3))
    values, _ = spla.lobpcg(K, X, tol=1e-8, maxiter=300)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(A)[-3:], rtol=1e-7)


@pytest.mark.parametrize("solver", [spla.cg, spla.minres])
def test_scipy_solvers(K, A, b, solver):
    x, info = solver(K, b, rtol=1e-11, maxiter=2000)
    assert info == 0
    assert np.linalg.norm(A @ x - b) <= 1e-8 * np.linalg.norm(b)


def test_lsqr(K, A, b):
    x = spla.lsqr(K, b, atol=1e-12, btol=1e-12, iter_lim=3000)[0]
    assert np.linalg.norm(A @ x - b) <= 1e-7 * np.linalg.norm(b)


def test_svds(K, A):
    values = spla.svds(K, k=3, return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(A)[-3:], rtol=1e-9)


def test_funm_multiply_krylov(K, A, b):
    scale = 1 / np.linalg.norm(A, 2)
    got = spla.funm_multiply_krylov(scipy.linalg.expm, K, b, t=-scale, assume_a="her")
    np.testing.assert_allclose(got, scipy.linalg.expm(-scale * A) @ b, atol=1e-9)


def test_expm_multiply(K, A, b):
    op = -K / float(np.linalg.norm(A, 2))
    got = spla.expm_multiply(op.to_scipy(), b, traceA=float(op.trace()))
    want = scipy.linalg.expm(-A / np.linalg.norm(A, 2)) @ b
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_pylops_cg(K, A, b):
    x, *_ = pylops_cg(K, b, np.zeros(N), niter=400, tol=1e-22)
    assert np.linalg.norm(A @ x - b) <= 1e-8 * np.linalg.norm(b)


def test_pylops_lsqr_on_a_jacobian():
    rng = np.random.default_rng(6)
    J = of.KhatriRao(rng.standard_normal((12, 3)), rng.standard_normal((12, 5)))
    y = rng.standard_normal(12)
    x = pylops_lsqr(J, y, np.zeros(15), niter=200, atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(J @ x, y, atol=1e-8)


def test_float32_solves_stay_in_float32():
    F = np.random.default_rng(7).standard_normal((N, 60)).astype(np.float32)
    G = of.Gram(F)
    values, vectors = spla.eigsh(G, k=2)
    assert vectors.dtype == np.float32
    want = np.linalg.eigvalsh(F.astype(float) @ F.T.astype(float))[-2:]
    np.testing.assert_allclose(np.sort(values), want, rtol=1e-4)
