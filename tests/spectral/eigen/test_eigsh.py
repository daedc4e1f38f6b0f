"""Eigenpairs and singular triplets agree with LAPACK, whatever the spectrum."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse.linalg as spla
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral import ConvergenceWarning, block_lanczos, eigh, eigsh, svds
from opflow.spectral.eigen.selection import choose
from opflow.spectral.krylov.block import BlockKrylov
from tests.spectral.spectra import SPECTRA, hard_kernel, rotated

DTYPES = (np.float64, np.float32)


def allowed(n, dtype, size=1.0):
    return 10 * n**0.5 * np.finfo(dtype).eps * size


def check(pairs, A, k, which):
    """Values as LAPACK's, orthonormal vectors, residuals as stated, all within rounding."""
    A = np.asarray(A, dtype=np.float64)
    reference = np.linalg.eigvalsh(A)
    eps = allowed(len(A), pairs.eigenvectors.dtype, abs(reference).max())
    expected = reference[choose(reference, k, which)]
    assert (np.diff(pairs.eigenvalues) <= 0).all()
    np.testing.assert_allclose(pairs.eigenvalues, expected, atol=eps)
    U = pairs.eigenvectors.astype(np.float64)
    np.testing.assert_allclose(U.T @ U, np.eye(k), atol=allowed(k, pairs.eigenvectors.dtype))
    true = np.linalg.norm(A @ U - U * pairs.eigenvalues, axis=0)
    np.testing.assert_allclose(true, pairs.residuals, atol=eps)
    assert pairs.converged and true.max() <= eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_block_lanczos_agrees_with_lapack(name, dtype):
    A = rotated(SPECTRA[name](260), dtype=dtype)
    for which, k in (("LM", 1), ("LA", 20), ("BE", 5)):
        if which == "BE" and name == "ill-conditioned":
            continue  # its small end needs more than a Krylov space: see below
        pairs = eigsh(A, k, which=which, method="lanczos")
        assert pairs.how.startswith("lanczos") and pairs.eigenvectors.dtype == dtype
        check(pairs, A, k, which)


@given(
    name=st.sampled_from(sorted(SPECTRA)),
    n=st.integers(1, 40),
    which=st.sampled_from(["LM", "LA", "SA", "BE"]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_every_part_of_every_spectrum(name, n, which, dtype, data):
    A = rotated(SPECTRA[name](n), dtype=dtype)
    k = data.draw(st.integers(1, n))
    for method in ("lanczos", "lapack"):
        check(eigsh(A, k, which=which, method=method), A, k, which)
    check(eigh(A), A, n, "LA")


@pytest.mark.parametrize("block", [1, 3, 40])
def test_restarts_lose_nothing(block):
    values = np.sort(np.random.default_rng(1).standard_normal(900))
    op = of.as_operator(np.diag(values))
    pairs = eigsh(op, 3, which="LA", method="lanczos", block=block, memory=(9 + 6 * block) * 7200)
    assert pairs.converged and pairs.products > 12 * block + 3
    np.testing.assert_allclose(pairs.eigenvalues, values[:-4:-1], atol=1e-12)


def test_copies_of_a_repeated_eigenvalue_are_all_found():
    rest = np.concatenate([2.0 ** -np.arange(12), np.linspace(1e-4, 0, 1276)])
    op = of.as_operator(np.diag(np.concatenate([np.full(12, 2.0), rest])))
    pairs = eigsh(op, 12, tol=1e-6)
    np.testing.assert_allclose(pairs.eigenvalues, 2.0, atol=1e-12)
    assert pairs.how.startswith("lanczos") and pairs.products < 100
    # what a block that is too narrow does not see
    assert eigsh(op, 12, tol=1e-6, block=4).eigenvalues[-1] < 1.5


@pytest.mark.thorough
def test_repeated_eigenvalues_at_the_edge_of_a_continuum():
    values = np.concatenate([np.full(25, 2.0), np.linspace(0, 1.99, 1275)])
    pairs = eigsh(np.diag(values), 20, tol=1e-8)
    np.testing.assert_allclose(pairs.eigenvalues, 2.0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 2])
def test_kernels_with_duplicated_samples_and_dead_units(outputs, dtype):
    K = hard_kernel(outputs=outputs, dtype=dtype)
    for method in ("lanczos", "lapack"):
        check(eigsh(K, 6, method=method), K.todense(), 6, "LM")
    rank = np.linalg.matrix_rank(K.todense().astype(float), tol=1e-5)
    assert rank < K.shape[0]
    values = eigh(K).eigenvalues
    assert (abs(values[rank:]) <= allowed(K.shape[0], dtype, values[0])).all()


def test_every_way_of_evaluation_gives_the_same():
    K = hard_kernel(80)
    ways = {eigsh(K, 3, method="lanczos", how=how).how for how in ("factored", "dense", "tiled")}
    assert ways == {"lanczos, factored", "lanczos, dense", "lanczos, tiled"}


def test_the_cost_model_forms_the_kernel_where_that_pays():
    X = np.random.default_rng(0).standard_normal((1500, 300))
    K = of.collective_kernel(of.ReLUNetwork.random([300, 200], seed=0).fields(X))
    assert eigsh(K, 4, tol=1e-3).how == "lanczos, dense"
    assert eigsh(K, 4, tol=1e-3, memory="8MB").how == "lanczos, factored"
    with pytest.raises(MemoryError, match=r"basis of .* over the budget of 0.0001 GB"):
        eigsh(K, 4, memory=1e5)


def test_products_are_counted():
    counted = []

    class Counting(spla.LinearOperator):
        def __init__(self):
            super().__init__(np.float64, (1100, 1100))

        def _matvec(self, x):
            counted.append(1)
            return self.values * x

        def _matmat(self, X):
            counted.append(X.shape[1])
            return self.values[:, None] * X

        _rmatvec, _rmatmat = _matvec, _matmat
        values = np.geomspace(1, 1e-3, 1100)

    pairs = eigsh(Counting(), 3, which="LA", method="lanczos", tol=1e-6)
    assert pairs.products == sum(counted) - 2  # two for the test of symmetry
    np.testing.assert_allclose(pairs.eigenvalues, Counting.values[:3], rtol=1e-6)


def test_the_crowded_end_of_a_kernel_is_left_to_lapack():
    A = rotated(np.linspace(0, 1, 600) ** 4)
    assert "lanczos" in eigsh(A, 3).how
    for which in ("SA", "BE"):
        assert eigsh(A, 3, which=which).how == "lapack, dense"


@pytest.mark.thorough
def test_a_warm_start_saves_products():
    A = rotated(np.geomspace(1, 1e-6, 1200) ** 0.5)
    cold = eigsh(A, 5, tol=1e-8)
    rng = np.random.default_rng(3)
    E = rng.standard_normal(A.shape) * 1e-7
    warm = eigsh(A + E + E.T, 5, tol=1e-8, start=cold.eigenvectors)
    assert warm.converged and warm.products < 0.7 * cold.products


def test_a_start_cannot_hide_what_is_outside_it():
    values = np.concatenate([np.arange(10.0, 3, -1), np.linspace(0, 1, 1493)])
    A, basis = of.as_operator(np.diag(values)), np.eye(1500)
    for k, columns in ((6, slice(1, 7)), (2, slice(3, 9)), (1, slice(6, 7))):
        pairs = eigsh(A, k, start=basis[:, columns], tol=1e-6)
        np.testing.assert_allclose(pairs.eigenvalues, values[:k], rtol=1e-9)
    # a mode that has just overtaken another is among the vectors next to those asked for
    pairs = eigsh(A, 3, tol=1e-6)
    values[3] = 8.0 + 1e-3
    pairs = eigsh(np.diag(values), 3, start=pairs.start, tol=1e-6)
    np.testing.assert_allclose(pairs.eigenvalues, [10, 9, 8.001], rtol=1e-9)


@pytest.mark.parametrize("new", [10.0, 9.2])
@pytest.mark.parametrize("tol", [0.0, 1e-6, 1e-3])
def test_a_start_cannot_hide_what_has_overtaken_it(new, tol):
    """The eigenvector of what is the largest now was neither the first nor the second before."""
    rest = np.arange(1, 400) / 100
    before = np.diag(np.r_[8.0, 9.0, 8.5, rest])
    after = np.diag(np.r_[new, 9.0, 8.5, rest])
    for seed in range(5):
        pairs = eigsh(before, 1, method="lanczos", rng=seed)
        found = eigsh(after, 1, start=pairs.start, tol=tol, method="lanczos", rng=seed + 100)
        assert found.eigenvalues[0] == pytest.approx(new, rel=max(tol, 1e-12))


@pytest.mark.parametrize("tol", [1e-6, 1e-3])
@pytest.mark.parametrize("hidden", [0, 3])
def test_a_start_cannot_hide_one_of_many_close_eigenvalues(hidden, tol):
    """The start holds the five largest but one, and nothing of the rest of the space."""
    values = np.geomspace(1, 1e-4, 1500)
    start = np.eye(1500)[:, [i for i in range(6) if i != hidden]]
    for seed in range(3):
        pairs = eigsh(np.diag(values), 4, start=start, tol=tol, method="lanczos", rng=seed)
        np.testing.assert_allclose(pairs.eigenvalues, values[:4], rtol=tol)


@pytest.mark.thorough
def test_a_start_with_what_comes_next_sees_the_rest_of_the_space():
    """It lies in one of two invariant spaces, and the largest eigenvalue is now in the other."""
    seen, other = np.geomspace(1.0, 0.5, 300), np.geomspace(0.9, 0.4, 500)
    A = np.zeros((800, 800))
    A[:300, :300] = rotated(seen)
    A[300:, 300:] = rotated(other, seed=1)
    before = eigsh(A, 1, tol=1e-6)
    A[300:, 300:] *= 1.3
    start = before.start
    start[300:] = 0.0
    pairs = eigsh(A, 1, tol=1e-6, start=start)
    np.testing.assert_allclose(pairs.eigenvalues, [0.9 * 1.3], rtol=1e-9)


def test_the_zero_operator_and_null_spaces_by_any_method():
    for method in ("lanczos", "lapack"):
        pairs = eigsh(of.Zero(1100), 2, method=method)
        assert pairs.converged and not pairs.eigenvalues.any()


def test_many_pairs_keep_the_projected_problem_small():
    values = np.linspace(0, 1, 1300) ** 8
    pairs = eigsh(np.diag(values), 100, tol=1e-6)
    np.testing.assert_allclose(pairs.eigenvalues, values[:-101:-1], rtol=1e-9)


def test_products_that_form_a_matrix_are_counted():
    op = spla.aslinearoperator(np.diag(np.arange(1.0, 31)))
    assert eigsh(op, 3).products == eigh(op).products == 30
    assert eigh(of.Gram(np.ones((30, 2)))).products == 0


def test_what_did_not_converge_is_said():
    op = of.as_operator(np.diag(np.linspace(0, 1, 1200)))
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        pairs = eigsh(op, 4, which="LA", method="lanczos", steps=2, block=4)
    assert not pairs.converged and pairs.residuals.max() > 1e-4
    assert pairs.eigenvectors.shape == (1200, 4)
    with pytest.warns(ConvergenceWarning, match="triplets did not converge"):
        assert not svds(op, 4, steps=2).converged


@pytest.mark.thorough
def test_tol_is_what_it_says():
    A = rotated(np.linspace(0, 1, 1100))
    loose, tight = eigsh(A, 3, tol=1e-3), eigsh(A, 3)
    assert loose.converged and loose.products < tight.products
    assert (loose.residuals <= 1e-3 * loose.eigenvalues).all()


def test_of_both_ends_tol_is_relative_to_the_norm():
    values = np.concatenate([np.linspace(-1e-3, 1, 400), [5.0]])
    pairs = of.spectral.eigsh(rotated(values, 0, np.float64), 2, which="BE", tol=1e-2,
                              method="lanczos", how="factored")  # fmt: skip
    assert pairs.converged and pairs.products < 200
    assert (pairs.residuals[1] > 1e-2 * 1e-3) and (pairs.residuals <= 1e-2 * 5).all()


def test_largest_and_smallest_are_what_scipy_means_by_them():
    A = rotated(np.linspace(-1, 2, 50))
    for which in ("LM", "LA", "SA", "BE"):
        expected = np.sort(spla.eigsh(A, 5, which=which, return_eigenvectors=False))[::-1]
        if which == "BE":  # SciPy takes the odd one from the high end, too
            expected = np.sort(expected)[::-1]
        np.testing.assert_allclose(eigsh(A, 5, which=which).eigenvalues, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"op": np.ones((3, 2))}, ValueError, r"op must be square .* \(3, 2\)"),
        ({"op": np.triu(np.ones((5, 5)))}, ValueError, "op must be symmetric"),
        ({"op": np.diag([1.0, np.nan, 1.0])}, ValueError, "NaN or infinity"),
        ({"op": np.eye(3, dtype=complex)}, TypeError, "float32 or float64"),
        ({"op": "K"}, TypeError, "expected an array"),
        ({"k": 5}, ValueError, "k must be between 1 and 4, not 5"),
        ({"k": 0}, ValueError, "k must be between 1 and 4, not 0"),
        ({"k": 1.5}, TypeError, "k must be an integer"),
        ({"which": "XX"}, ValueError, "which must be one of LM, LA, SA, BE"),
        ({"method": "power"}, ValueError, "method must be one of lanczos"),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"block": 9}, ValueError, "block must be between 1 and 4"),
        ({"start": np.ones((3, 1))}, ValueError, r"start has shape \(3, 1\)"),
        ({"start": np.full((4, 1), np.inf)}, ValueError, "start contain NaN"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"how": "magic", "method": "lanczos"}, ValueError, "how must be one of"),
    ],
)
def test_what_does_not_fit_is_named(arguments, error, message):
    given = {"op": np.eye(4), "k": 2} | arguments
    with pytest.raises(error, match=message):
        eigsh(given.pop("op"), given.pop("k"), **given)


def test_infinite_products_of_a_symmetric_operator_are_refused():
    op = of.Gram(np.full((3, 2), 1e200))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="NaN or infinity"):
        eigsh(op, 1, method="lanczos")


def test_all_eigenpairs_need_the_memory_for_them():
    with pytest.raises(MemoryError, match="ask eigsh for a few"):
        eigh(of.Gram(np.ones((1000, 2))), memory="10MB")


def test_eigenpairs_unpack_print_and_pickle():
    pairs = pickle.loads(pickle.dumps(eigsh(np.diag([3.0, 2.0, 1.0]), 2)))
    values, vectors = pairs
    assert values.tolist() == [3.0, 2.0] and vectors.shape == (3, 2)
    assert "2 eigenpairs from 3 to 2" in repr(pairs) and "not converged" not in repr(pairs)


# -- the space itself ---------------------------------------------------------------------------


@given(
    name=st.sampled_from(sorted(SPECTRA)),
    n=st.integers(1, 40),
    block=st.integers(1, 6),
    steps=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
)
def test_block_lanczos_is_a_projection_with_a_residual_of_rank_one_block(
    name, n, block, steps, dtype
):
    A = rotated(SPECTRA[name](n), dtype=dtype)
    T, Q, R = block_lanczos(A, steps, block=block)
    m, b = len(T), R.shape[1]
    assert m == min(n, steps * min(block, n)) and Q.dtype == dtype
    A, Q = A.astype(float), Q.astype(float)
    eps = 4 * allowed(n, dtype)
    np.testing.assert_allclose(Q.T @ Q, np.eye(m), atol=eps)
    np.testing.assert_allclose(Q.T @ A @ Q, T, atol=eps * 5)
    rest = A @ Q - Q @ T
    np.testing.assert_allclose(rest[:, : m - b], 0, atol=eps * 5)
    np.testing.assert_allclose(
        rest[:, m - b :].T @ rest[:, m - b :], R.T @ R, atol=eps * 5 * (1 + np.linalg.norm(R))
    )


def test_a_start_of_lower_rank_is_filled_up():
    A = rotated(np.arange(1.0, 31.0))
    V = np.zeros((30, 3))
    V[:, 0] = V[:, 1] = 1.0
    T, Q, _ = block_lanczos(A, 10, V)
    np.testing.assert_allclose(Q.T @ Q, np.eye(30), atol=1e-13)
    np.testing.assert_allclose(np.linalg.eigvalsh(T), np.arange(1, 31), atol=1e-12)


def test_residual_norms_are_known_without_a_product():
    A = rotated(np.geomspace(1, 1e-3, 200))
    space = BlockKrylov(of.as_operator(A), np.eye(200, 4), 100, np.random.default_rng(0))
    for _ in range(6):
        space.expand()
    values, coordinates, residuals = space.ritz()
    U = space.combine(coordinates)
    np.testing.assert_allclose(np.linalg.norm(A @ U - U * values, axis=0), residuals, atol=1e-14)


# -- singular triplets --------------------------------------------------------------------------


@given(
    m=st.integers(1, 20), n=st.integers(1, 20), rank=st.integers(0, 20),
    dtype=st.sampled_from(DTYPES), data=st.data(),
)  # fmt: skip
def test_singular_triplets_agree_with_lapack(m, n, rank, dtype, data):
    rng = np.random.default_rng(m + 21 * n)
    A = rng.standard_normal((m, min(rank, m, n))) @ rng.standard_normal((min(rank, m, n), n))
    A = A.astype(dtype)
    k = data.draw(st.integers(1, min(m, n)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = svds(A, k)
    reference = np.linalg.svd(A.astype(float), compute_uv=False)
    eps = allowed(max(m, n), dtype, 1 + reference[0])
    np.testing.assert_allclose(found.singular_values, reference[:k], atol=eps)
    for V in (found.left, found.right):
        np.testing.assert_allclose(V.T @ V, np.eye(k), atol=allowed(20, dtype))
    u, s, vt = found
    np.testing.assert_allclose(A @ vt.T, u * s, atol=eps)
    np.testing.assert_allclose(A.T @ u, vt.T * s, atol=eps)


def test_singular_values_are_better_than_their_squares():
    values = np.geomspace(1, 1e-11, 12)
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 12)))[0] for n in (40, 70))
    found = svds((U * values) @ V.T, 12)
    np.testing.assert_allclose(found.singular_values, values, atol=1e-15)


def test_a_jacobian_gives_the_pairs_of_both_grams():
    X = np.random.default_rng(0).standard_normal((30, 4))
    fields = of.ReLUNetwork.random([4, 9, 8], outputs=2, seed=0).fields(X)
    J = of.jacobian(fields)
    found = svds(J, 5)
    for op, pairs in ((of.collective_kernel(fields), found.kernel), (J.T @ J, found.gauss_newton)):
        U = pairs.eigenvectors
        gap = np.linalg.norm(op @ U - U * pairs.eigenvalues, axis=0)
        assert (gap <= pairs.residuals + 1e-12 * pairs.eigenvalues[0]).all()
        np.testing.assert_allclose(pairs.eigenvalues, eigh(op).eigenvalues[:5], rtol=1e-12)
