import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral import Krylov, expm, phi1
from opflow.spectral.functions import integrated

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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"t": -1.0}, ValueError, "not negative"),
        ({"t": np.inf}, ValueError, "finite"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"size": 1}, ValueError, "size"),
        ({"r": np.ones(3)}, ValueError, "shape"),
        ({"r": np.ones(4, np.float32)}, TypeError, "float32"),
        ({"op": -of.Gram(np.eye(4))}, ValueError, "PSD"),
    ],
)
def test_what_does_not_fit_is_named(arguments, error, message):
    given = {"op": of.Gram(np.eye(4)), "r": np.ones(4), "t": 1.0} | arguments
    with pytest.raises(error, match=message):
        expm(given.pop("op"), given.pop("r"), given.pop("t"), **given)
