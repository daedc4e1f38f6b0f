import numpy as np
import pytest
from numpy.polynomial import chebyshev

import opflow as of
from opflow.spectral.density.density import density
from tests.spectral.density import chebyshev as oracle
from tests.spectral.density.chebyshev import _moments, kernel_polynomial
from tests.spectral.prescribed import SPECTRA, degenerate_kernel, prescribed, spectrum

pytestmark = pytest.mark.thorough  # of an oracle


def test_moments_are_those_of_the_polynomials():
    values = spectrum("spread", 30)
    op = prescribed(values)
    start = np.random.default_rng(0).standard_normal((30, 2))
    found = _moments(op, start, 9, (-1.0, 4.0))
    vectors = np.linalg.eigh(op.todense())[1]
    weights = (vectors.T @ start) ** 2
    mapped = (values - 1.5) / 2.5
    for k in range(10):
        np.testing.assert_allclose(found[:, k], chebyshev.Chebyshev.basis(k)(mapped) @ weights)


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(SPECTRA))
def test_cumulative_bands_cover_and_agree_with_lanczos(name):
    values = spectrum(name, 200)
    op = prescribed(values)
    top = values.max() or 1.0
    grid = np.linspace(-0.1 * top, 1.1 * top, 40)
    exact = np.searchsorted(values, grid, side="right") / 200
    hits = np.zeros(40)
    for seed in range(20):
        first = kernel_polynomial(op, rng=seed)
        low, high = first.cdf_band(grid)
        hits += (low <= exact + 1e-12) & (exact <= high + 1e-12)
    assert hits.mean() >= 0.93 * 20
    less, more = density(op, how="estimate").cdf_band(grid)
    assert ((less <= high) & (low <= more)).all()
    assert first.null.low <= (values == 0).sum() <= first.null.high


def test_density_is_a_positive_curve_of_mass_one():
    values = spectrum("spread", 300)
    rho = kernel_polynomial(prescribed(values), probes=20)
    grid = np.linspace(-0.2, 3.3, 2001)
    assert rho(grid).min() >= 0
    assert np.trapezoid(rho(grid), grid) == pytest.approx(1, abs=5e-3)
    exact = density(prescribed(values), width=rho.width)
    inner = np.linspace(0.3, 2.7, 25)
    assert (abs(rho(inner) - exact(inner)) <= 2 * rho.error(inner) + 0.02).mean() > 0.9
    log = kernel_polynomial(prescribed(values), probes=20, log=True)
    np.testing.assert_allclose(log(inner), rho(inner) * inner * np.log(10))


def test_zeros_of_the_structure_leave_the_density():
    K = of.Gram(np.random.default_rng(0).standard_normal((400, 100)) + 0.0)
    rho = kernel_polynomial(K, probes=40)
    top = rho.support[1]
    grid = np.linspace(-0.05 * top, 1.05 * top, 4001)
    assert rho.null == 300
    assert np.trapezoid(rho(grid), grid) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_in_either_precision(dtype):
    K, zeros = degenerate_kernel(dtype=dtype)
    values = np.linalg.eigvalsh(K.todense().astype(np.float64))
    rho = kernel_polynomial(K, probes=20)
    grid = np.linspace(0.05, 1.1, 30) * values.max()
    low, high = rho.cdf_band(grid)
    exact = np.searchsorted(values, grid) / len(values)
    assert ((low <= exact) & (exact <= high)).mean() > 0.93
    assert rho.null.high >= zeros


def test_bounds_widen_until_the_spectrum_is_inside(monkeypatch):
    few = oracle.lanczos
    monkeypatch.setattr(oracle, "lanczos", lambda op, steps, rng: few(op, 1, rng=rng))
    values = np.r_[np.linspace(0, 1, 300), 5.0]
    rho = kernel_polynomial(prescribed(values), rng=1)
    assert rho.cdf(6.0) == pytest.approx(1, abs=1e-3)
    assert abs(rho.cdf(0.5) - 0.5) < 0.1


def test_zero_and_order_one():
    assert kernel_polynomial(of.Zero(4)).cdf([-1.0, 1.0]) == pytest.approx([0, 1], abs=0.01)
    assert kernel_polynomial(np.array([[3.0]])).cdf([2.0, 4.0]) == pytest.approx([0, 1], abs=0.01)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="degree"):
        kernel_polynomial(np.eye(3), degree=1)
    with pytest.raises(ValueError, match="probes"):
        kernel_polynomial(np.eye(3), probes=1)
    with pytest.raises(ValueError, match="PSD"):
        kernel_polynomial(-np.eye(3), log=True)


def test_the_log_axis_of_a_rank_deficient_kernel_starts_at_what_is_not_zero():
    F = np.random.default_rng(0).standard_normal((1500, 40))
    rho, sizes = kernel_polynomial(of.Gram(F), log=True), np.linalg.svd(F, compute_uv=False)
    assert 0.99 * sizes[-1] ** 2 < rho.support[0] < rho.support[1] < 1.01 * sizes[0] ** 2
    assert (np.diff(rho.grid()) > 0).all() and np.isfinite(rho(rho.grid())).all()
    assert kernel_polynomial(of.Zero(5), log=True).support == (0.0, 0.0)
