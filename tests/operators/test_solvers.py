"""Solvers of SciPy and PyLops run on our operators unchanged."""

import numpy as np
import pylops
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse as sp
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


def test_pylops_division_takes_its_options():
    A, y = np.diag([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0])
    op = of.as_operator(A)
    for x in (op.div(y, niter=50), op / y, op / y.tolist()):
        np.testing.assert_allclose(x, [1, 0.5, 0.25], rtol=1e-6)
    once = op.div(y, niter=1)
    assert np.linalg.norm(once - [1, 0.5, 0.25]) > 0.01


AS_ARRAYS = {
    "numpy": np.asarray,
    "numpy, of two": lambda K: np.array([K, K]),
    "numpy, float32": lambda K: np.asarray(K, dtype=np.float32),
    "norm": np.linalg.norm,
    "eigsh": lambda K: spla.eigsh(K, k=N, return_eigenvectors=False),
    "lsq_linear": lambda K: scipy.optimize.lsq_linear(K, np.ones(N)).x,
    "expm_multiply": lambda K: spla.expm_multiply(K, np.ones(N)),
    "scikit-learn": lambda K: pytest.importorskip("sklearn.linear_model").Ridge().fit(K, K).coef_,
}


@pytest.mark.filterwarnings("ignore:k >= N")
@pytest.mark.parametrize("use", AS_ARRAYS)
def test_what_wants_an_array_gets_the_dense_matrix(K, A, use):
    found, wanted = (AS_ARRAYS[use](x) for x in (K, K.todense()))
    assert np.asarray(found).dtype == np.asarray(wanted).dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * abs(wanted).max())


def test_an_array_is_made_within_the_memory_check_alone():
    with pytest.raises(MemoryError, match="keep the operator lazy"):
        np.asarray(of.Identity(10**7))


@pytest.mark.parametrize("kind", ["csr_array", "coo_array", "lil_array", "csr_matrix", "dia_array"])
def test_sparse_matrices_leave_the_product_to_us(K, A, b, kind):
    S = getattr(sp, kind)(np.eye(N)[::-1])
    assert isinstance(S @ K, of.Operator)
    np.testing.assert_allclose(S @ K @ b, (A @ b)[::-1], rtol=1e-12)


def test_operators_stand_in_pylops_stacks(K, A, b):
    two = np.concatenate([b, b])
    np.testing.assert_allclose(pylops.VStack([K, K]) @ b, np.concatenate([A @ b, A @ b]))
    np.testing.assert_allclose(pylops.HStack([K, K]) @ two, 2 * A @ b)
    np.testing.assert_allclose(pylops.BlockDiag([K, K]) @ two, np.concatenate([A @ b, A @ b]))
