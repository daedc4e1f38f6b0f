import math

import numpy as np
import pylops
import pytest
import scipy.sparse as sp
from hypothesis import example, given
from hypothesis import strategies as st

import opflow as of
from opflow.machine import workspace
from opflow.spectral.checks import ConvergenceWarning
from opflow.spectral.krylov.lanczos import extremes
from opflow.spectral.traces.norms import (
    condition_number,
    frobenius_norm,
    norm,
    participation_ratio,
)
from opflow.spectral.traces.structure import diagonal_cost, entries_norm, inner_products, is_cheaper
from opflow.spectral.traces.trace import diagonal, trace
from tests.spectral.products import Products, large, rotated  # noqa: F401

SPECTRA = {
    "spread": lambda n, rng: rng.uniform(0, 3, n),
    "repeated": lambda n, rng: rng.choice([0.5, 2.0, 3.0], n),
    "zeros": lambda n, rng: np.where(np.arange(n) % 2, 0.0, rng.uniform(1, 3, n)),
    "clustered": lambda n, rng: 1 + 1e-12 * rng.standard_normal(n),
    "conditioned": lambda n, rng: np.geomspace(1e-12, 1, n),
    "rank one": lambda n, rng: np.eye(1, n)[0],
    "zero": lambda n, rng: np.zeros(n),
    "indefinite": lambda n, rng: rng.standard_normal(n),
}


@st.composite
def matrices(draw):
    n, dtype = draw(st.integers(1, 40)), draw(st.sampled_from([np.float32, np.float64]))
    seed = draw(st.integers(0, 2**32 - 1))
    values = SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))](n, np.random.default_rng(seed))
    return rotated(values, seed, dtype)


def close(got, want, A):
    """To the rounding of `n` sums of entries as large as those of A."""
    eps = np.finfo(A.dtype).eps
    return abs(got - want) <= 10 * A.shape[0] * eps * (abs(want) + np.linalg.norm(A))


@given(matrices(), st.sampled_from(["matrix", "sparse", "external", "products"]))
def test_scalars_agree_with_lapack(A, kind):
    op = {
        "matrix": lambda: A,
        "sparse": lambda: sp.csr_matrix(A),
        "external": lambda: pylops.MatrixMult(A, dtype=A.dtype),
        "products": lambda: Products(A),
    }[kind]()
    B = A.astype(np.float64)
    values = np.linalg.eigvalsh(B)
    n, eps = len(B), np.finfo(A.dtype).eps
    found = trace(op), frobenius_norm(op), norm(op), participation_ratio(op)
    assert all(x.exact and x.low == x == x.high for x in found)
    assert close(found[0], values.sum(), A)
    assert close(found[1], np.linalg.norm(values), A)
    assert close(found[2], np.abs(values).max(), A)
    square = np.square(values).sum()
    ratio = values.sum() ** 2 / square if square else 0.0
    assert abs(found[3] - ratio) <= 30 * n**1.5 * eps * (1 + n**0.5 * math.sqrt(ratio))
    np.testing.assert_allclose(diagonal(op).values, np.diag(A), atol=10 * n * eps * np.abs(B).max())
    sizes = np.abs(values)
    condition = condition_number(op)
    if sizes.min() <= 0.1 * n * eps * sizes.max():
        assert condition == math.inf
    elif sizes.min() > 10 * n * eps * sizes.max():
        allowed = 10 * n * eps * sizes.max() / sizes.min()
        assert abs(condition * sizes.min() / sizes.max() - 1) <= allowed


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([32, 400, 8 << 20]),
    st.integers(0, 2**32 - 1),
)
@example(8, 3, True, 400, 0)
def test_norms_of_structure(n, width, weighted, budget, seed):
    rng = np.random.default_rng(seed)
    F, w = rng.standard_normal((n, width)), rng.standard_normal(width) if weighted else None
    H = rng.standard_normal((n, 3))
    gram, other = of.Gram(F, w), of.Gram(H)
    K, B = (F if w is None else F * w) @ F.T, H @ H.T
    references = [
        (gram, K),
        (-2 * gram, -2 * K),
        (of.Hadamard(gram, other), K * B),
        (gram + 0.5 * of.Identity(n), K + 0.5 * np.eye(n)),
        (of.GramVelocity(H, H[::-1].copy()), H @ H[::-1].T + H[::-1] @ H.T),
        (of.Gram(sp.csr_matrix(F), w), K),
    ]
    kept, workspace.WORKSPACE = workspace.WORKSPACE, budget
    try:
        for op, dense in references:
            want = np.linalg.norm(dense)
            assert abs(entries_norm(op, 30)[0] - want) <= 1e-13 * (n + width) * (want + 1)
        G, units = inner_products([gram, other], change=True)
        G *= np.outer(units, units)
    finally:
        workspace.WORKSPACE = kept
    want = np.array([[np.sum(a * b) for b in (K, B - K)] for a in (K, B - K)])
    np.testing.assert_allclose(G, want, atol=1e-13 * n * width * (1 + np.abs(want).max()))


def test_a_kernel_with_duplicates_and_dead_units():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 4))
    X[6:] = X[:6]
    W = rng.standard_normal((5, 4))
    W[0] = 0
    fields = of.ReLUNetwork([W], rng.standard_normal((2, 5))).fields(X)
    K = of.collective_kernel(fields)
    values = np.linalg.eigvalsh(K.todense())
    assert condition_number(K) == math.inf
    assert np.isclose(norm(K), values[-1], rtol=1e-13)
    assert np.isclose(frobenius_norm(K), np.linalg.norm(values), rtol=1e-13)
    assert np.isclose(trace(K), values.sum(), rtol=1e-13)
    assert np.isclose(condition_number(K, 0.5), (values[-1] + 0.5) / 0.5, rtol=1e-12)


def test_which_diagonals_are_structural():
    rng = np.random.default_rng(0)
    n = 2000
    F = rng.standard_normal((n, 30))
    fields = of.ReLUNetwork.random([30, 20, 10], seed=0).fields(F)
    cheap = [
        of.Gram(F),
        of.Gram(sp.random(n, 50, 0.1, format="csr", random_state=0)),
        of.Hadamard(of.Gram(F), of.Gram(F)),
        of.Gram(F) + 0.1 * of.Identity(n),
        of.collective_kernel(fields),
        of.collective_kernel(fields, route="transport"),
        of.Mask(F[:, 0] > 0),
        of.SampleLift(of.Gram(F[:20]), 100) + of.Gram(F),
    ]
    D = of.as_operator(pylops.FirstDerivative(n, dtype="float64"))
    G = of.Gram(F)
    dear = [D.T @ D, G @ G, 2 * (D.T @ D) + of.Identity(n)]
    assert [is_cheaper(diagonal_cost(op), op, 60) for op in cheap] == [True] * len(cheap)
    assert [is_cheaper(diagonal_cost(op), op, 60) for op in dear] == [False] * len(dear)
    found = [trace(op) for op in cheap + dear]
    assert [x.exact for x in found] == [True] * len(cheap) + [False] * len(dear)
    assert [x.products for x in found] == [0] * len(cheap) + [60] * len(dear)
    assert trace(D.T @ D, how="exact").products == n
    assert [x.how for x in found[-3:]] == ["XNysTrace", "XNysTrace", "XNysTrace"]
    assert trace(dear[0] - of.Identity(n)).how == "XTrace"


def test_the_norm_of_a_kernel_is_exact_where_its_entries_are_cheap():
    rng = np.random.default_rng(0)
    fields = of.ReLUNetwork.random([100, 300], seed=0).fields(rng.standard_normal((1200, 100)))
    K = of.collective_kernel(fields)
    found = frobenius_norm(K)
    assert found.exact and np.isclose(found, np.linalg.norm(K.todense()), rtol=1e-12)
    slim = of.Gram(rng.standard_normal((100_000, 3)))
    assert frobenius_norm(slim).exact  # 3 x 3 entries, where N x N would be 80 GB
    many = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(rng.standard_normal((20_000, 3)))
    found = frobenius_norm(of.collective_kernel(many), products=30)
    assert (found.how, found.products) == ("XNysTrace", 30)


SAMPLED = {
    "slow": 0.93 ** np.arange(60),
    "few": np.where(np.arange(60) < 17, 1.0, 1e-3),
    "power": 1.0 / np.arange(1, 61) ** 2,
}


@pytest.mark.thorough
@pytest.mark.parametrize("spectrum", SAMPLED)
def test_estimated_norms_and_ratios_cover(spectrum, large):  # noqa: F811
    values = SAMPLED[spectrum]
    op = Products(rotated(values), psd=True)
    size = np.linalg.norm(values)
    found = [frobenius_norm(op, products=30, rng=seed) for seed in range(1000)]
    assert not found[0].exact and found[0].products == 30
    assert np.mean([x.low <= size <= x.high for x in found]) >= 0.93
    if spectrum != "few":
        return
    truth = values.sum() ** 2 / size**2
    found = [participation_ratio(op, products=30, rng=seed) for seed in range(1000)]
    assert np.mean([x.low <= truth <= x.high for x in found]) >= 0.93
    assert found[0].products == 60


TOPS = {
    "decaying": 0.9 ** np.arange(60),
    "even": np.linspace(0, 1, 60),
    "gap": np.r_[np.linspace(0, 1, 59), 3],
    "indefinite": np.linspace(-1, 0.9, 60),
}


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::opflow.spectral.checks.ConvergenceWarning")
@pytest.mark.parametrize("products", [2, 5, 12])
@pytest.mark.parametrize("spectrum", TOPS)
def test_bounds_of_the_norm_hold(spectrum, products, large):  # noqa: F811
    values = TOPS[spectrum]
    op, truth = Products(rotated(values)), np.abs(values).max()
    seeds = 1000 if products == 5 else 100
    found = [norm(op, products=products, rng=seed) for seed in range(seeds)]
    assert all(x.low <= truth * (1 + 1e-13) for x in found)
    assert np.mean([truth <= x.high for x in found]) >= 0.93
    if products == 12:
        assert np.median([x.high / x.low for x in found]) < 1.2


def test_the_bound_is_not_idle(large):  # noqa: F811
    """A start that has next to nothing of the top vector breaks it, as 5 % of them may."""
    values = TOPS["gap"]
    op = Products(rotated(values), psd=True)
    missed = [extremes(op, 5, seed).ceiling < 3 for seed in range(1000)]
    assert 0 < np.mean(missed) <= 0.07


def test_the_norm_is_capped_by_what_is_known(large):  # noqa: F811
    op = of.Gram(np.random.default_rng(0).standard_normal((60, 3)))
    with pytest.warns(ConvergenceWarning, match="Lanczos, not converged after 2 products"):
        found = norm(op, products=2)
    assert found.how == "Lanczos, not converged"
    assert found.high <= float(frobenius_norm(op)) * (1 + 1e-12)
    assert not found.exact


@pytest.mark.filterwarnings("ignore::opflow.spectral.checks.ConvergenceWarning")
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_condition_numbers_beyond_lapack(shift, large):  # noqa: F811
    values = np.linspace(0.5, 1, 60)
    op = Products(rotated(values), psd=True)
    truth = (1 + shift) / (0.5 + shift)
    found = [condition_number(op, shift, products=12, rng=seed) for seed in range(300)]
    assert all(x <= truth * (1 + 1e-12) for x in found)
    assert np.mean([truth <= x.high for x in found]) >= 0.93
    assert np.median([x.high for x in found]) < 1.3 * truth
    narrow = of.Gram(np.random.default_rng(0).standard_normal((60, 3)))
    top = norm(narrow, products=10)
    if shift:
        assert np.isclose(condition_number(narrow, shift), (top + shift) / shift)
    else:
        found = condition_number(narrow)
        assert found == math.inf and found.exact
    with pytest.raises(ValueError, match="must be known to be PSD"):
        condition_number(Products(rotated(values)))


def test_signed_weights_may_cancel():
    F = np.random.default_rng(0).standard_normal((2000, 3))
    op = of.Gram(np.hstack([F, F]), np.repeat([1.0, -1.0], 3))
    assert frobenius_norm(op) <= 1e-14 * np.linalg.norm(F) ** 2
    w = np.array([1.0, -2.0, 0.5])
    assert np.isclose(frobenius_norm(of.Gram(F, w)), np.linalg.norm((F * w) @ F.T), rtol=1e-13)
    near = of.Gram(np.hstack([F, F]), np.r_[np.ones(3), -np.ones(3) * (1 - 1e-10)])
    want = 1e-10 * np.linalg.norm(F @ F.T)
    assert abs(frobenius_norm(near) - want) <= 1e-14 * np.linalg.norm(F) ** 2
    assert abs(participation_ratio(near) * want**2 / (1e-10 * np.sum(F**2)) ** 2 - 1) < 1e-3


def test_condition_numbers_next_to_singular():
    A = rotated(np.geomspace(1e-5, 1, 400), dtype=np.float32)
    values = np.linalg.eigvalsh(A.astype(np.float64))
    found = condition_number(A)
    assert found.exact and np.isclose(found, values[-1] / values[0], rtol=1e-6)
    found = condition_number(rotated(np.r_[0.0, np.ones(99)]))
    assert found == found.high == math.inf and 1e14 < found.low < 1e15 and not found.exact
    known = of.Gram(np.random.default_rng(0).standard_normal((9, 3)))
    assert condition_number(known) == math.inf and condition_number(known).exact
    assert np.isclose(condition_number(known, 1e-18), 1e18 * norm(known))


def test_a_zero_that_structure_proves_costs_nothing():
    def fail(*_):
        raise AssertionError("a product was spent")

    op = of.Gram(np.random.default_rng(0).standard_normal((2000, 3)))
    op._matmat = fail
    assert condition_number(op) == math.inf


def test_condition_numbers_of_large_orders_are_bounded_from_below(large):  # noqa: F811
    op = Products(rotated(np.r_[0.0, np.linspace(1, 2, 40)]), psd=True)
    with pytest.warns(ConvergenceWarning, match="and inf; increase products"):
        found = condition_number(op)
    assert found == math.inf and 1e14 < found.low < 1e16 and "not converged" in found.how


def test_largest_eigenvalue_knows_whether_it_converged():
    op = of.Matrix(sp.diags_array(np.linspace(0, 1, 5000)).tocsr(), symmetric=True)
    rough = of.spectral.largest_eigenvalue(op, tol=1e-8, steps=5)
    assert not rough.converged and rough.bound > 1e-8
    assert of.spectral.largest_eigenvalue(op).converged
    assert of.spectral.largest_eigenvalue(of.Zero(3)).converged
    with pytest.warns(ConvergenceWarning, match="increase products"):
        assert norm(op, products=5).how == "Lanczos, not converged"
    assert norm(op).how == "Lanczos"


def test_estimates_of_float32(large):  # noqa: F811
    values = 0.7 ** np.arange(200)
    op = Products(rotated(values, dtype=np.float32), psd=True)
    for found, truth in (
        (trace(op), values.sum()),
        (frobenius_norm(op), np.linalg.norm(values)),
        (norm(op), 1.0),
    ):
        assert not found.exact
        rounding = 10 * np.finfo(np.float32).eps * truth
        assert found.low - rounding <= truth <= found.high + rounding
        assert abs(found - truth) < 1e-4 * truth
    found = diagonal(op)
    assert found.values.dtype == np.float32 and found.how == "Diag++"


@pytest.mark.parametrize("spectrum", SAMPLED)
def test_estimated_diagonals_cover(spectrum, large):  # noqa: F811
    A = rotated(SAMPLED[spectrum])
    op = Products(A)
    found = [diagonal(op, products=30, rng=seed) for seed in range(100)]
    inside = [np.abs(x.values - np.diag(A)) <= x.errors for x in found]
    assert np.mean(inside) >= 0.93
    errors = np.array([x.values - np.diag(A) for x in found])
    assert (np.abs(errors.mean(axis=0)) <= 5 * errors.std(axis=0) / 10 + 1e-12).all()


@pytest.mark.parametrize(
    "call",
    [
        trace,
        diagonal,
        frobenius_norm,
        norm,
        condition_number,
        participation_ratio,
    ],
)
def test_what_is_refused(call):
    with pytest.raises(ValueError, match="op must be square"):
        call(np.ones((2, 3)))
    with pytest.raises(ValueError, match="op must be symmetric"):
        call(np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        call(of.Matrix(np.array([[np.nan, 0.0], [0.0, 1.0]]), symmetric=True))
    if call is condition_number:
        with pytest.raises(ValueError, match="shift must be finite and not negative"):
            call(np.eye(2), -1.0)
    else:
        with pytest.raises((ValueError, TypeError), match="products must be"):
            call(np.eye(2), products=1)


def test_ways_that_do_not_exist():
    with pytest.raises(ValueError, match="how must be one of 'exact', 'xtrace'"):
        trace(np.eye(3), how="guess")
    with pytest.raises(ValueError, match="known to be PSD"):
        trace(np.eye(3), how="xnystrace")
    with pytest.raises(ValueError, match="how must be 'exact' or 'diag"):
        diagonal(np.eye(3), how="guess")
