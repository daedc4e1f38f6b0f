import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.spectral.checks import ConvergenceWarning
from opflow.spectral.traces import structure
from opflow.spectral.traces.trace_functions import effective_dimension, effective_rank, logdet
from tests.spectral.prescribed import SPECTRA, degenerate_kernel, prescribed, spectrum
from tests.spectral.products import Products


def entropy_rank(values):
    p = values[values > 0] / values.sum()
    return np.exp(-(p * np.log(p)).sum())


def references(values, shift):
    return {
        "logdet": np.log(values + shift).sum(),
        "dimension": (values / (values + shift)).sum(),
        "rank": entropy_rank(values),
    }


def found(op, shift, **options):
    return {
        "logdet": logdet(op, shift, **options),
        "dimension": effective_dimension(op, shift, **options),
        "rank": effective_rank(op, **options),
    }


nonzero = sorted(set(SPECTRA) - {"zero"})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", nonzero)
def test_exact_values(name, dtype):
    values = spectrum(name, 70)
    eps = float(np.finfo(dtype).eps)
    for key, value in found(prescribed(values, dtype=dtype), 0.5).items():
        assert value.exact and value.low == value.high == value and value.products == 0
        assert value == pytest.approx(references(values, 0.5)[key], rel=2000 * eps), key


@pytest.mark.thorough
@pytest.mark.parametrize("name", nonzero)
def test_intervals_cover(name):
    """Those of the rule itself are tested over 1,000 seeds in test_quadrature."""
    values, seeds = spectrum(name, 60), 150
    op, exact = prescribed(values), references(values, 0.1)
    hits = dict.fromkeys(exact, 0)
    for seed in range(seeds):
        for key, value in found(op, 0.1, how="estimate", steps=15, rng=seed).items():
            hits[key] += value.low <= exact[key] <= value.high
    assert min(hits.values()) >= 0.92 * seeds, hits  # 95 % less two deviations of 150 draws


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_with_repeated_samples_and_dead_units(dtype):
    K, _ = degenerate_kernel(dtype=dtype)
    values = np.maximum(np.linalg.eigvalsh(K.todense().astype(np.float64)), 0)
    for options in ({}, {"how": "estimate"}):
        for key, value in found(K, 1.0, **options).items():
            slack = 1e-4 * abs(value)
            assert value.low - slack <= references(values, 1.0)[key] <= value.high + slack, key


def test_wide_grams_are_estimated_and_narrow_ones_exact():
    F = np.random.default_rng(0).standard_normal((1400, 30))
    assert effective_dimension(of.Gram(F), 1.0).exact
    values = np.linalg.eigvalsh(F.T @ F)
    expected = (values / (values + 1)).sum()
    assert effective_dimension(of.Gram(F), 1.0) == pytest.approx(expected)
    rough = effective_dimension(of.Gram(F), 1.0, how="estimate", steps=8)
    assert rough.how == "Lanczos quadrature" and rough.low < expected < rough.high
    # whose zeros are known: what is left of it is soon exhausted
    assert effective_dimension(of.Gram(F), 1.0, how="estimate").exact


def test_the_shift_must_make_it_nonsingular():
    assert logdet(np.diag([1.0, 2.0]), 0) == pytest.approx(np.log(2))
    with pytest.raises(ValueError, match="zero to rounding"):
        logdet(np.ones((3, 3)), 0)
    with pytest.raises(ValueError, match="cannot prove"):
        logdet(np.eye(3), 0, how="estimate")
    with pytest.raises(ValueError, match="shift must be positive for an op of order 2000"):
        logdet(of.Identity(2000), 0)
    with pytest.raises(ValueError, match="rank"):
        effective_dimension(np.eye(3), 0)


@pytest.mark.thorough
def test_effective_rank_of_a_large_black_box_is_estimated_from_few_products(monkeypatch):
    monkeypatch.setattr(structure, "DENSE", 0)
    values = spectrum("spread", 900)
    F = prescribed(values).todense()
    op, exact = Products(F), entropy_rank(values)
    hits = 0
    for seed in range(40):
        rank = effective_rank(op, how="estimate", steps=20, rng=seed)
        assert rank.products == 260 and not rank.exact  # of which 60 for the trace
        hits += rank.low <= exact <= rank.high
    assert hits >= 36


def test_the_rank_of_what_is_not_finite_is_refused():
    op = of.Matrix(np.diag([np.nan, 1.0]), symmetric=True)
    for how in ("exact", "estimate"):
        with pytest.raises(ValueError, match="NaN or infinity"):
            effective_rank(op, how=how)


def test_a_shift_too_small_for_the_steps_is_told():
    values = np.geomspace(1e-8, 1, 300)
    with pytest.warns(ConvergenceWarning, match="increase steps"):
        value = logdet(prescribed(values), 1e-7, how="estimate", steps=5)
    assert "not converged" in value.how
    assert value.low <= np.log(values + 1e-7).sum() <= value.high


@pytest.mark.parametrize("how", ["exact", "estimate"])
@pytest.mark.parametrize("function", [logdet, effective_dimension, effective_rank])
def test_indefinite_operators_are_refused(function, how):
    op = prescribed(np.r_[-1.0, np.linspace(1, 3, 30)])
    shift = () if function is effective_rank else (1.0,)
    with pytest.raises(ValueError, match="op must be PSD, but has an eigenvalue of at most"):
        function(op, *shift, how=how)


@pytest.mark.parametrize("function", [logdet, effective_dimension])
def test_bad_arguments_are_refused(function):
    for op, error, message in [
        (np.ones((2, 3)), ValueError, "square"),
        (np.triu(np.ones((3, 3))), ValueError, "symmetric"),
        (sp.csr_array(np.diag([1.0, np.inf])), ValueError, "NaN|finite"),
    ]:
        with pytest.raises(error, match=message):
            function(op, 1.0)
    for shift, error in [(-1.0, ValueError), (np.nan, ValueError), ("1", TypeError)]:
        with pytest.raises(error, match="shift"):
            function(np.eye(3), shift)
    with pytest.raises(ValueError, match="not zero"):
        effective_rank(of.Zero(3))
