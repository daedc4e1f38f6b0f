import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral.functions.preconditioners import Jacobi, Nystrom, jacobi, nystrom

SPECTRA = {
    "decaying": lambda n, rng: 0.6 ** np.arange(n),
    "zeros": lambda n, rng: np.where(np.arange(n) % 2, 0.0, rng.uniform(0.5, 3, n)),
    "clustered": lambda n, rng: 1 + 1e-9 * rng.standard_normal(n),
    "conditioned": lambda n, rng: np.geomspace(1e-12, 1, n),
    "rank one": lambda n, rng: np.eye(1, n)[0],
    "zero": lambda n, rng: np.zeros(n),
}


def operator(values, rng, dtype=np.float64):
    Q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return of.Gram((Q * np.sqrt(values)).astype(dtype))


@st.composite
def problems(draw):
    n, rng = draw(st.integers(1, 30)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))](n, rng)
    values = draw(st.sampled_from([1e-3, 1.0, 1e4])) * values
    return operator(values, rng), values


@given(problems(), st.integers(1, 40), st.sampled_from([0.0, 1e-3, 1.0]))
def test_a_nystrom_preconditioner_is_positive_definite(drawn, rank, shift):
    op, values = drawn
    P = nystrom(op, shift * values.max(), rank)
    spectrum = np.linalg.eigvalsh(P.todense())
    assert P.psd and P.dtype == op.dtype and P.shape == op.shape
    assert (spectrum > 0).all() and spectrum.max() <= 1 + 1e-12
    np.testing.assert_allclose(P.data.T @ P.data, np.eye(P.data.shape[1]), atol=1e-13)


@given(problems(), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_with_full_rank_it_inverts_up_to_a_factor(drawn, shift):
    op, values = drawn
    n, shift = len(values), shift * (values.max() or 1.0)
    both = nystrom(op, shift, n).todense() @ (op.todense() + shift * np.eye(n))
    spectrum = np.linalg.eigvals(both).real
    assert spectrum.max() / spectrum.min() < 1 + 1e-9 / shift


def test_the_condition_number_is_small_beyond_the_effective_dimension():
    rng = np.random.default_rng(0)
    values, shift = np.geomspace(1, 1e-10, 300), 1e-6
    op = operator(values, rng)
    dimension = (values / (values + shift)).sum()
    A = op.todense() + shift * np.eye(300)

    def condition(rank):
        half = np.linalg.cholesky(nystrom(op, shift, rank).todense())
        spectrum = np.linalg.eigvalsh(half.T @ A @ half)
        return spectrum[-1] / spectrum[0]

    assert np.linalg.cond(A) > 9e5
    assert condition(int(2 * dimension) + 1) < 28  # their theorem, which holds in expectation
    assert condition(260) < 1.1
    assert condition(60) > 100


def test_an_exhausted_sketch_knows_the_rest_to_be_the_shift():
    op = operator(np.where(np.arange(50) < 5, 1.0 + np.arange(50), 0.0), np.random.default_rng(0))
    both = nystrom(op, 1e-3, 20).todense() @ (op.todense() + 1e-3 * np.eye(50))
    np.testing.assert_allclose(both, 1e-3 * np.eye(50), atol=1e-10)


def test_nystrom_in_float32_is_good_to_its_rounding():
    values, shift = np.geomspace(1, 1e-10, 200), 1e-3
    op = operator(values, np.random.default_rng(0), np.float32)
    P = nystrom(op, shift, 120)
    assert P.dtype == np.float32
    half = np.linalg.cholesky(P.todense().astype(float))
    A = op.todense().astype(float) + shift * np.eye(200)
    assert np.linalg.cond(half.T @ A @ half) < 1.1


def test_jacobi_is_the_inverse_of_the_exact_diagonal():
    F = np.random.default_rng(0).standard_normal((30, 4))
    F[7] = 0
    op = of.Gram(F)
    np.testing.assert_allclose(jacobi(op, 0.5).diagonal(), 1 / ((F**2).sum(1) + 0.5), rtol=1e-14)
    assert jacobi(op).diagonal()[7] == 1 and jacobi(op).psd
    assert jacobi(of.Gram(F.astype(np.float32)), 0.5).dtype == np.float32


def test_costs_are_those_of_the_products():
    assert Nystrom(np.eye(9, 4), np.zeros(4)).cost(3).flops == 4 * 9 * 4 * 3
    assert Jacobi(np.ones(9)).cost(3).flops == 27


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nystrom(np.eye(3), -1.0), ValueError, "shift"),
        (lambda: nystrom(np.eye(3), 1.0, 0), ValueError, "rank"),
        (lambda: nystrom(np.eye(3), 1.0, 2.5), TypeError, "rank"),
        (lambda: nystrom(-np.eye(3), 1.0, 3), ValueError, "PSD"),
        (lambda: nystrom(np.ones((3, 2)), 1.0), ValueError, "square"),
        (lambda: nystrom(np.full((2, 2), np.nan), 1.0), ValueError, "NaN"),
        (lambda: jacobi(-np.eye(3), 2.0), ValueError, "PSD"),
        (lambda: jacobi(np.eye(3), np.inf), ValueError, "shift"),
        (lambda: Jacobi(np.array([-1.0])), ValueError, "negative"),
        (lambda: Jacobi(np.eye(2)), ValueError, "vector"),
        (lambda: Nystrom(np.eye(2), np.zeros(3)), ValueError, "weights"),
        (lambda: Nystrom(np.eye(2), np.array([0.0, -1.1])), ValueError, "-1"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
