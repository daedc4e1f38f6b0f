import numpy as np
import pylops
import pytest
import scipy.sparse.linalg as spla
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral import ConvergenceWarning
from opflow.spectral.functions.preconditioners import Nystrom, jacobi, nystrom
from opflow.spectral.functions.solve import solve
from tests.spectral.products import rotated

from .test_preconditioners import operator, problems


class Counting(of.Matrix):
    """A matrix that notes the widths of its products."""

    def __init__(self, data):
        super().__init__(data, psd=True)
        self.widths = []

    def _matmat(self, X):
        self.widths.append(X.shape[1])
        return super()._matmat(X)


@pytest.fixture(scope="module")
def smooth():
    """The kernel of a network on smooth data: a curve in five dimensions."""
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    X = np.stack([np.cos(t), np.sin(t), np.cos(2 * t), np.sin(3 * t), 1 + 0 * t], axis=1)
    net = of.ReLUNetwork.random([5, 256], seed=0)
    return of.collective_kernel(net.fields(X)), np.sin(t) + 0.3 * np.cos(5 * t)


@given(
    problems(),
    st.sampled_from([1e-4, 1e-2, 1.0]),
    st.sampled_from([None, "nystrom", "jacobi"]),
    st.sampled_from([(), (1,), (4,)]),
)
def test_solutions_agree_with_dense_ones(drawn, shift, preconditioner, columns):
    op, values = drawn
    n, shift = len(values), shift * (values.max() or 1.0)
    b = np.random.default_rng(n).standard_normal((n, *columns))
    if columns == (4,):
        b[:, 1], b[:, 2] = 0, 1e-7 * b[:, 2]
    solution = solve(op, b, shift, preconditioner=preconditioner, rank=10, tol=1e-9, maxiter=500)
    A = op.todense() + shift * np.eye(n)
    residuals = np.linalg.norm(b - A @ solution.x, axis=0)
    norms = np.linalg.norm(b, axis=0)
    assert solution.converged and (residuals <= 1.001e-9 * norms).all()
    rounding = 50 * np.finfo(float).eps * (values.max() + shift) * np.linalg.norm(solution.x)
    np.testing.assert_allclose(solution.residuals * norms, residuals, rtol=0, atol=rounding)
    assert np.shape(solution.residuals) == columns and solution.x.shape == b.shape
    error = np.linalg.norm(solution.x - np.linalg.solve(A, b), axis=0)
    assert (error <= 1.1e-9 * norms / (values.min() + shift)).all()


def test_an_iteration_is_one_block_product(smooth):
    kernel, y = smooth
    counting = Counting(kernel.todense())
    B = np.stack([y, y**2, np.roll(y, 7)], axis=1)
    solution = solve(counting, B, 1.0)
    assert set(counting.widths) == {3}
    assert solution.products == sum(counting.widths)
    assert solution.iterations < len(counting.widths) <= solution.iterations + 4


def test_columns_have_steps_of_their_own_and_leave_once_solved(smooth):
    kernel, y = smooth
    counting = Counting(kernel.todense())
    easy = np.linalg.eigh(counting.data)[1][:, -1]
    B = np.stack([easy, y, np.zeros_like(y), 1e-7 * np.roll(y, 3) ** 3], axis=1)
    together = solve(counting, B, 1.0, tol=1e-10, how="iterative")
    widths = counting.widths[:-1]  # the last recomputes all residuals
    assert widths[0] == 3 and widths[1] == 2 and widths == sorted(widths, reverse=True)
    alone = [solve(counting, B[:, j], 1.0, tol=1e-10, how="iterative") for j in range(4)]
    # a block is rounded otherwise than its columns, which may move the last iteration by one
    assert abs(together.iterations - max(one.iterations for one in alone)) <= 1
    assert abs(together.products - sum(one.products for one in alone)) <= 3
    for j, one in enumerate(alone):
        gap = np.linalg.norm(together.x[:, j] - one.x)  # either is as near to the solution
        assert gap <= 2.1e-10 * np.linalg.norm(B[:, j])


@pytest.mark.thorough
def test_nystrom_cuts_the_iterations_on_a_smooth_kernel(smooth):
    kernel, y = smooth
    shift = 1e-5 * kernel.trace() / 400
    plain = solve(kernel, y, shift, maxiter=4000, how="iterative")
    sketched = solve(kernel, y, shift, preconditioner="nystrom", rank=200)
    assert plain.converged and sketched.converged
    assert 15 * sketched.iterations < plain.iterations  # 185 and 3380 when this was written
    assert 8 * sketched.products < plain.products  # the sketch included
    np.testing.assert_allclose(kernel @ sketched.x, kernel @ plain.x, atol=1e-5)


def test_jacobi_undoes_a_scaling():
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 1e4, 100)
    F = rng.standard_normal((100, 100)) / 10 + 3 * np.eye(100)
    op, b = of.Gram(scale[:, None] * F), rng.standard_normal(100)
    with pytest.warns(ConvergenceWarning):
        plain = solve(op, b, maxiter=200, how="iterative")
    scaled = solve(op, b, preconditioner="jacobi", maxiter=200)
    assert not plain.converged and scaled.converged and scaled.iterations < 60


def test_preconditioners_may_be_operators(smooth):
    kernel, y = smooth
    P = nystrom(kernel, 0.1, 50)
    ours, theirs = (solve(kernel, y, 0.1, preconditioner=p) for p in (P, P.to_scipy()))
    plain = solve(kernel, y, 0.1, how="iterative")
    assert ours.iterations == theirs.iterations < plain.iterations / 2
    assert ours.products == ours.iterations + 1


def test_solvers_of_scipy_and_pylops_take_them(smooth):
    kernel, y = smooth
    shift = 1e-3
    A = kernel + shift * of.Identity(400)
    P = nystrom(kernel, shift, 100)
    want = solve(kernel, y, shift, preconditioner=P, tol=1e-11).x
    x, info = spla.cg(A, y, M=P, rtol=1e-11)
    assert info == 0
    np.testing.assert_allclose(A @ x, A @ want, atol=1e-9)
    steps = dict(niter=40, tol=0.0)
    plain = pylops.cg(A, y, x0=np.zeros(400), **steps)[0]
    # half of P on either side: P^½ A P^½ z = P^½ y
    half = Nystrom(P.data, (1 + P.weights) ** 0.5 - 1)
    np.testing.assert_allclose((half @ half).todense(), P.todense(), atol=1e-12)
    z = pylops.cg(half @ A @ half, half @ y, x0=np.zeros(400), **steps)[0]
    sketched = np.linalg.norm(y - A @ (half @ z))
    assert sketched < 1e-3 * np.linalg.norm(y - A @ plain)
    least_squares = pylops.optimization.leastsquares.preconditioned_inversion
    plain, sketched = (least_squares(A, y, p, iter_lim=60)[0] for p in (of.Identity(400), P))
    assert np.linalg.norm(y - A @ sketched) < 0.1 * np.linalg.norm(y - A @ plain)
    assert jacobi(kernel, shift).to_scipy().shape == kernel.shape


def test_singular_and_consistent_is_solved_and_inconsistent_says_so():
    op = operator(np.where(np.arange(40) < 20, 1.0 + np.arange(40), 0.0), np.random.default_rng(0))
    consistent = solve(op, op @ np.ones(40))
    assert consistent.converged
    with pytest.warns(ConvergenceWarning, match="residual is"):
        inconsistent = solve(op, np.ones(40))
    assert not inconsistent.converged and np.isfinite(inconsistent.x).all()
    assert 1e-3 < inconsistent.residuals <= 1
    with pytest.warns(ConvergenceWarning):
        assert not solve(of.Zero(3), np.ones(3)).x.any()


def test_one_column_that_fails_is_not_hidden_by_the_others():
    op = of.Gram(np.diag([0.0, 1.0, 2.0, 3.0]))
    B = np.stack([np.array([0, 1.0, 1, 1]), 1e-9 * np.array([1.0, 0, 0, 0])], axis=1)
    with pytest.warns(ConvergenceWarning, match="iterations"):
        solution = solve(op, B)
    assert not solution.converged and solution.residuals[1] == 1


def test_a_condition_of_1e12_is_solved_or_says_so():
    values = np.geomspace(1e-12, 1, 60)
    op = of.Gram(np.diag(np.sqrt(values)))
    b = np.ones(60)
    with pytest.warns(ConvergenceWarning):
        plain = solve(op, b, maxiter=60, how="iterative")
    assert not plain.converged and plain.residuals > 1e-8
    assert solve(op, b, preconditioner="jacobi").iterations <= 2


def test_the_best_iterate_is_returned():
    rng = np.random.default_rng(0)
    op, b = operator(np.geomspace(1e-3, 1, 80), rng), rng.standard_normal(80)
    with pytest.warns(ConvergenceWarning):
        residuals = [solve(op, b, maxiter=m).residuals for m in range(1, 40)]
    assert residuals[-1] < 0.9 and (np.diff(residuals) <= 1e-12).all()


@pytest.mark.parametrize("least", [1e-5, 1e-6])
def test_rounding_is_refined_away(least):
    rng = np.random.default_rng(0)
    op = operator(np.geomspace(least, 1, 80), rng)
    solution = solve(op, rng.standard_normal(80), tol=3e-11, maxiter=4000)
    assert solution.converged and solution.residuals <= 3e-11


def test_float32_stays_float32(smooth):
    kernel, y = smooth
    single = of.Matrix(kernel.todense().astype(np.float32), psd=True)
    solution = solve(single, y.astype(np.float32), 1.0, preconditioner="nystrom")
    assert solution.x.dtype == np.float32 and solution.converged
    np.testing.assert_allclose(solution.x, solve(kernel, y, 1.0).x, atol=1e-3)


def test_float32_right_hand_sides_are_solved_in_the_operators_dtype():
    b = np.arange(3, dtype=np.float32)
    solution = solve(np.eye(3), b, 2.0)
    assert solution.x.dtype == np.float64
    np.testing.assert_allclose(solution.x, np.arange(3) / 3, rtol=1e-15)


@pytest.mark.parametrize("columns", [(), (2,)])
def test_a_system_without_a_solution_says_so(columns):
    op, b = of.Gram(np.diag([0.0, 1.0, 2.0, 3.0])), np.ones((4, *columns))
    with pytest.warns(ConvergenceWarning, match="relative residual"):
        assert not solve(op, b).converged


def test_smallest_systems():
    solution = solve(np.array([[3.0]]), np.array([4.0]), 1.0)
    assert solution.x == 1 and solution.converged and solution.iterations == 1
    nothing = solve(np.eye(3), np.zeros((3, 2)), 1.0)
    assert nothing.converged and not nothing.x.any() and not nothing.products


indefinite = np.diag([1.0, -1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: solve(np.eye(3), np.ones(3), -1.0), ValueError, "shift must be"),
        (lambda: solve(indefinite, np.array([0, 1.0, 0])), ValueError, "op . shift must be PSD"),
        (lambda: solve(np.eye(3), np.ones(3), preconditioner=indefinite), ValueError, "precond"),
        (lambda: solve(np.eye(3), np.ones(3), preconditioner="ilu"), ValueError, "ilu"),
        (lambda: solve(np.eye(3), np.ones(3), preconditioner=np.eye(2)), ValueError, "shape"),
        (lambda: solve(np.eye(3), np.ones(4)), ValueError, "shape"),
        (lambda: solve(np.eye(3), np.ones((3, 0))), ValueError, "shape"),
        (lambda: solve(np.eye(3), np.array([1, np.nan, 1])), ValueError, "b contains NaN"),
        (lambda: solve(np.diag([1.0, np.inf]), np.ones(2)), ValueError, "NaN or infinity"),
        (
            lambda: solve(of.Matrix(np.full((2, 2), np.nan), psd=True), np.ones(2)),
            ValueError,
            "NaN",
        ),
        (lambda: solve(np.triu(np.ones((3, 3))), np.ones(3)), ValueError, "symmetric"),
        (lambda: solve(np.eye(3), np.ones(3), tol=2), ValueError, "tol"),
        (lambda: solve(np.eye(3), np.ones(3), maxiter=0), ValueError, "maxiter"),
        (lambda: solve(np.eye(3, dtype="f"), np.full(3, 1e99)), ValueError, "b has numbers beyond"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_iterations_do_not_reach_is_factorised(dtype):
    """The spectrum of a kernel ridge problem whose ridge is far below the kernel."""
    least = 1e-2 if dtype is np.float32 else 1e-6
    A = rotated(np.geomspace(least, 1, 300), dtype=dtype)
    b = np.random.default_rng(0).standard_normal((300, 2)).astype(dtype)
    found = solve(A, b)
    assert found.converged and found.x.dtype == dtype
    with pytest.warns(ConvergenceWarning, match="after"):
        alone = solve(A, b, how="iterative", maxiter=found.iterations)
    assert alone.residuals.max() > found.residuals.max()
    direct = solve(A, b, how="direct")
    assert direct.converged and direct.iterations == 0
    exact = np.linalg.solve(A.astype(np.float64), b)
    size = np.finfo(dtype).eps * np.linalg.cond(A.astype(np.float64))
    np.testing.assert_allclose(direct.x, exact, atol=10 * size * np.abs(exact).max())
    shifted = solve(A, b, 0.5, how="direct")
    rounding = 1e3 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose((A + 0.5 * np.eye(300)) @ shifted.x, b, atol=rounding)


def test_what_a_direct_solution_cannot_do():
    with pytest.raises(ValueError, match="how must be 'iterative', 'direct' or None, not 'lu'"):
        solve(np.eye(3), np.ones(3), how="lu")
    singular = np.diag([1.0, 2.0, 0.0])
    with pytest.warns(ConvergenceWarning, match="relative residual"):
        assert not solve(singular, np.ones(3), how="direct").converged
    box = spla.aslinearoperator(np.diag([1.0, 2.0, 4.0]))
    # three formed the matrix, one is the residual
    assert solve(box, np.ones(3), how="direct").products == 4
