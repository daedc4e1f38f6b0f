import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.operators.operator import Cost
from opflow.spectral.checks import ConvergenceWarning
from opflow.spectral.density.probes import batched_lanczos
from opflow.spectral.density.quadrature import exact_rule, quadrature
from opflow.spectral.traces.exact import use_lapack
from tests.spectral.prescribed import SPECTRA, degenerate_kernel, prescribed, spectrum

names = st.sampled_from(sorted(SPECTRA))


def shifted_log(x):
    return np.log(np.maximum(x, 0.0) + 1e-2)


@given(names, st.integers(1, 30), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_each_row_integrates_polynomials_on_its_own_vector(name, n, steps, keep, seed):
    values = spectrum(name, n)
    op = prescribed(values)
    start = np.random.default_rng(seed).standard_normal((n, 3))
    start /= np.linalg.norm(start, axis=0)
    alpha, beta, basis, _ = batched_lanczos(op, start, min(steps, n), keep)
    m = alpha.shape[1]
    top = max(values.max(), 1e-300)
    for power in range(min(2 * m, 4)):
        rules = [
            np.linalg.matrix_power(np.diag(a) + np.diag(b[:-1], 1) + np.diag(b[:-1], -1), power)
            for a, b in zip(alpha, beta, strict=True)
        ]
        rules = [rule[0, 0] for rule in rules]
        moments = ((np.linalg.matrix_power(op.todense(), power) @ start) * start).sum(axis=0)
        np.testing.assert_allclose(rules, moments, rtol=0, atol=1e-12 * top**power)
    if keep:
        real = np.einsum("kmn,kln->kml", basis, basis)
        off = real - real * np.eye(m)
        assert abs(off).max() < 1e-12


@pytest.mark.parametrize("reorthogonalise", [True, False])
@pytest.mark.parametrize("name", sorted(SPECTRA))
def test_rules_are_probabilities_times_the_order(name, reorthogonalise):
    rule = quadrature(prescribed(spectrum(name, 90)), reorthogonalise=reorthogonalise)
    assert rule.nodes.shape == rule.weights.shape and rule.order == 90
    assert (rule.weights >= 0).all() and (np.diff(rule.nodes) >= 0).all()
    np.testing.assert_allclose(rule.weights.sum(axis=1), 90, rtol=1e-10)
    assert 10 <= rule.products <= rule.nodes.size


def test_a_finished_probe_leaves_the_others_alone():
    op = prescribed(np.r_[2.0, np.linspace(3, 4, 49)])
    generic = np.random.default_rng(0).standard_normal((50, 2))
    eigenvector = np.linalg.eigh(op.todense())[1][:, :1]
    both = batched_lanczos(op, np.column_stack([generic[:, :1], eigenvector, generic[:, 1:]]), 20)
    alone = batched_lanczos(op, generic, 20)
    for mixed, pure in zip(both[:2], alone[:2], strict=True):
        np.testing.assert_allclose(mixed[[0, 2]], pure, rtol=1e-9)
    np.testing.assert_allclose(both[0][1], 2.0)
    assert not both[1][1].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_isolated_eigenvalues_are_counted_exactly(dtype):
    values = np.r_[np.full(3, 1e3), 500.0, np.random.default_rng(0).uniform(0, 3, 196)]
    rule = quadrature(prescribed(values, dtype=dtype), steps=25)
    top = rule.nodes > 100
    assert rule.pinned[top & (rule.weights > 0)].all()
    np.testing.assert_allclose((rule.weights * top).sum(axis=1), 4, rtol=1e-9)
    np.testing.assert_allclose((rule.weights * (rule.nodes > 900)).sum(axis=1), 3, rtol=1e-9)
    # nothing can be counted that comes as often as there are probes
    many = quadrature(prescribed(np.r_[np.full(12, 1e3), values[4:]]), steps=25)
    assert not many.pinned[many.nodes > 900].any()


def test_all_of_a_small_spectrum_gives_exact_traces():
    values = np.geomspace(0.5, 2, 12)
    trace = quadrature(prescribed(values)).trace(np.log)
    assert trace.low <= np.log(values).sum() <= trace.high
    assert trace.high - trace.low < 1e-10


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["few repeated", "power law"])
def test_intervals_cover(name):
    """Over 1,000 seeds the 95 % intervals cover at least 93 %."""
    values = spectrum(name, 60)
    op, seeds = prescribed(values), 1000
    functions = {"x": lambda x: x, "log": shifted_log, "x²": np.square}
    hits = dict.fromkeys(functions, 0)
    for seed in range(seeds):
        rule = quadrature(op, rng=seed, steps=12)
        for key, f in functions.items():
            found = rule.trace(f)
            hits[key] += found.low <= f(values).sum() <= found.high
    assert min(hits.values()) >= 0.93 * seeds, hits


def test_intervals_are_no_wider_than_the_theory_of_random_vectors():
    values = spectrum("spread", 200)
    trace = quadrature(prescribed(values), probes=40, steps=30).trace(np.square)
    expected = 2.03 * np.sqrt(2 * (np.sum(values**4) - np.sum(values**2) ** 2 / 200) / 40)
    assert 0.7 * expected < (trace.high - trace.low) / 2 < 1.6 * expected


def test_too_few_steps_are_told():
    values = np.geomspace(1e-8, 1, 400)
    with pytest.warns(ConvergenceWarning, match="increase steps"):
        found = quadrature(prescribed(values), steps=4, probes=30).trace(
            lambda x: np.log(np.maximum(x, 0) + 1e-7)
        )
    assert "not converged" in found.how
    assert found.low <= np.log(values + 1e-7).sum() <= found.high


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_with_repeated_samples_and_dead_units(dtype):
    K, zeros = degenerate_kernel(dtype=dtype)
    values = np.linalg.eigvalsh(K.todense().astype(np.float64))
    rule = quadrature(K, probes=20)
    assert rule.nodes.dtype == np.float64
    for f in (lambda x: x, lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + 1.0)):
        found = rule.trace(f)
        assert found.low <= f(values).sum() <= found.high
    assert values[zeros] > 10 * rule.level > values[zeros - 1]


def test_order_one_and_zero():
    assert quadrature(np.array([[3.0]])).trace(np.sqrt) == pytest.approx(3**0.5)
    assert quadrature(of.Zero(7)).trace(np.cos) == pytest.approx(7.0)


def test_the_small_side_of_a_gram_has_the_whole_spectrum():
    F = np.random.default_rng(0).standard_normal((1500, 20))
    w = np.random.default_rng(1).uniform(0, 2, 20)
    rule = exact_rule(of.Gram(F, w))
    expected = np.linalg.eigvalsh((F * w) @ F.T)
    assert rule.products == 0 and rule.weights[0, 0] == 1480
    np.testing.assert_allclose(rule.nodes[0, 1:], expected[-20:], rtol=1e-10)
    assert use_lapack(of.Gram(F, w), Cost(0.0, 0.0))
    assert not use_lapack(of.Identity(1025), Cost(0.0, 0.0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((2, 3)),), ValueError, "op must be square"),
        ((np.triu(np.ones((3, 3))),), ValueError, "op must be symmetric"),
        ((sp.csr_array(np.diag([1.0, np.nan])),), ValueError, "NaN"),
        (("op",), TypeError, "expected an array"),
    ],
)
def test_bad_operators_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        quadrature(*arguments)


@pytest.mark.parametrize(
    ("options", "message"), [({"probes": 1}, "probes"), ({"steps": 0}, "steps")]
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        quadrature(np.eye(3), **options)
    with pytest.raises(ValueError, match="f is not finite"), np.errstate(divide="ignore"):
        quadrature(np.eye(3) * 0).trace(np.log)
