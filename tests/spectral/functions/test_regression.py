import numpy as np
import pytest

import opflow as of
from opflow.spectral import ConvergenceWarning
from opflow.spectral.functions.regression import kernel_regression, learning_curve


def problem(outputs=1, n=40, new=7):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((n, 4)), rng.standard_normal((new, 4))
    net = of.ReLUNetwork.random([4, 150], outputs=outputs, seed=1)
    fields = net.fields(X)
    return net, X, Y, of.collective_kernel(fields), of.cross_kernel(net.fields(Y), fields)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_agrees_with_the_dense_formula(shape):
    *_, K, cross = problem()
    y = np.random.default_rng(1).standard_normal((40, *shape))
    regression = kernel_regression(K, y, 0.1, tol=1e-12)
    dense = K.todense()
    alpha = np.linalg.solve(dense + 0.1 * np.eye(40), y)
    np.testing.assert_allclose(regression.coefficients, alpha, atol=1e-9)
    np.testing.assert_allclose(regression.fitted, dense @ alpha, atol=1e-9)
    np.testing.assert_allclose(regression.residual, 0.1 * alpha, atol=1e-9)
    np.testing.assert_allclose(regression.predict(cross), cross.todense() @ alpha, atol=1e-9)
    assert regression.solution.converged and regression.predict(cross).shape == (7, *shape)


def test_float32_targets_are_fitted_in_the_operators_dtype():
    *_, K, cross = problem()
    y = np.random.default_rng(1).standard_normal(40).astype(np.float32)
    regression = kernel_regression(K, y, 0.1)
    assert regression.coefficients.dtype == regression.residual.dtype == np.float64
    np.testing.assert_array_equal(
        regression.predict(cross), kernel_regression(K, y.astype(float), 0.1).predict(cross)
    )
    with pytest.warns(RuntimeWarning, match="y is float64 and is rounded to the float32"):
        narrow = kernel_regression(np.eye(3, dtype=np.float32), np.full(3, 0.1), 1.0)
    assert narrow.coefficients.dtype == np.float32
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(narrow.coefficients, np.full(3, 0.05), rtol=4 * eps)


def test_outputs_of_a_network_are_flattened_sample_major():
    *_, K, cross = problem(outputs=3)
    y = np.random.default_rng(1).standard_normal((40, 3))
    regression = kernel_regression(K, y, 0.5, tol=1e-12, preconditioner="nystrom")
    alpha = np.linalg.solve(K.todense() + 0.5 * np.eye(120), y.ravel())
    np.testing.assert_allclose(regression.coefficients, alpha.reshape(40, 3), atol=1e-9)
    np.testing.assert_allclose(
        regression.predict(cross), (cross.todense() @ alpha).reshape(7, 3), atol=1e-9
    )
    np.testing.assert_allclose(regression.fitted + regression.residual, y, atol=1e-14)


def test_without_a_shift_it_is_the_end_of_the_linearised_flow():
    net, X, Y, K, cross = problem()
    y = np.random.default_rng(1).standard_normal((40, 1))
    regression = kernel_regression(K, y - net(X), 0.0, tol=1e-11)
    end = 40 / np.linalg.eigvalsh(K.todense())[0]
    flow = of.LinearisedFlow(tol=1e-12, size=40)
    run = of.train(net, X, y, method=flow, times=[end])
    assert np.abs(run.residual).max() < 1e-9
    J = of.jacobian(net.fields(Y), rates=False)
    moved = [(a - b).ravel() for a, b in zip(run.network.weights, net.weights, strict=True)]
    linear = net(Y) + (J @ np.concatenate(moved)).reshape(-1, 1)
    np.testing.assert_allclose(net(Y) + regression.predict(cross), linear, atol=1e-7)


def test_what_did_not_converge_says_so():
    *_, K, _ = problem()
    with pytest.warns(ConvergenceWarning):
        regression = kernel_regression(K, np.ones(40), 1e-9, maxiter=3)
    assert not regression.solution.converged


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda K, cross: kernel_regression(K, np.ones(39), 1.0), "y has shape"),
        (lambda K, cross: kernel_regression(K, np.full(40, np.inf), 1.0), "y contains"),
        (lambda K, cross: kernel_regression(K, np.ones(40), -1.0), "shift"),
        (lambda K, cross: kernel_regression(K, np.ones(40), 1.0).predict(cross.T), "cross"),
        (
            lambda K, cross: kernel_regression(of.Identity(6), np.ones((3, 2)), 1.0).predict(
                np.ones((3, 6))
            ),
            "multiple of 2 outputs",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    *_, K, cross = problem()
    with pytest.raises(ValueError, match=message):
        call(K, cross)


@pytest.mark.parametrize(
    ("ridge", "noise"), [(0.02, 0.0), (0.02, 0.25), (0.5, 0.1), (0.0, 0.1)], ids=str
)
def test_learning_curves_are_the_mean_of_simulated_regressions(ridge, noise):
    """On a finite input space whose kernel has known eigenfunctions, within 3 standard errors."""
    N, m, seeds = 8000, 100, 40
    rng = np.random.default_rng(0)
    phi = np.linalg.qr(rng.standard_normal((N, m + 1)))[0] * N**0.5
    eta = np.append(np.arange(1.0, m + 1) ** -1.5, 0.0)
    a = np.append(rng.standard_normal(m) * np.arange(1, m + 1) ** -0.8, 0.1)  # 0.1 is out of reach
    target = phi @ a
    sizes = np.array([15, 50, 250])
    for P, predicted in zip(sizes, learning_curve(eta, a, sizes, noise, ridge), strict=True):
        errors = []
        for seed in range(seeds):
            draw = np.random.default_rng(seed)
            seen = draw.integers(N, size=P)
            y = target[seen] + noise**0.5 * draw.standard_normal(P)
            F = np.vstack([phi[seen] * eta**0.5, ridge**0.5 * np.eye(m + 1)])
            w = np.linalg.lstsq(F, np.append(y, np.zeros(m + 1)))[0]
            errors.append(np.sum((w * eta**0.5 - a) ** 2))  # phi is orthonormal
        spread = np.std(errors, ddof=1) / seeds**0.5
        assert abs(np.mean(errors) - predicted) < 3 * spread, (
            P,
            np.mean(errors),
            predicted,
            spread,
        )


def test_learning_curves_solve_their_equations():
    eta, a = np.geomspace(1e-14, 1, 40), np.linspace(-1, 2, 40)
    for P, ridge in ((1, 0.0), (7.5, 1e-3), (200, 1e-9), (30, 0.0)):
        found = learning_curve(eta, a, P, 0.3, ridge)
        assert found.shape == ()
        # κ by bisection on the sum, in logarithms
        low, high = -60.0, 2.0
        for _ in range(200):
            x = (low + high) / 2
            k = np.exp(x)
            too_small = ridge / k + (eta / (k + P * eta)).sum() > 1
            low, high = (x, high) if too_small else (low, x)
        gamma = P * (eta**2 / (k + P * eta) ** 2).sum()
        wanted = ((a * k / (k + P * eta)) ** 2).sum() / (1 - gamma) + 0.3 * gamma / (1 - gamma)
        assert np.isclose(found, wanted, rtol=1e-9), (P, ridge)


def test_learning_curves_at_their_ends():
    eta, a = np.array([1.0, 0.5, 0.0]), np.array([1.0, 2.0, 0.5])
    assert np.isclose(learning_curve(eta, a, 0), 5.25)  # nothing is known
    assert np.isclose(learning_curve(eta, a, 10), 0.25 / 0.8)  # all that can be expressed is
    assert learning_curve(eta, a, 2) > 1e12  # as many samples as modes: the error diverges
    assert np.isclose(learning_curve(np.zeros(3), a, 5), 5.25)
    assert np.isclose(learning_curve(eta, a, 10**9, ridge=0.1, noise=1.0), 0.25, rtol=1e-6)
    many = learning_curve(eta, a, np.array([[1, 2], [3, 4]]), ridge=0.1)
    assert many.shape == (2, 2) and (np.diff(many.ravel()) < 0).all()
    for bad in (([1.0], a, 3), (-eta, a, 3), (eta, a, -1), (np.ones((3, 1)), np.ones((3, 1)), 1)):
        with pytest.raises(ValueError, match="must be of one length"):
            learning_curve(*bad)
    with pytest.raises(ValueError, match="ridge must be finite"):
        learning_curve(eta, a, 3, ridge=-1.0)
