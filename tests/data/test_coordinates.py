"""Grids and Fourier features."""

import numpy as np
import pytest

import opflow as of


def test_coordinates_are_a_grid_in_c_order():
    shape = (3, 4, 5)
    X = of.coordinates(shape)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    np.testing.assert_allclose(X, np.stack([a.ravel() for a in axes], axis=1), atol=1e-15)
    assert of.coordinates(2, dtype=np.float32).tolist() == [[-1], [1]]
    assert of.coordinates([1, 2]).tolist() == [[0, -1], [0, 1]]
    assert of.coordinates(np.zeros((4, 6)).shape).shape == (24, 2)
    for shape, error in ((0, ValueError), ((2, -1), ValueError), ((2.5,), TypeError)):
        with pytest.raises(error, match="shape must be"):
            of.coordinates(shape)


def test_fourier_features_are_cosines_and_sines_with_the_bandwidth_of_the_page():
    X = of.coordinates((7, 6))
    B = np.random.default_rng(0).standard_normal((5, 2))
    Z = of.fourier_features(X, B)
    np.testing.assert_allclose(Z, np.hstack([np.cos(2 * np.pi * X @ B.T),
                                             np.sin(2 * np.pi * X @ B.T)]), atol=1e-14)  # fmt: skip
    np.testing.assert_allclose((Z**2).sum(axis=1), 5)
    Z = of.fourier_features(X, scale=0.4, count=40_000, seed=1)
    apart = ((X[:, None] - X) ** 2).sum(axis=2)
    expected = np.exp(-2 * np.pi**2 * 0.4**2 * apart)
    np.testing.assert_allclose(Z @ Z.T / 40_000, expected, atol=5 / 40_000**0.5)
    same = of.fourier_features(X, count=8), of.fourier_features(X, count=8, rng=0)
    assert same[0].tobytes() == same[1].tobytes()
    assert of.fourier_features(X.astype(np.float32), count=3).dtype == np.float32


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.ones(3), {}, "X must be two-dimensional"),
        (np.ones((3, 2)), {"frequencies": np.ones((4, 3))}, r"frequencies must be \(m, 2\)"),
        (np.ones((3, 2)), {"scale": -1.0}, "scale"),
        (np.ones((3, 2)), {"count": 0}, "count"),
        (np.full((3, 2), np.nan), {}, "X contains NaN"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(X, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        of.fourier_features(X, **options)
