import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral.checks import ConvergenceWarning
from opflow.spectral.modes import decay, layer_shares, projections, spectrum_shares
from opflow.spectral.traces.stability import sharpness
from opflow.spectral.traces.trace import trace
from tests.spectral.products import Products, large, rotated  # noqa: F401

seeds = st.integers(0, 2**32 - 1)


def network(seed=0, samples=9, outputs=2, biases=True):
    rng = np.random.default_rng(seed)
    net = of.ReLUNetwork(
        [rng.standard_normal((6, 4)), rng.standard_normal((5, 6))],
        rng.standard_normal((outputs, 5)),
        biases=[rng.uniform(0.1, 1, 6), rng.uniform(0.1, 1, 5)] if biases else None,
        rates=[0.5, 2.0],
    )
    X = rng.standard_normal((samples, 4))
    X[-1] = X[0]
    return net.fields(X)


def test_modes_of_a_linear_flow_decay_as_predicted():
    fields = network()
    K = of.collective_kernel(fields)
    values, U = np.linalg.eigh(K.todense())
    R = np.random.default_rng(0).standard_normal((9, 2))
    times = np.array([0.0, 0.1, 3.0]) / values[-1]
    predicted = decay(values, U, R, times)
    for t, row in zip(times, predicted, strict=True):
        r = of.spectral.expm(K, R.ravel(), t, tol=1e-13)
        assert np.linalg.norm(row - projections(U, r)) <= 1e-12 * np.linalg.norm(R)
    assert (predicted[0] == projections(U, R)).all()


@given(st.integers(1, 9), st.integers(1, 3), seeds)
def test_projections_are_coefficients(n, outputs, seed):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n * outputs, n * outputs)))[0].astype(np.float32)
    R = rng.standard_normal((n, outputs)).astype(np.float32)
    c = projections(U, R)
    assert c.dtype == np.float32 and c.shape == (n * outputs,)
    np.testing.assert_allclose(U @ c, R.ravel(), atol=1e-5 * np.abs(R).max() * n * outputs)
    assert projections(U[:, :1], np.stack([R.ravel()] * 3, axis=1)).shape == (1, 3)


@pytest.mark.parametrize("biases", [False, True])
def test_shares_of_layers(biases):
    fields = network(biases=biases)
    kernels = of.layer_kernels(fields)
    dense = [k.todense() for k in kernels]
    values, U = np.linalg.eigh(sum(dense))
    shares = layer_shares(kernels)
    traces = np.array([np.trace(k) for k in dense])
    np.testing.assert_allclose(shares, traces / values.sum(), rtol=1e-12)
    parts = spectrum_shares(kernels, U)
    live = values > 1e-10 * values[-1]
    assert 0 < live.sum() < len(values)  # two samples are equal
    want = np.array([np.sum(U * (k @ U), axis=0) for k in dense]) / np.where(live, values, 1)
    np.testing.assert_allclose(parts[:, live], want[:, live], rtol=1e-9)
    np.testing.assert_allclose(parts[:, live].sum(axis=0), 1, rtol=1e-12)
    assert np.isclose((parts[:, live] * values[live]).sum(axis=1), traces).all()
    null = np.abs(values) < 1e-15 * values[-1]
    assert null.any() and (parts[:, null] == 0).all()


def test_shares_of_nothing():
    zero = [of.Zero(3), of.Zero(3)]
    assert (layer_shares(zero) == 0).all()
    assert (spectrum_shares(zero, np.eye(3)) == 0).all()
    with pytest.raises(ValueError, match="kernels must not be empty"):
        layer_shares([])
    with pytest.raises(ValueError, match="kernels must not be empty"):
        spectrum_shares([], np.eye(3))


def test_the_edge_of_stability_is_where_descent_turns():
    values = np.linspace(0, 4, 9)
    op = of.Matrix(rotated(values), psd=True)
    r = np.ones(9)
    for step in (0.49, 0.51):
        found = sharpness(op, step)
        later = np.linalg.matrix_power(np.eye(9) - step * op.data, 400) @ r
        assert (found.ratio > 1) == (np.linalg.norm(later) > 10 * np.linalg.norm(r))
        assert np.isclose(found.largest, 4) and found.limit == 2 / step
        assert np.isclose(found.ratio, 2 * step) and found.ratio.exact


@pytest.mark.filterwarnings("ignore::opflow.spectral.checks.ConvergenceWarning")
def test_sharpness_is_the_largest_not_the_strongest(large):  # noqa: F811
    values = np.linspace(-5, 1, 80)
    op = Products(rotated(values))
    found = [sharpness(op, 1.0, products=15, rng=seed) for seed in range(200)]
    assert all(x.largest.low <= 1 + 1e-12 for x in found)
    assert np.mean([x.largest.high >= 1 for x in found]) >= 0.93
    one = found[0]
    assert one.ratio.low == one.largest.low / 2 and one.ratio.high == one.largest.high / 2
    assert not one.ratio.exact and one.ratio.products == one.largest.products == 15


def test_sharpness_says_where_it_has_not_converged(large):  # noqa: F811
    with pytest.warns(ConvergenceWarning, match="increase products"):
        found = sharpness(Products(rotated(np.linspace(-5, 1, 80))), 1.0, products=3)
    assert found.ratio.how == found.largest.how == "Lanczos, not converged"


def test_projections_take_sequences_and_decay_refuses_what_is_not_finite():
    assert projections(np.eye(2), [1.0, 2.0]).tolist() == [1.0, 2.0]
    assert decay([0.0, 1.0], np.eye(2), [1.0, 2.0], [0.0]).tolist() == [[1.0, 2.0]]
    with pytest.raises(ValueError, match="eigenvalues contains NaN"):
        decay(np.array([np.nan, 1.0]), np.eye(2), np.ones(2), [0.0])
    with pytest.raises(ValueError, match="times contains NaN"):
        decay(np.ones(2), np.eye(2), np.ones(2), [0.0, np.inf])


def test_sharpness_of_small_operators_is_signed():
    assert float(sharpness(np.diag([-3.0, -1.0]), 1.0).largest) == -1
    assert float(sharpness(of.Zero(1), 1.0).ratio) == 0
    assert trace(np.diag([-3.0, -1.0])) == -4


def test_what_is_refused():
    U = np.eye(4)[:, :2]
    with pytest.raises(ValueError, match=r"r has shape \(3,\) but the eigenvectors \(4, 2\)"):
        projections(U, np.ones(3))
    with pytest.raises(ValueError, match="eigenvectors must be an array"):
        projections(np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match=r"eigenvalues has shape \(3,\)"):
        decay(np.ones(3), U, np.ones(4), [1.0])
    with pytest.raises(ValueError, match="r must be one vector"):
        decay(np.ones(2), U, np.ones((4, 2)), [1.0])
    with pytest.raises(ValueError, match="times must be one-dimensional"):
        decay(np.ones(2), U, np.ones(4), 1.0)
    with pytest.raises(ValueError, match=r"kernels\[1\] has shape \(3, 3\)"):
        spectrum_shares([np.eye(4), np.eye(3)], U)
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="step must be"):
            sharpness(np.eye(2), step)
    with pytest.raises(TypeError, match="step must be a number"):
        sharpness(np.eye(2), "1")
