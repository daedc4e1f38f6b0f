import numpy as np
import pytest

import opflow as of
from opflow.spectral.density.density import density
from opflow.spectral.traces import exact
from tests.spectral.prescribed import SPECTRA, degenerate_kernel, prescribed, spectrum


def gaussians(values, grid, width, log):
    """The exact broadened density of the nonzero eigenvalues."""
    places = np.log10(values[values > 0]) if log else values[values != 0]
    at = np.log10(grid) if log else grid
    bumps = np.exp(-0.5 * ((at[:, None] - places) / width) ** 2) / (width * (2 * np.pi) ** 0.5)
    return bumps.sum(axis=1) / len(values)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("name", sorted(SPECTRA))
def test_exact_spectra_are_those_of_lapack(name, log):
    values = spectrum(name, 80)
    rho = density(prescribed(values), log=log)
    grid = rho.grid(50)
    assert rho.how == "exact" and rho.products == 0 and rho.null.exact
    assert rho.null == (values == 0).sum()
    expected = gaussians(values, grid, rho.width, log)
    np.testing.assert_allclose(rho(grid), expected, rtol=0.02, atol=1e-9 / rho.width)
    assert not rho.error(grid).any()
    between = (values[1:] + values[:-1])[np.diff(values) > 1e-13] / 2
    share = np.searchsorted(values, between) / 80
    np.testing.assert_allclose(rho.cdf(between), share, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("name", ["spread", "repeated", "conditioned", "power law", "rank one"])
def test_bands_cover(name, log):
    """Over many seeds the 95 % bands hold the exact curves at least 93 % of the time."""
    values, seeds = spectrum(name, 300), 40
    op = prescribed(values)
    first = density(op, how="estimate", log=log, steps=50)
    grid = first.grid(31)
    exact = gaussians(values, grid, first.width, log)
    cumulated = np.searchsorted(values, grid, side="right") / 300
    inside, below, null = np.zeros(31), np.zeros(31), 0
    for seed in range(seeds):
        rho = density(op, how="estimate", log=log, steps=50, rng=seed, width=first.width)
        low, high = rho.band(grid)
        inside += (low <= exact) & (exact <= high)
        low, high = rho.cdf_band(grid)
        below += (low <= cumulated + 1e-12) & (cumulated <= high + 1e-12)
        null += rho.null.low <= (values == 0).sum() <= rho.null.high
        assert rho.how == "Lanczos quadrature"
    assert inside.mean() >= 0.93 * seeds and below.mean() >= 0.93 * seeds and null >= 0.93 * seeds
    assert inside.min() >= 0.8 * seeds and below.min() >= 0.8 * seeds  # at each point, 95 % ± 2 σ


@pytest.mark.thorough
def test_bands_are_of_use():
    values = spectrum("spread", 300)
    rho = density(prescribed(values), how="estimate", probes=40)
    grid = np.linspace(0.2, 2.8, 30)
    assert rho.error(grid).max() < 0.15 * rho(grid).max()
    low, high = rho.cdf_band(grid)
    assert (high - low).max() < 0.08


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("how", ["exact", "estimate"])
def test_density_and_null_mass_integrate_to_one(how, log):
    values = np.r_[np.zeros(70), np.random.default_rng(0).uniform(1, 3, 130)]
    rho = density(prescribed(values), how=how, log=log)
    grid = rho.grid(2001)
    axis = np.log10(grid) if log else grid
    assert np.trapezoid(rho(grid), axis) + rho.null / 200 == pytest.approx(1, abs=1e-3)
    assert abs(rho.null - 70) < 15


def test_zeros_of_the_structure_are_exact():
    rng = np.random.default_rng(0)
    K = of.Gram(rng.standard_normal((400, 100)))
    rho = density(K, how="estimate", probes=4)
    assert rho.null == rho.null.low == 300
    grid = rho.grid(2001)
    assert np.trapezoid(rho(grid), grid) == pytest.approx(0.25, rel=1e-3)
    assert rho.cdf(0.0) == pytest.approx(0.75)
    assert density(of.Gram(rng.standard_normal((1500, 9)))).null == 1491


@pytest.mark.parametrize("how", ["exact", "estimate"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_null_spaces_of_kernels(dtype, how):
    """Samples that come twice, units that are dead: as many zeros as LAPACK finds."""
    K, zeros = degenerate_kernel(dtype=dtype)
    values = np.linalg.eigvalsh(K.todense().astype(np.float64))
    rho = density(K, log=True, how=how, steps=160)
    assert rho.null.low <= zeros <= rho.null.high and abs(rho.null - zeros) < 0.2 * zeros
    grid = rho.grid(41)
    low, high = rho.band(grid)
    values[:zeros] = 0
    exact = gaussians(values, grid, rho.width, True)
    assert ((low <= exact * (1 + 1e-3)) & (exact <= high * (1 + 1e-3) + 1e-9)).mean() > 0.9


def test_more_zeros_than_the_structure_demands_stay_within_the_bars():
    F = np.random.default_rng(0).standard_normal((400, 100))
    F[:, 97:] = 0
    rho = density(of.Gram(F), how="estimate")
    assert rho.null.low <= 303 <= rho.null.high
    low, high = rho.cdf_band(0.0)
    assert low <= 303 / 400 <= high


def test_few_zeros_are_counted_exactly():
    values = np.r_[np.zeros(4), np.random.default_rng(0).uniform(1, 3, 196)]
    rho = density(prescribed(values), how="estimate")
    assert rho.null == rho.null.low == rho.null.high == 4


def test_indefinite_operators():
    values = np.r_[-2.0, -1.0, np.zeros(60), np.random.default_rng(0).uniform(1, 3, 138)]
    op = prescribed(values)
    for how in ("exact", "estimate"):
        rho = density(op, how=how)
        assert rho.null.low <= 60 <= rho.null.high
        np.testing.assert_allclose(rho.cdf([-3, -1.5, -0.5]), [0, 0.005, 0.01], atol=1e-9)
        with pytest.raises(ValueError, match="log axis must be PSD"):
            density(op, how=how, log=True)


def test_zero_and_order_one():
    rho = density(of.Zero(5), how="estimate")
    assert rho.null == 5 and not rho(rho.grid(3)).any() and rho.cdf(0.0) == 1
    one = density(np.array([[2.0]]), how="estimate")
    assert one.null == 0 and one.support == pytest.approx((2, 2))
    np.testing.assert_array_equal(one.cdf([1.9, 2.1]), [0, 1])


def test_bad_arguments_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="how must be"):
        density(np.eye(3), how="guess")
    with pytest.raises(ValueError, match="width must be positive"):
        density(np.eye(3), width=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(exact, "parse_memory", lambda *_: 1e6)
        with pytest.raises(MemoryError, match="all eigenvalues of order 2000 take"):
            density(of.Identity(2000), how="exact")
    with pytest.raises(ValueError, match="grid must be positive"):
        density(np.eye(3), log=True)([0.0, 1.0])
    with pytest.raises(ValueError, match="grid contains NaN"):
        density(np.eye(3)).cdf(np.nan)
