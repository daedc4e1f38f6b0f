import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral import ConvergenceWarning, posterior
from opflow.spectral.functions.solve import Inverse

from ..products import Products, rotated

#: eigenvalues, and the noise with which the condition number stays below 1e7
KERNELS = {
    "spread": (lambda n: np.linspace(0.5, 3, n), 0.2),
    "ill-conditioned": (lambda n: np.geomspace(1e-12, 1, n), 1e-5),
    "power law": (lambda n: np.arange(1.0, n + 1) ** -2, 1e-4),
    "low rank": (lambda n: np.r_[np.linspace(1, 5, min(n, 3)), np.zeros(max(n - 3, 0))], 1e-3),
    "zero": (np.zeros, 0.3),
}


def dense(K, y, noise, C=None, prior=None):
    """All that a posterior gives, by the formulas of the book; y is (n,) or (n, c)."""
    n = len(K)
    A = K + noise * np.eye(n)
    inverse = np.linalg.inv(A)
    alpha = inverse @ y
    columns = y.size // n
    diagonal = np.diag(inverse).reshape(-1, *[1] * (y.ndim - 1))
    found = {
        "coefficients": alpha,
        "leave_one_out": alpha / diagonal,
        "leverages": np.diag(K @ inverse),
        "log_marginal_likelihood": -0.5 * np.sum(y * alpha)
        - columns * (0.5 * np.linalg.slogdet(A)[1] + 0.5 * n * np.log(2 * np.pi)),
        "noise_gradient": 0.5 * np.sum(alpha**2) - 0.5 * columns * np.trace(inverse),
    }
    if C is not None:
        found["mean"] = C @ alpha
        found["influence"] = C @ inverse
        found["variance"] = prior - np.einsum("ij,jk,ik->i", C, inverse, C)
    return found


def agrees(found, wanted, tol=1e-8, names=None):
    for name in names or wanted:
        value = getattr(found, name)
        if name in ("leverages", "leave_one_out"):
            assert value.how == "exact" and not value.errors.any()
            value = value.values
        if name == "influence":
            assert isinstance(value, of.Operator)
            value = value.todense()
        scale = max(1.0, float(np.abs(wanted[name]).max()))
        wanted_shape = np.shape(wanted[name])
        assert np.shape(value) == wanted_shape, name
        np.testing.assert_allclose(value, wanted[name], rtol=0, atol=tol * scale, err_msg=name)


def extended(values, new, seed=0):
    """A PSD matrix of the old and the new points, with old ones of about these eigenvalues."""
    n = len(values)
    root = rotated(np.sqrt(values), seed)
    F = np.vstack([root, np.random.default_rng(seed).standard_normal((new, n)) @ root])
    return F @ F.T


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    n=st.integers(1, 40), new=st.integers(1, 5), columns=st.integers(0, 3), seed=st.integers(0, 99)
)
def test_all_is_the_dense_formula(kernel, n, new, columns, seed):
    values, noise = KERNELS[kernel]
    G = extended(values(n), new, seed)
    y = np.random.default_rng(seed + 1).standard_normal((n, columns) if columns > 1 else n)
    K, C, prior = G[:n, :n], G[n:, :n], np.diag(G)[n:]
    agrees(posterior(K, y, noise, C, prior), dense(K, y, noise, C, prior))


def test_all_is_the_dense_formula_at_size():
    G = extended(np.arange(1.0, 501) ** -1.5, 20)
    K, C, prior = G[:500, :500], G[500:, :500], np.diag(G)[500:]
    y = np.random.default_rng(1).standard_normal((500, 2))
    agrees(posterior(K, y, 1e-3, C, prior), dense(K, y, 1e-3, C, prior))


def tangent(outputs, n=30, new=4):
    """Kernels of a network with every third sample twice: of old points, cross, and of new ones."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((n, 4)), rng.standard_normal((new, 4))
    X[: n // 3] = X[n // 3 : 2 * (n // 3)]
    net = of.ReLUNetwork.random([4, 60], outputs=outputs, seed=1)
    fields, others = net.fields(X), net.fields(Y)
    prior = of.collective_kernel(others).diagonal()
    return of.collective_kernel(fields), of.cross_kernel(others, fields), prior


@pytest.mark.parametrize("how", ["direct", "iterative"])
def test_outputs_of_a_network_are_flattened_sample_major(how):
    K, cross, prior = tangent(2)
    y = np.random.default_rng(1).standard_normal((30, 2))
    found = posterior(K, y, 0.3, cross, prior.reshape(4, 2), how=how, tol=1e-13)
    wanted = dense(K.todense(), y.ravel(), 0.3, cross.todense(), prior)
    for name in ("coefficients", "mean", "variance", "leverages", "leave_one_out"):
        wanted[name] = wanted[name].reshape(-1, 2)
    if how == "direct":
        agrees(found, wanted)
    else:
        agrees(found, wanted, names=["coefficients", "mean", "variance", "influence"])
        for name in ("leverages", "leave_one_out"):
            value = getattr(found, name)
            assert value.values.shape == value.errors.shape == (30, 2)
            assert np.mean(np.abs(value.values - wanted[name]) <= value.errors) > 0.85


def test_of_infinite_width():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((40, 3)), rng.standard_normal((6, 3))
    net = of.ReLUNetwork.random([3, 1, 1], seed=0)
    K, cross = of.infinite_width(net, X), of.infinite_width(net, Y, X)
    prior = of.infinite_width(net, Y).diagonal()
    y = np.sin(X[:, 0])
    agrees(posterior(K, y, 0.01, cross, prior), dense(K.todense(), y, 0.01, cross.todense(), prior))


def test_without_new_points_it_predicts_the_old_ones():
    K, *_ = tangent(1)
    y = np.random.default_rng(1).standard_normal(30)
    D = K.todense()
    agrees(posterior(K, y, 0.2), dense(D, y, 0.2, D, np.diag(D)))


def test_conjugate_gradients_give_the_dense_predictions():
    K, cross, prior = tangent(1)
    y = np.random.default_rng(1).standard_normal((30, 3))
    wanted = dense(K.todense(), y, 0.1, cross.todense(), prior)
    names = ["coefficients", "mean", "variance", "influence"]
    agrees(posterior(K, y, 0.1, cross, prior, how="iterative", tol=1e-12), wanted, names=names)
    small = posterior(K, y, 0.1, cross, prior, how="iterative", memory=1, tol=1e-12)
    agrees(small, wanted, names=names)  # a new point at a time


def test_variances_err_by_the_square_of_the_solves():
    G = extended(np.geomspace(1e-3, 100, 60), 10)
    K, C, prior = G[:60, :60], G[60:, :60], np.diag(G)[60:]
    found = posterior(K, np.ones(60), 0.1, C, prior, how="iterative", tol=1e-4, rank=5)
    error = np.abs(found.variance - dense(K, np.ones(60), 0.1, C, prior)["variance"])
    assert error.max() < 1e-6 * prior.max()


def test_gradient_is_that_of_the_likelihood():
    K, *_ = tangent(1)
    y = np.random.default_rng(1).standard_normal((30, 2))
    step = 1e-5
    up, down = (posterior(K, y, 0.3 + s).log_marginal_likelihood for s in (step, -step))
    assert np.isclose(posterior(K, y, 0.3).noise_gradient, (up - down) / (2 * step), rtol=1e-7)


def test_leaving_one_out_is_leaving_it_out():
    K, cross, _ = tangent(1)
    D, C, noise = K.todense(), cross.todense(), 0.2
    y = np.random.default_rng(1).standard_normal(30)
    found = posterior(K, y, noise, cross)
    residuals, S = found.leave_one_out.values, found.influence.todense()
    for j in range(30):
        rest = np.delete(np.arange(30), j)
        alpha = np.linalg.solve(D[np.ix_(rest, rest)] + noise * np.eye(29), y[rest])
        assert np.isclose(residuals[j], y[j] - D[j, rest] @ alpha, atol=1e-10)
        np.testing.assert_allclose(
            found.mean - S[:, j] * residuals[j], C[:, rest] @ alpha, atol=1e-10
        )


def test_agrees_with_scikit_learn():
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    from sklearn.gaussian_process import GaussianProcessRegressor

    rng = np.random.default_rng(0)
    X, Y, y = rng.standard_normal((50, 3)), rng.standard_normal((7, 3)), rng.standard_normal(50)
    rbf, noise = kernels.ConstantKernel(1.7) * kernels.RBF(1.3), 0.05
    model = GaussianProcessRegressor(rbf, alpha=noise, optimizer=None).fit(X, y)
    mean, deviation = model.predict(Y, return_std=True)
    found = posterior(rbf(X), y, noise, rbf(Y, X), rbf.diag(Y))
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    np.testing.assert_allclose(found.variance**0.5, deviation, atol=1e-10)
    np.testing.assert_allclose(found.log_marginal_likelihood, model.log_marginal_likelihood())
    white = GaussianProcessRegressor(rbf + kernels.WhiteKernel(noise), alpha=0, optimizer=None)
    theta = np.log([1.7, 1.3, noise])
    gradient = white.fit(X, y).log_marginal_likelihood(theta, eval_gradient=True)[1][-1]
    np.testing.assert_allclose(noise * found.noise_gradient, gradient)


def covered(n, seeds, **options):
    """How often intervals hold the truth, and how wide they are beside it."""
    K = rotated(np.arange(1.0, n + 1) ** -1.2 * n)
    K = of.Gram(np.linalg.cholesky(K + 1e-12 * np.eye(n)))
    noise, y = 1.0, np.random.default_rng(1).standard_normal(n)
    wanted = dense(K.todense(), y, noise)
    held = {}
    for seed in range(seeds):
        found = posterior(K, y, noise, how="iterative", rng=seed, **options)
        for name in ("log_marginal_likelihood", "noise_gradient"):
            value = getattr(found, name)
            assert not value.exact
            held.setdefault(name, []).append(value.low <= wanted[name] <= value.high)
        for name in ("leverages", "leave_one_out"):
            value = getattr(found, name)
            inside = np.abs(value.values - wanted[name]) <= value.errors
            held.setdefault(name, []).append(inside.mean())
            assert value.errors.mean() < 0.25 * np.abs(wanted[name]).mean()
    return {name: float(np.mean(rates)) for name, rates in held.items()}


def test_intervals_cover():
    rates = covered(60, 12, rank=15, steps=30)
    assert min(rates["leverages"], rates["leave_one_out"]) >= 0.93, rates
    assert min(rates["log_marginal_likelihood"], rates["noise_gradient"]) >= 0.85, rates


@pytest.mark.thorough
def test_intervals_cover_with_all_steps():
    """Over 200 seeds the 95 % intervals cover at least 93 %, as at N = 1,100 and rank 100."""
    rates = covered(300, 200, rank=27)
    assert min(rates.values()) >= 0.93, rates


def test_leverages_are_what_a_fit_has_of_its_targets():
    """Of a kernel that the sketch holds, they are known to the tolerance."""
    F = np.random.default_rng(0).standard_normal((200, 8))
    found = posterior(of.Gram(F), F[:, 0], 0.5, how="iterative", rank=20)
    wanted = dense(F @ F.T, F[:, 0], 0.5)
    for name in ("leverages", "leave_one_out"):
        value = getattr(found, name)
        error = np.abs(value.values - wanted[name])
        assert (error <= value.errors).all() and value.errors.max() < 1e-5
        assert value.how == "random signs" and value.products == 60


def test_little_noise_leaves_finite_bars():
    """No (K + σ²)⁻¹ᵢᵢ is below 1 / (Kᵢᵢ + σ²), however little a few signs show."""
    K = of.Gram(np.linalg.cholesky(rotated(np.linspace(0.5, 3, 60))))
    found = posterior(K, np.ones(60), 1e-2, how="iterative", rank=2, products=15)
    wanted = dense(K.todense(), np.ones(60), 1e-2)["leave_one_out"]
    value = found.leave_one_out
    assert np.isfinite(value.errors).all() and (found.leverages.values < 1).all()
    assert np.mean(np.abs(value.values - wanted) <= value.errors) > 0.9


def test_bars_hold_what_the_solves_leave():
    F = np.random.default_rng(0).standard_normal((200, 8))
    found = posterior(of.Gram(F), np.ones(200), 0.5, how="iterative", rank=20, tol=1e-3)
    inverse = np.diag(np.linalg.inv(F @ F.T + 0.5 * np.eye(200)))
    least = 1e-3 * 200**0.5 / 0.5 / inverse
    assert (found.leave_one_out.errors > 0.9 * least).all()


def test_black_boxes_know_their_ends_too():
    K = rotated(np.linspace(0.1, 5, 80))
    found = posterior(Products(K, psd=True), np.ones(80), 0.5, how="iterative", rank=10)
    wanted = dense(K, np.ones(80), 0.5)
    for name in ("leverages", "leave_one_out"):
        value = getattr(found, name)
        assert np.mean(np.abs(value.values - wanted[name]) <= value.errors) > 0.9
    assert found.leverages.values.min() >= 0 and found.leverages.values.max() <= 1


def test_nothing_is_computed_before_it_is_asked_for():
    class Counted(Products):
        def _matmat(self, X):
            counts.append(X.shape[1])
            return super()._matmat(X)

    counts = []
    K = Counted(rotated(np.linspace(0.1, 5, 80)), psd=True)
    found = posterior(K, np.ones(80), 0.5, np.ones((3, 80)), how="iterative", rank=10)
    assert not counts
    influence = found.influence
    assert counts == [10]  # the sketch of the preconditioner
    assert influence.shape == (3, 80)
    assert "leverages" not in vars(found) and "_rule" not in vars(found)
    first = found.mean
    assert found.mean is first


def test_float32_stays_float32():
    K, cross, prior = tangent(1)
    K32, C32 = (x.todense().astype(np.float32) for x in (K, cross))
    y = np.random.default_rng(1).standard_normal(30).astype(np.float32)
    wanted = dense(K.todense(), y.astype(float), 0.5, cross.todense(), prior)
    for how in ("direct", "iterative"):
        found = posterior(K32, y, 0.5, C32, prior.astype(np.float32), how=how)
        for name in ("coefficients", "mean", "variance"):
            value = getattr(found, name)
            assert value.dtype == np.float32, name
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-4 * scale, err_msg=name)
        for name in ("leverages", "leave_one_out"):
            value = getattr(found, name)
            assert value.values.dtype == value.errors.dtype == np.float32
        assert found.influence.dtype == np.float32
        assert np.isclose(
            found.log_marginal_likelihood, wanted["log_marginal_likelihood"], rtol=0.1
        )


def test_seeds_are_seeds():
    K, *_ = tangent(1)
    options = {"how": "iterative", "rank": 5}
    values = [
        posterior(K, np.ones(30), 0.5, **options, **seed).leverages.values
        for seed in ({"rng": 3}, {"seed": 3}, {"rng": np.random.default_rng(3)}, {"rng": 4})
    ]
    assert np.array_equal(values[0], values[1]) and np.array_equal(values[0], values[2])
    assert not np.array_equal(values[0], values[3])
    with pytest.raises(TypeError, match="two names of one argument"):
        posterior(K, np.ones(30), 0.5, rng=1, seed=1)


def test_without_noise_the_targets_are_interpolated():
    K = rotated(np.linspace(0.5, 3, 20))
    y = np.random.default_rng(1).standard_normal(20)
    found = posterior(K, y, 0.0)
    np.testing.assert_allclose(found.mean, y, atol=1e-12)
    np.testing.assert_allclose(found.variance, 0, atol=1e-12)
    np.testing.assert_allclose(found.leverages.values, 1)
    agrees(found, dense(K, y, 0.0), names=["leave_one_out", "log_marginal_likelihood"])


def test_what_did_not_converge_says_so_and_results_are_picklable():
    K, cross, prior = tangent(1)
    found = posterior(K, np.ones(30), 1e-3, cross, prior, how="iterative", rank=1, tol=1e-18)
    with pytest.warns(ConvergenceWarning):
        mean = found.mean
    copy = pickle.loads(pickle.dumps(found))
    assert isinstance(copy.inverse, Inverse) and np.array_equal(copy.mean, mean)
    assert repr(found) == "<Posterior of (30,) targets, noise 0.001, iterative>"


def test_a_singular_kernel_needs_noise():
    """Rounding makes the last pivot of some of them positive."""
    for seed in range(30):
        for n in (2, 20, 200):
            F = np.random.default_rng(seed).standard_normal((n, n - 1))
            with pytest.raises(ValueError, match="singular to rounding"):
                _ = posterior(F @ F.T, np.ones(n), 0.0).coefficients


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda K, y, C: posterior(K, y[1:], 1.0), "y has shape"),
        (lambda K, y, C: posterior(K, y, -1.0), "noise must be finite and not negative"),
        (lambda K, y, C: posterior(K, y, 0.0, how="iterative"), "noise must be positive unless"),
        (lambda K, y, C: posterior(K, y, 0.0).mean, "singular to rounding"),
        (lambda K, y, C: posterior(K - 9 * of.Identity(30), y, 1.0).mean, "singular to rounding"),
        (lambda K, y, C: posterior(K, y, 1.0, C.T), "cross must have shape"),
        (lambda K, y, C: posterior(of.Identity(6), np.ones((3, 2)), 1.0, np.ones((3, 6))), "cross"),
        (lambda K, y, C: posterior(K, y, 1.0, C).variance, "needs prior_diagonal"),
        (lambda K, y, C: posterior(K, y, 1.0, C, np.ones(3)), "prior_diagonal has size 3, not 4"),
        (lambda K, y, C: posterior(K, y, 1.0, how="dense"), "how must be"),
        (lambda K, y, C: posterior(K, y, 1.0, products=14), "products"),
        (lambda K, y, C: posterior(K, y, 1.0, tol=-1.0), "tol must be positive"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    K, cross, _ = tangent(1)
    with pytest.raises(ValueError, match=message):
        call(K, np.ones(30), cross)
