import numpy as np
import pytest

import opflow as of
from opflow.spectral import ConvergenceWarning
from opflow.spectral.functions.regression import kernel_regression


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
