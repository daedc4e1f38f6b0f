import math
import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral import ConvergenceWarning, Krylov, expm, funm, phi, phi1, sqrtm
from opflow.spectral.functions import exponential, matrix_functions
from opflow.spectral.krylov.flow import integrated, phi_values
from opflow.spectral.krylov.recursion import Recursion

SPECTRA = {
    "spread": lambda n, rng: rng.uniform(0, 3, n),
    "repeated": lambda n, rng: rng.choice([0.5, 2.0, 3.0], n),
    "zeros": lambda n, rng: np.where(np.arange(n) % 2, 0.0, rng.uniform(0, 3, n)),
    "clustered": lambda n, rng: 1 + 1e-9 * rng.standard_normal(n),
    "conditioned": lambda n, rng: np.geomspace(1e-12, 1, n),
    "rank one": lambda n, rng: np.eye(1, n)[0],
    "zero": lambda n, rng: np.zeros(n),
}


@st.composite
def problems(draw):
    """An operator, its exact eigenvalues and vectors, r."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))](n, rng) * draw(
        st.sampled_from([1e-3, 1.0, 1e4])
    )
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    r = draw(st.sampled_from([1.0, 1e-6, 0.0])) * rng.standard_normal(n)
    return of.Gram(Q * np.sqrt(values)), values, Q, r


def exact(values, Q, r, t):
    """exp(−tK) r and its integral, from the eigenvalues the operator was made of."""
    c = Q.T @ r
    return Q @ (np.exp(-t * values) * c), Q @ (integrated(values, t) * c)


def rounding(values, t):
    return 20 * np.finfo(float).eps * (1 + t * values.max())


reaches = st.sampled_from([0.0, 1e-6, 0.3, 1.0, 30.0, 1e4])
tolerances = st.sampled_from([1e-2, 1e-6, 1e-10])


@given(problems(), reaches, tolerances)
def test_both_actions_are_within_the_tolerance(drawn, reach, tol):
    op, values, Q, r = drawn
    t = reach / (values.max() or 1.0)
    value, integral = exact(values, Q, r, t)
    allowed = (tol + rounding(values, t)) * np.linalg.norm(r)
    assert np.linalg.norm(expm(op, r, t, tol=tol) - value) <= allowed
    assert np.linalg.norm(phi1(op, r, t, tol=tol) - integral) <= t * allowed


@given(problems(), reaches, st.integers(6, 10), st.sampled_from([1e-2, 1e-6]))
def test_restarts_keep_the_tolerance(drawn, reach, size, tol):
    op, values, Q, r = drawn
    t = min(reach, 3.0) / (values.max() or 1.0)
    allowed = (tol + 30 * rounding(values, t)) * np.linalg.norm(r)
    value, integral = exact(values, Q, r, t)
    assert np.linalg.norm(expm(op, r, t, tol=tol, size=size) - value) <= allowed
    assert np.linalg.norm(phi1(op, r, t, tol=tol, size=size) - integral) <= t * allowed


@given(problems(), reaches, st.integers(1, 12))
def test_the_bound_bounds_the_error_of_every_space(drawn, reach, products):
    op, values, Q, r = drawn
    t = reach / (values.max() or 1.0)
    krylov = Krylov(op, r)
    while krylov.products < products and not krylov.exhausted:
        krylov.grow()
    if not krylov.products:
        return
    value, integral = exact(values, Q, r, t)
    assert np.linalg.norm(krylov.at(t) - value) <= krylov.bound(t)
    assert np.linalg.norm(krylov.integral(t) - integral) <= t * krylov.bound(t)


def problem(n=60, top=50.0, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = top * np.arange(1, n + 1) / n
    return of.Gram(Q * np.sqrt(values)), values, Q, rng.standard_normal(n)


def test_the_bound_is_of_use():
    op, values, Q, r = problem()
    krylov = Krylov(op, r)
    assert krylov.reach(1.0, 1e-6)
    error = np.linalg.norm(krylov.at(1.0) - exact(values, Q, r, 1.0)[0])
    assert 1e-9 * krylov.norm < error <= krylov.bound(1.0) <= 1.1e-6 * krylov.norm
    assert krylov.products < 45


def test_agrees_with_a_dense_exponential():
    op, _, _, r = problem(20)
    np.testing.assert_allclose(
        expm(op, r, 0.1, tol=1e-13), scipy.linalg.expm(-0.1 * op.todense()) @ r, atol=1e-12
    )


def test_many_times_come_from_the_products_of_the_last():
    op, values, Q, r = problem()
    times = np.array([[0.0, 0.5], [0.01, 0.1]])
    out, integrals = expm(op, r, times, tol=1e-10), phi1(op, r, times, tol=1e-10)
    assert out.shape == integrals.shape == (2, 2, 60)
    for index in np.ndindex(2, 2):
        value, integral = exact(values, Q, r, times[index])
        np.testing.assert_allclose(out[index], value, atol=1e-9)
        np.testing.assert_allclose(integrals[index], integral, atol=1e-9)
    np.testing.assert_array_equal(out[0, 0], r)
    np.testing.assert_allclose(expm(op, r, times, tol=1e-10, size=7), out, atol=1e-9)


def test_null_modes_are_kept():
    values = np.array([0.0, 0.0, 1.0, 4.0])
    op, r = of.Gram(np.diag(np.sqrt(values))), np.ones(4)
    np.testing.assert_allclose(expm(op, r, 1e4), [1, 1, 0, 0], atol=1e-14)
    np.testing.assert_allclose(phi1(op, r, 1e4), [1e4, 1e4, 1, 0.25], atol=1e-10)  # t·ε·t·λ


def test_an_invariant_space_ends_the_recursion():
    op, r = of.Gram(np.outer(np.ones(30), [1.0])), np.arange(30.0)
    krylov = Krylov(op, r)
    assert krylov.reach(1e3, 1e-13)
    assert krylov.products <= 3 and krylov.exhausted


def test_zero_costs_nothing():
    op, _, _, r = problem()
    krylov = Krylov(op, 0 * r)
    assert krylov.reach(1.0, 1e-10) and krylov.products == 0
    assert not krylov.at(1.0).any() and not krylov.integral(1.0).any()
    assert Krylov(op, r).reach(0.0, 1e-10)
    np.testing.assert_array_equal(Krylov(op, r).at(0.0), r)


def test_a_shorter_time_needs_no_product():
    op, _, _, r = problem()
    krylov = Krylov(op, r)
    assert krylov.reach(1.0, 1e-8)
    spent = krylov.products
    assert krylov.reach(0.3, 1e-8) and krylov.products == spent


def test_float32_stays_float32_and_its_rounding_is_in_the_bound():
    _, values, Q, r = problem(40, top=5.0)
    op = of.Gram((Q * np.sqrt(values)).astype(np.float32))
    krylov = Krylov(op, r.astype(np.float32))
    assert krylov.reach(10.0, 1e-7)
    value = exact(values, Q, r, 10.0)[0]
    assert krylov.at(10.0).dtype == np.float32 == expm(op, r.astype(np.float32), [1.0]).dtype
    assert np.linalg.norm(krylov.at(10.0) - value) <= krylov.bound(10.0) < 1e-2 * krylov.norm


def test_more_products_than_vectors_when_restarted():
    op, _, _, r = problem()
    whole, cut = Krylov(op, r), Krylov(op, r, size=8)
    assert whole.reach(1.0, 1e-8) and not cut.reach(1.0, 1e-8)
    assert cut.products == 8
    assert 0 < cut.horizon(1e-8, 1.0) < 1.0


def conditioned(n, condition, seed=0):
    """A matrix that counts its products, its eigenvalues and vectors, r."""
    rng = np.random.default_rng(seed)
    Q, values = np.linalg.qr(rng.standard_normal((n, n)))[0], np.geomspace(1 / condition, 1, n)
    return Counting((Q * values) @ Q.T), values, Q, rng.standard_normal(n)


def test_a_long_time_is_served_by_one_space_rather_than_by_many():
    op, values, Q, r = conditioned(300, 1e12)
    out = expm(op, r, 1e7)
    assert sum(op.widths) <= 300
    assert np.linalg.norm(out - exact(values, Q, r, 1e7)[0]) <= 1e-8 * np.linalg.norm(r)


def test_a_time_out_of_reach_ends_with_a_warning():
    op, values, Q, r = conditioned(100, 1e12)
    with pytest.warns(ConvergenceWarning, match="30 spaces of 16 .* shorter time"):
        early, late = expm(op, r, [10.0, 1e12], size=16)
    assert sum(op.widths) == 480
    assert np.linalg.norm(early - exact(values, Q, r, 10.0)[0]) <= 1e-8 * np.linalg.norm(r)
    assert np.linalg.norm(late) <= np.linalg.norm(r)


def test_a_long_time_leaves_the_first_spaces_a_tolerance():
    op, values, Q, r = conditioned(100, 1e4)
    out = expm(op, r, 1e8, size=64)
    assert sum(op.widths) <= 1000
    assert np.linalg.norm(out - exact(values, Q, r, 1e8)[0]) <= 1e-8 * np.linalg.norm(r)


def test_there_is_an_end_to_the_spaces(monkeypatch):
    op, _, _, r = conditioned(100, 1e4)
    monkeypatch.setattr(exponential, "SPACES", 3)
    with pytest.warns(ConvergenceWarning, match="3 spaces of 16"):
        phi(op, r, 100.0, 2, size=16)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"t": -1.0}, ValueError, "not negative"),
        ({"t": np.inf}, ValueError, "finite"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"size": 1}, ValueError, "size"),
        ({"r": np.ones(3)}, ValueError, "shape"),
        ({"r": np.ones(4) * 1j}, TypeError, "complex128"),
        ({"r": ["1", "2", "3", "4"]}, TypeError, "text"),
        ({"r": np.full(4, np.nan)}, ValueError, "NaN"),
        ({"op": -of.Gram(np.eye(4))}, ValueError, "PSD"),
        ({"op": of.Matrix(np.triu(np.ones((4, 4))))}, ValueError, "symmetric"),
        ({"op": np.ones((4, 3))}, ValueError, "square"),
    ],
)
def test_what_does_not_fit_is_named(arguments, error, message):
    given = {"op": of.Gram(np.eye(4)), "r": np.ones(4), "t": 1.0} | arguments
    with pytest.raises(error, match=message):
        expm(given.pop("op"), given.pop("r"), given.pop("t"), **given)


# -- blocks and φ-functions -------------------------------------------------------------------


def in_eigenvectors(f, values, Q, r):
    """f(op) r, from the eigenvalues the operator was made of."""
    return Q @ (f(values) * (Q.T @ r).T).T


def block_like(r, Q, seed=1):
    """r beside a zero column, an eigenvector, its opposite scale and a random one."""
    rng = np.random.default_rng(seed)
    n = len(r)
    return np.stack([r, np.zeros(n), Q[:, -1], 1e-5 * r, rng.standard_normal(n)], axis=1)


@given(problems(), reaches, tolerances, st.sampled_from([6, 128]))
def test_a_block_is_its_columns(drawn, reach, tol, size):
    op, values, Q, r = drawn
    R, t = block_like(r, Q), min(reach, 3.0 if size == 6 else reach) / (values.max() or 1.0)
    allowed = (tol + 30 * rounding(values, t)) * np.linalg.norm(R, axis=0)
    value = in_eigenvectors(lambda x: np.exp(-t * x), values, Q, R)
    integral = in_eigenvectors(lambda x: integrated(x, t), values, Q, R)
    error = np.linalg.norm(expm(op, R, t, tol=tol, size=size) - value, axis=0)
    assert (error <= allowed).all()
    error = np.linalg.norm(phi1(op, R, t, tol=tol, size=size) - integral, axis=0)
    assert (error <= t * allowed).all()


@given(problems(), reaches, st.integers(1, 12))
def test_the_bounds_of_a_block_hold_for_every_column(drawn, reach, products):
    op, values, Q, r = drawn
    R, t = block_like(r, Q), reach / (values.max() or 1.0)
    krylov = Krylov(op, R)
    for _ in range(products):
        if not krylov.exhausted:
            krylov.grow()
    times = np.array([t, 0.1 * t])
    assert krylov.bound(times).shape == (2, 5)
    for bound, out, integral, t in zip(
        krylov.bound(times), krylov.at(times), krylov.integral(times), times, strict=True
    ):
        value = in_eigenvectors(lambda x, t=t: np.exp(-t * x), values, Q, R)
        exact_integral = in_eigenvectors(lambda x, t=t: integrated(x, t), values, Q, R)
        assert (np.linalg.norm(out - value, axis=0) <= bound).all()
        assert (np.linalg.norm(integral - exact_integral, axis=0) <= t * bound).all()


def test_a_short_integral_is_exact_to_its_rounding_at_any_size():
    errors = []
    for seed in range(100):
        op, _, _, r = problem(40, 1e-3, seed)
        flow, t = Krylov(op, r), 1e-6
        while not flow.exhausted:
            flow.grow()
        errors.append(np.linalg.norm(flow.integral(t) - t * (r - t / 2 * (op @ r))))
        assert errors[-1] <= t * flow.bound(t)
    assert max(errors) <= 8 * np.finfo(float).eps * t * np.linalg.norm(r)


class Counting(of.Matrix):
    """A matrix that notes the widths of its products."""

    def __init__(self, data):
        super().__init__(data, psd=True)
        self.widths = []

    def _matmat(self, X):
        self.widths.append(X.shape[1])
        return super()._matmat(X)


def test_a_block_is_multiplied_as_one_and_settled_columns_no_more():
    op, _, Q, r = problem()
    counting = Counting(op.todense())
    easy = Q[:, :1] + Q[:, 1:2]
    krylov = Krylov(counting, np.concatenate([r[:, None], easy, 0 * easy, -r[:, None]], axis=1))
    assert krylov.reach(1.0, 1e-8)
    assert counting.widths[0] == 3 and counting.widths[-1] == 2
    assert sum(counting.widths) == krylov.products < 100
    assert len(counting.widths) <= 45


@given(problems(), reaches, st.integers(0, 6), st.sampled_from([7, 128]))
def test_phi_functions_of_every_order(drawn, reach, order, size):
    op, values, Q, r = drawn
    t = min(reach, 3.0 if size == 7 else reach) / (values.max() or 1.0)
    times = np.array([[0.0, t], [0.3 * t, 0.01 * t]])
    out = phi(op, r, times, order, tol=1e-9, size=size)
    assert out.shape == (2, 2, len(r))
    allowed = (1e-9 + 30 * rounding(values, t)) * np.linalg.norm(r) / math.factorial(order)
    for index in np.ndindex(2, 2):
        value = in_eigenvectors(lambda x, t=times[index]: phi_values(order, t * x), values, Q, r)
        assert np.linalg.norm(out[index] - value) <= allowed


@pytest.mark.parametrize("order", [0, 1, 3, 4])
def test_phi_functions_of_a_block_survive_restarts(order):
    op, values, Q, r = problem()
    R, times = block_like(r, Q), np.array([1.0, 0.6])
    counting = Counting(op.todense())
    out = phi(counting, R, times, order, tol=1e-10, size=8)
    assert len(counting.widths) > 40  # of several spaces
    for got, t in zip(out, times, strict=True):
        value = in_eigenvectors(lambda x, t=t: phi_values(order, t * x), values, Q, R)
        allowed = 1e-10 * np.linalg.norm(R, axis=0) / math.factorial(order) + 1e-13
        assert (np.linalg.norm(got - value, axis=0) <= allowed).all()


def test_the_bound_holds_for_columns_whose_spaces_are_shorter():
    op, values, Q, r = problem()
    krylov = Krylov(op, np.stack([r, r[::-1]], axis=1))
    for m in range(30):
        krylov.grow(np.array([m < 6, True]))
    error = krylov.at(0.1) - in_eigenvectors(
        lambda x: np.exp(-0.1 * x), values, Q, np.stack([r, r[::-1]], axis=1)
    )
    short, long = np.linalg.norm(error, axis=0)
    assert long < 1e-9 < 1e-3 < short <= krylov.bound(0.1)[0]


def test_phi_values_have_full_relative_accuracy():
    mpmath = pytest.importorskip("mpmath")
    for order in range(9):
        for x in np.geomspace(1e-12, 600, 60):
            want = mpmath.hyp1f1(1, order + 1, -mpmath.mpf(float(x))) / mpmath.factorial(order)
            assert abs(float(phi_values(order, x) / want - 1)) < 2e-15
        assert phi_values(order, 0.0) == pytest.approx(1 / math.factorial(order), rel=1e-15)


def test_phi_functions_solve_their_equation():
    op, _, _, r = problem(20, top=3.0)
    t, h = 0.7, 1e-4
    x = [s**2 * phi(op, r, s, 2, tol=1e-14) for s in (t - h, t, t + h)]
    np.testing.assert_allclose((x[2] - x[0]) / (2 * h), -(op @ x[1]) + t * r, atol=1e-7)


def test_no_time_is_the_identity_for_blocks_too():
    op, _, Q, r = problem()
    R = block_like(r, Q)
    np.testing.assert_array_equal(expm(op, R, 0.0), R)
    np.testing.assert_array_equal(expm(op, R, [0.0, 1.0])[0], R)
    assert expm(op, R.astype(np.float64), np.zeros((0, 2))).shape == (0, 2, 60, 5)


def test_null_vectors_do_not_move_at_all():
    op = of.Gram(np.diag([0.0, 0.0, 1.0, 2.0]))
    r = np.array([3.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(expm(op, r, 1e6)[:2], [3.0, -1.0], rtol=1e-15)
    np.testing.assert_array_equal(expm(op, np.array([3.0, -1.0, 0, 0]), 1e9), [3.0, -1.0, 0, 0])


# -- inverse, square root, any function -------------------------------------------------------


def space_bounds(monkeypatch, function, *arguments, **options):
    """What a function returns, and the error it claims: of the judgement it stopped at."""
    claimed = []
    judged = matrix_functions._by_lanczos

    def spying(op, r, judge, *rest, **kw):
        def noted(*given):
            claimed.append(judge(*given))
            return claimed[-1]

        return judged(op, r, noted, *rest, **kw)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        patch.setattr(matrix_functions, "_by_lanczos", spying)
        out = function(*arguments, **options)
    if not claimed:  # r = 0
        return out, 0.0
    values, error, rounding = claimed[-1]
    return out, float(((error + rounding) * np.abs(values).max(axis=1))[0])


sizes = st.integers(2, 45)


@given(problems(), sizes)
def test_the_bound_of_the_square_root_holds_in_every_space(drawn, size):
    op, values, Q, r = drawn
    with pytest.MonkeyPatch.context() as patch:
        out, bound = space_bounds(patch, sqrtm, op, r, tol=1e-12, size=size)
    value = in_eigenvectors(np.sqrt, values, Q, r)
    assert np.linalg.norm(out - value) <= bound * np.linalg.norm(r)


@given(problems(), tolerances)
def test_square_roots_of_blocks_meet_their_tolerance(drawn, tol):
    op, values, Q, r = drawn
    top, R, eps = values.max() or 1.0, block_like(r, Q), np.finfo(float).eps
    norms = np.linalg.norm(R, axis=0)
    value = in_eigenvectors(np.sqrt, values, Q, R)
    error = np.linalg.norm(sqrtm(op, R, tol=tol) - value, axis=0)
    assert (error <= (tol + 20 * eps**0.5) * top**0.5 * norms).all()


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_the_bound_of_the_square_root_is_of_use(monkeypatch, tol):
    _, values, Q, r = problem(200)
    op = of.Matrix((Q * values) @ Q.T, psd=True)
    out, bound = space_bounds(monkeypatch, sqrtm, op, r, tol=tol)
    error = np.linalg.norm(out - in_eigenvectors(np.sqrt, values, Q, r)) / np.linalg.norm(r)
    assert 0.002 * bound < error <= bound <= tol * values.max() ** 0.5


@given(problems(), st.sampled_from(["cos", "power", "step"]))
def test_any_function_of_a_block(drawn, name):
    op, values, Q, r = drawn
    top = values.max() or 1.0
    f = {
        "cos": lambda x: np.cos(x / top),
        "power": lambda x: (x / top) ** 3,
        "step": lambda x: 1 / (1 + np.exp(-20 * (x / top - 0.5))),
    }[name]
    R = block_like(r, Q)
    error = np.linalg.norm(funm(op, f, R, tol=1e-10) - in_eigenvectors(f, values, Q, R), axis=0)
    assert (error <= 1e-8 * np.linalg.norm(R, axis=0)).all()


def test_a_smooth_function_stops_long_before_the_whole_space():
    _, values, Q, r = problem(200)
    counting = Counting((Q * values) @ Q.T)
    out = funm(counting, lambda x: np.cos(x / 50), r)
    assert len(counting.widths) <= 20
    error = np.linalg.norm(out - in_eigenvectors(lambda x: np.cos(x / 50), values, Q, r))
    assert error < 1e-8 * np.linalg.norm(r)


def test_an_eigenvector_beside_others_ends_its_space_and_does_no_harm():
    op, values, Q, r = problem(40)
    R = np.stack([Q[:, 3], r, np.zeros(40)], axis=1)
    value = in_eigenvectors(lambda x: 1 / x, values, Q, R)
    np.testing.assert_allclose(funm(op, np.reciprocal, R, tol=1e-12), value, atol=1e-10)


def test_functions_of_an_indefinite_operator():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((30, 30))
    A += A.T
    np.testing.assert_allclose(
        funm(A, lambda x: x**2 - x, np.ones(30)), A @ A.sum(1) - A.sum(1), atol=1e-10
    )


def test_a_polynomial_is_exact_in_as_many_vectors_as_its_degree_needs():
    op, values, Q, r = problem()
    with pytest.warns(ConvergenceWarning, match="size"):
        out = funm(op, lambda x: (x / 50) ** 4, r, size=5)
    np.testing.assert_allclose(
        out, in_eigenvectors(lambda x: (x / 50) ** 4, values, Q, r), atol=1e-12
    )


def test_what_did_not_converge_says_so():
    values = np.geomspace(1e-10, 1, 300)
    op, r = of.Gram(np.diag(values**0.5)), np.ones(300)
    with pytest.warns(ConvergenceWarning, match=r"sqrtm: with 20 vectors 1 of 2 columns"):
        sqrtm(op, np.stack([r, np.eye(300)[0]], axis=1), size=20)
    with pytest.warns(ConvergenceWarning, match="funm"):
        funm(op, np.sqrt, r, size=20)


def laplacian(n):
    values = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    index = np.arange(1, n + 1)
    Q = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(index, index) / (n + 1))
    return of.Matrix(2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1), symmetric=True), values, Q


BUMPS = {
    "bump": lambda x: np.exp(-(((x - 2) / 0.01) ** 2)),
    "end": lambda x: 1.0 * (x > 3.9),
    "start": lambda x: 1.0 * (x < 0.05),
    "kink": lambda x: np.abs(x - 1.3),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", BUMPS)
@pytest.mark.parametrize("start", ["unit", "random"])
def test_what_the_ritz_values_miss_of_a_function_is_seen(name, start):
    op, _, _ = laplacian(600)
    r = np.eye(600)[0] if start == "unit" else np.random.default_rng(0).standard_normal(600)
    with pytest.warns(ConvergenceWarning, match="funm: with 128 vectors"):
        funm(op, BUMPS[name], r, tol=1e-6)


@given(problems(), st.sampled_from(["cos", "step", "bump", "root"]), sizes)
def test_the_bound_of_any_function_holds_in_every_space(drawn, name, size):
    op, values, Q, r = drawn
    top = values.max() or 1.0
    f = {
        "cos": lambda x: np.cos(9 * x / top),
        "step": lambda x: 1 / (1 + np.exp(-20 * (x / top - 0.5))),
        "bump": lambda x: np.exp(-((20 * (x / top - 0.4)) ** 2)),
        "root": lambda x: np.sqrt(x / top),
    }[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = funm(op, f, r, tol=1e-3, size=size)
    error = np.linalg.norm(out - in_eigenvectors(f, values, Q, r))
    assert caught or error <= (1e-3 + 1e-7 * (name == "root")) * np.linalg.norm(r)


@pytest.mark.parametrize("f", [lambda x: np.exp(-x), lambda x: np.cos(5 * x), np.square])
def test_the_bound_of_a_smooth_function_is_of_use(monkeypatch, f):
    op, values, Q = laplacian(600)
    r = np.random.default_rng(0).standard_normal(600)
    out, bound = space_bounds(monkeypatch, funm, op, f, r, tol=1e-6)
    error = np.linalg.norm(out - in_eigenvectors(f, values, Q, r)) / np.linalg.norm(r)
    assert error <= bound + 1e-12 and bound <= max(100 * error, 1e-12)


def test_the_square_root_of_a_singular_operator():
    op = of.Gram(np.diag([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(sqrtm(op, np.array([1.0, 0, 0])), np.zeros(3))
    np.testing.assert_array_equal(sqrtm(of.Zero(3), np.ones(3)), np.zeros(3))
    assert sqrtm(np.array([[4.0]]), np.ones(1))[0] == 2


@pytest.mark.parametrize("function", [sqrtm, lambda op, r: funm(op, np.cos, r)])
def test_functions_of_float32_stay_float32(function):
    _, values, Q, r = problem(40, top=5.0)
    op = of.Gram((Q * np.sqrt(values)).astype(np.float32))
    R = np.stack([r, r[::-1]], axis=1).astype(np.float32)
    out = function(op, R)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, function(op.astype(np.float64), R.astype(float)), atol=2e-4)


@pytest.mark.parametrize(
    "function",
    [
        sqrtm,
        lambda op, r: funm(op, np.cos, r),
        lambda op, r: phi(op, r, 0.1, 2, size=8),
        lambda op, r: phi1(op, r, 0.1),
        lambda op, r: (flow := Krylov(op, r)).reach(0.1, 1e-8) and flow.at(0.1),
        lambda op, r: of.spectral.lanczos(op, 3, r)[2],
    ],
)
def test_sequences_and_float32_are_computed_with_in_the_operators_dtype(function):
    op, _, _, r = problem(20)
    r = r.astype(np.float32)
    out = function(op, r)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, function(op, r.astype(np.float64)))
    np.testing.assert_array_equal(out, function(op, r.tolist()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sqrtm(-np.eye(3), np.ones(3)), ValueError, "PSD"),
        (lambda: sqrtm(np.eye(3), np.ones(4)), ValueError, "shape"),
        (lambda: sqrtm(np.eye(3), np.ones((3, 1, 1))), ValueError, "vector"),
        (lambda: sqrtm(np.eye(3), np.ones(3), size=0), ValueError, "size"),
        (lambda: sqrtm(np.eye(3), np.ones(3), tol=-1), ValueError, "tol"),
        (lambda: funm(np.zeros((3, 3)), np.reciprocal, np.ones(3)), ValueError, "f is not finite"),
        (lambda: funm(np.eye(3), lambda x: 1.0, np.ones(3)), ValueError, "shape"),
        (lambda: funm(np.diag([1.0, np.inf]), np.cos, np.ones(2)), ValueError, "NaN or inf"),
        (lambda: phi(np.eye(3), np.ones(3), 1.0, -1), ValueError, "order"),
        (lambda: phi(np.eye(3), np.ones(3), 1.0, 1.5), TypeError, "order"),
        (lambda: sqrtm(np.eye(3), np.ones(3, np.longdouble)), TypeError, "no other precision"),
        (lambda: funm(np.eye(3), lambda x: np.exp(1j * x), np.ones(3)), TypeError, "complex128"),
        (lambda: of.spectral.lanczos(np.eye(2), 2, np.array([1j, 1])), TypeError, "v must be"),
        (lambda: of.spectral.lanczos(np.eye(2), 2, [1.0, 2.0, 3.0]), ValueError, "v has shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_does_not_fit_a_function_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -- the recursion ----------------------------------------------------------------------------


@given(problems(), st.integers(1, 12))
def test_every_space_of_a_block_is_a_lanczos_space(drawn, steps):
    op, values, Q, r = drawn
    R = block_like(r, Q)
    space = Recursion(op, R, 128)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        space.grow(rng.random(5) < 0.7)
    if not space.counts.any():
        return
    alpha, beta = space.tridiagonal()
    eps, top = np.finfo(float).eps, values.max()
    for j, m in enumerate(space.counts):
        V = space._basis[j, :m].T
        np.testing.assert_allclose(V.T @ V, np.eye(m), atol=100 * eps * len(r) ** 0.5)
        off = beta[j, : max(m - 1, 0)]
        T = (
            np.diag(alpha[j])
            if not m
            else np.diag(alpha[j, :m]) + np.diag(off, 1) + np.diag(off, -1)
        )
        np.testing.assert_allclose(
            V.T @ op.matmat(V), T[:m, :m], atol=1e3 * eps * len(r) ** 0.5 * top
        )
    assert space.products == space.counts.sum()


@pytest.mark.parametrize(("dtype", "t"), [(np.float32, 1e6), (np.float64, 1e15)])
def test_null_vectors_are_kept_at_all_times(dtype, t):
    """What a kernel cannot move stays: rounding of a zero eigenvalue is not a rate."""
    rng = np.random.default_rng(0)
    F, r = rng.standard_normal((400, 24)).astype(dtype), rng.standard_normal(400).astype(dtype)
    Q = np.linalg.qr(F.astype(np.float64))[0]
    kept = r - Q @ (Q.T @ r)
    rounding = 100 * np.finfo(dtype).eps * np.linalg.norm(r)
    G = of.Gram(F)
    assert np.linalg.norm(expm(G, r, t) - kept) <= rounding
    assert np.linalg.norm(phi1(G, r, t) / t - kept) <= rounding + np.linalg.norm(r) / t
    flow = Krylov(G, r)
    assert flow.reach(t, 1e-3) and np.linalg.norm(flow.at(t) - kept) <= rounding
