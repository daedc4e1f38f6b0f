import math

import numpy as np
import pytest

import opflow as of
from opflow.dynamics.first_layer import FirstLayer
from opflow.dynamics.methods.exponential import moving_integral
from opflow.dynamics.methods.gradient_flow import chebyshev, damped, stable_stages
from opflow.dynamics.state import State

FLOWS = [of.ExponentialFlow(2.5e-3), of.GradientFlow(2.5e-3), of.LinearisedFlow()]
ADAPTIVE = FLOWS[:2]


def problem(n=24, outputs=1, widths=(32, 24), seed=0, dtype=np.float64, **kw):
    rng = np.random.default_rng(seed)
    net = of.ReLUNetwork.random([5, *widths], outputs=outputs, seed=seed, dtype=dtype, **kw)
    y = rng.standard_normal((n, outputs)).astype(dtype)
    return net, rng.standard_normal((n, 5)).astype(dtype), y


def state(net, X, y):
    return State(net, FirstLayer(X), y)


def kernel(net, X):
    return of.collective_kernel(net.fields(X))


def top(net, X):
    return np.linalg.eigvalsh(kernel(net, X).todense())[-1]


def reference(net, X, y, T, parts):
    """Heun steps, in the same residual space; only gradient descent's step is shared."""
    now, spare = state(net, X, y), np.empty_like(y)
    h = T / parts
    for _ in range(parts):
        _, slope = now.loss_and_velocity(spare)
        _, ahead = now.moved(slope, h).loss_and_velocity(spare)
        now = now.moved([a + b for a, b in zip(slope, ahead, strict=True)], h / 2)
    now.loss_and_velocity(spare)
    return spare


@pytest.fixture(scope="module")
def exact():
    net, X, y = problem()
    T = 5 / top(net, X)
    fine, coarse = reference(net, X, y, T, 1000), reference(net, X, y, T, 500)
    return net, X, y, T, fine, np.linalg.norm(fine - coarse)


@pytest.mark.parametrize("method", [of.ExponentialFlow, of.GradientFlow])
def test_converges_to_the_gradient_flow(exact, method):
    net, X, y, T, fine, doubt = exact
    start = np.linalg.norm(net(X) - y)
    errors = []
    for tol in (1.0, 1e-2, 1e-4, 1e-6):
        run = of.train(net, X, y, method=method(tol), times=[T])
        errors.append(np.linalg.norm(run.residual - fine))
    assert doubt < 1e-4 * start
    assert errors[-1] < 5e-3 * start and errors[-1] < 0.05 * errors[0]
    assert (np.diff(errors) < 0).all()


def test_exponential_steps_go_far_beyond_the_stability_limit():
    net, X, y = problem()
    limit = 2 / top(net, X)
    run = of.train(net, X, y, method=of.ExponentialFlow(1.0), times=[1000 * limit])
    assert run.products < 200


def test_an_exponential_step_is_exact_while_no_gate_flips():
    net, X, y = problem(widths=(32,))
    X = np.vstack([X, -X])
    y = 1e-9 * np.ones((48, 1)) + net(X)  # the weights hardly move
    method = of.ExponentialFlow(1e-6)
    T = 50 / top(net, X)
    run = of.train(net, X, y, method=method, times=[T])
    r = (net(X) - y)[:, 0]
    expected = of.spectral.expm(kernel(net, X), r, T, tol=1e-12)
    np.testing.assert_allclose(run.residual[:, 0], expected, atol=1e-4 * np.linalg.norm(r))


@pytest.mark.parametrize("method", FLOWS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_requested_times_are_hit_and_the_products_counted(method, outputs):
    net, X, y = problem(outputs=outputs, bias=True)
    times = [0.01, 0.5, 0.51, 3.0]
    run = of.train(net, X, y, method=method, times=times)
    np.testing.assert_array_equal(run.times, [0, *times])
    assert run.losses[-1] == pytest.approx(0.5 * (run.residual**2).sum(), rel=1e-12)
    if method in ADAPTIVE:
        np.testing.assert_allclose(run.residual, run.network(X) - y, atol=1e-12)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_clipped_step_keeps_its_size(method):
    net, X, y = problem()
    integrator = method.start(state(net, X, y), 1.0)
    spare = np.empty_like(y)
    integrator.evaluate(spare)
    for _ in range(4):
        integrator.advance(math.inf)
    size = integrator.step
    moved = integrator.advance(1e-6 * size)
    assert moved == 1e-6 * size
    assert integrator.step >= size


@pytest.mark.parametrize("method", FLOWS)
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resumes_bit_for_bit(method, stop):
    net, X, y = problem(outputs=2, bias=True)
    whole, spare = method.start(state(net, X, y), 0.5), np.empty_like(y)
    again = method.start(state(net, X, y), 0.5)
    for step in range(9):
        whole.evaluate(spare)
        if step == stop:
            held = {name: np.array(a) for name, a in whole.arrays().items()}
            again.restore(held)
        if step >= stop:
            other = np.empty_like(y)
            again.evaluate(other)
            np.testing.assert_array_equal(spare, other)
            for p, q in zip(whole.state.parameters, again.state.parameters, strict=True):
                np.testing.assert_array_equal(p, q)
            assert again.advance(0.4 * step + 0.1) == whole.advance(0.4 * step + 0.1)
        else:
            whole.advance(0.4 * step + 0.1)


@pytest.mark.parametrize("method", FLOWS)
def test_the_mean_loss_is_the_sum_in_other_units_of_time(method):
    net, X, y = problem()
    a = of.train(net, X, y, method=method, times=[2.0])
    b = of.train(net, X, y, method=method, times=[2.0 * len(X)], loss="mean")
    np.testing.assert_allclose(a.residual, b.residual, rtol=1e-9, atol=1e-12)
    assert a.products == b.products


@pytest.mark.parametrize("method", FLOWS)
def test_where_nothing_can_move_nothing_does(method):
    net, X, y = problem()
    dead = net.replace([-np.abs(net.weights[0]), net.weights[1]])
    X = np.abs(X)
    run = of.train(dead, X, y, method=method, times=[1.0, 1e3])
    np.testing.assert_array_equal(run.residual, -y)
    run = of.train(net, X, net(X), method=method, times=[1.0, 1e3])
    np.testing.assert_allclose(run.residual, 0, atol=1e-12)
    integrator, spare = method.start(state(dead, X, y), 1.0), np.empty_like(y)
    integrator.evaluate(spare)
    assert 0 < integrator.advance(math.inf) < math.inf


@pytest.mark.parametrize("method", FLOWS)
def test_float32_stays_float32(method):
    net, X, y = problem(dtype=np.float32)
    run = of.train(net, X, y, method=method, times=[1.0])
    assert run.residual.dtype == run.network.dtype == np.float32
    wide = of.ReLUNetwork(
        [W.astype(float) for W in net.weights], net.readout.astype(float), rates=net.rates
    )
    wide = of.train(wide, X.astype(float), y.astype(float), method=method, times=[1.0])
    assert np.linalg.norm(run.residual - wide.residual) < 2e-2 * np.linalg.norm(y)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_eliminated_route_gives_the_same_flow(method):
    net, X, y = problem()
    weights, dual = (
        of.train(net, X, y, method=method, times=[3.0], eliminate=eliminate)
        for eliminate in (False, True)
    )
    np.testing.assert_allclose(weights.residual, dual.residual, atol=1e-8)


# -- linearised ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [128, 7])
def test_the_linearised_residual_is_exact_at_all_times(size):
    net, X, y = problem(outputs=2)
    K, r = kernel(net, X), (net(X) - y).reshape(-1)
    values, Q = np.linalg.eigh(K.todense())
    times = np.array([1e-3, 0.1, 1.0, 5.0, 20.0]) / values[-1] * 10
    integrator = of.LinearisedFlow(1e-9, size).start(state(net, X, y), 1.0)
    spare, now = np.empty_like(y), 0.0
    integrator.evaluate(spare)
    for t in times:
        while now < t:
            left = t - now
            moved = integrator.advance(left)
            now = t if moved == left else now + moved
        integrator.evaluate(spare)
        expected = Q @ (np.exp(-t * values) * (Q.T @ r))
        np.testing.assert_allclose(spare.reshape(-1), expected, atol=2e-9 * np.linalg.norm(r))
        dual = integrator.dual.reshape(-1)
        np.testing.assert_allclose(K @ dual, r - spare.reshape(-1), atol=1e-8 * np.linalg.norm(r))


def test_linearised_predictions_go_through_the_cross_kernel():
    net, X, y = problem(outputs=2)
    rng = np.random.default_rng(1)
    new = rng.standard_normal((6, 5))
    integrator = of.LinearisedFlow().start(state(net, X, y), 1.0)
    integrator.evaluate(np.empty_like(y))
    integrator.advance(0.7)
    J, Jnew = of.jacobian(net.fields(X)), of.jacobian(net.fields(new))
    through_kernel = net(new).reshape(-1) - Jnew @ (J.T @ integrator.dual.reshape(-1))
    moved = np.concatenate([
        ((W - V) / math.sqrt(rate)).ravel()
        for W, V, rate in zip(
            integrator.state.network.weights, net.weights, net.rates, strict=True
        )
    ])  # fmt: skip
    np.testing.assert_allclose(net(new).reshape(-1) + Jnew @ moved, through_kernel, atol=1e-12)


def test_linearised_times_double_by_themselves():
    net, X, y = problem()
    run = of.train(net, X, y, method=of.LinearisedFlow(), steps=8)
    np.testing.assert_allclose(run.times[2:] / run.times[1:-1], 2.0)
    assert (np.diff(run.losses) < 0).all()


@pytest.mark.parametrize("dtype, t", [(np.float32, 1e6), (np.float64, 1e15)])
@pytest.mark.parametrize("size", [128, pytest.param(9, marks=pytest.mark.thorough)])
def test_what_no_weight_can_fit_stays_for_all_times(dtype, t, size):
    net, X, y = problem(n=400, widths=(4,), dtype=dtype)
    r = (net(X) - y).reshape(-1).astype(np.float64)
    values, Q = np.linalg.eigh(kernel(net, X).todense().astype(np.float64))
    null = values < 2e-4 * values[-1]  # 20 weights for 400 targets
    assert null.sum() == 380
    left = Q[:, null] @ (Q[:, null].T @ r)
    run = of.train(net, X, y, method=of.LinearisedFlow(size=size), times=[t], memory="1GB")
    allowed = max(1e-8, 1e4 * float(np.finfo(dtype).eps))  # of the flow, or rounding
    off = np.linalg.norm(run.residual.reshape(-1) - left)
    assert off < allowed * np.linalg.norm(r)
    assert run.losses[-1] == pytest.approx(0.5 * (left**2).sum(), rel=3 * allowed)
    # the parameters are those of the residual: rounding times t would move them
    if size == 128:  # restarts leave some of the tolerance, over the smallest eigenvalue
        moved = run.predict(X) - y - run.residual
        assert np.linalg.norm(moved) < allowed * np.linalg.norm(r)


def test_an_exponential_step_is_not_moved_by_what_no_weight_can_fit():
    net, X, y = problem(n=400, widths=(4,), dtype=np.float32)
    integrator = of.ExponentialFlow(1.0).start(state(net, X, y), 1.0)
    integrator.evaluate(np.empty_like(y))
    krylov = integrator.krylov
    assert krylov.reach(1e6, 1e-6)
    u = moving_integral(krylov, 1e6)
    values = np.linalg.eigvalsh(kernel(net, X).todense().astype(np.float64))
    smallest = values[values > 2e-4 * values[-1]][0]
    assert np.linalg.norm(u) < 2 / smallest * krylov.norm


# -- the Chebyshev method -------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [2, 3, 10, 200])
def test_the_stability_polynomial(stages):
    w0, (w1, T, consistent, curved) = damped(stages), chebyshev(stages)
    assert consistent[stages] == pytest.approx(1.0, rel=1e-12)
    limit = (w0 + 1) / w1
    assert limit > 1.9 * stages**2
    z = np.linspace(0, limit, 5001)
    R = np.polynomial.chebyshev.Chebyshev.basis(stages)(w0 - w1 * z) / T[stages]
    assert np.abs(R).max() <= 1 + 1e-12
    assert np.abs(R[z > 3]).max() < 0.97
    small = 1e-3
    R = np.polynomial.chebyshev.Chebyshev.basis(stages)(w0 - w1 * small) / T[stages]
    assert abs(R - (1 - small + curved[stages] * small**2)) < 0.2 * small**3


def test_the_fewest_stable_stages_are_taken():
    for reach in (0.0, 1.0, 7.0, 8.0, 1e3, 7e4):
        stages, size = stable_stages(2.0, reach / 2)
        assert size == reach / 2
        assert reach <= (damped(stages) + 1) / chebyshev(stages)[0]
        if stages > 2:
            assert reach > (damped(stages - 1) + 1) / chebyshev(stages - 1)[0]
    stages, size = stable_stages(2.0, 1e9)
    assert stages == 200 and 2 * size == pytest.approx((damped(200) + 1) / chebyshev(200)[0])


def test_the_error_of_one_stage_is_measured_from_the_step_before():
    net, X, y = problem()
    y = 1e-9 * np.ones_like(y) + net(X)  # the weights hardly move: no gate flips
    integrator = of.GradientFlow().start(state(net, X, y), 1.0)
    integrator.evaluate(np.empty_like(y))
    integrator.measure()
    K, size = kernel(net, X), 0.02 / top(net, X)
    integrator.size = size
    for stages, h in ((2, size), (1, size), (1, size / 2)):
        integrator.size = h
        r, before = integrator.point.residual[:, 0], integrator.products
        trial = integrator.attempt(h)
        assert integrator.products - before == stages
        error = np.linalg.norm(trial.end.residual[:, 0] - of.spectral.expm(K, r, h, tol=1e-12))
        scale = integrator.allowed * max(np.linalg.norm(r), integrator._rounding)
        assert trial.error * scale == pytest.approx(error, rel=0.05, abs=0)
        integrator.advance(h)


@pytest.mark.parametrize("widths, seed", [((48,), 1), ((32, 24), 0)])
def test_small_sets_cost_less_than_descent_of_equal_error(widths, seed):
    net, X, y = problem(n=120, widths=widths, seed=seed)
    limit = 2 / top(net, X)
    T = 150 * limit
    fine = reference(net, X, y, T, 2400)
    descent = of.train(net, X, y, method=of.GradientDescent(0.1 * limit), until=T, every=10**9)
    flow = of.train(net, X, y, method=of.GradientFlow(), until=T)
    assert np.linalg.norm(flow.residual - fine) < 1.1 * np.linalg.norm(descent.residual - fine)
    assert flow.products < 0.8 * descent.products


@pytest.mark.parametrize("method", [of.ExponentialFlow, of.GradientFlow, of.LinearisedFlow])
def test_tolerances_are_checked(method):
    for tol in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="tol"):
            method(tol)
    with pytest.raises(TypeError, match="tol"):
        method("small")
    if method is not of.GradientFlow:
        with pytest.raises(ValueError, match="size"):
            method(0.1, 1)


@pytest.mark.parametrize("options", [{}, {"eliminate": True}, {"loss": "mean"}])
def test_a_linearised_flow_goes_on_from_a_trained_network(options, tmp_path):
    """Train, freeze the kernel there, go on: from a trajectory, its file, or any checkpoint."""
    rng = np.random.default_rng(0)
    X, y, new = (rng.standard_normal(shape) for shape in ((20, 4), (20, 2), (7, 4)))
    net = of.ReLUNetwork.random([4, 16, 12], outputs=2, bias=True, seed=0)
    path = tmp_path / "run.ckpt.npz"
    run = of.train(net, X, y, steps=30, checkpoint=of.Checkpoint(path, steps=10), **options)
    run.save(tmp_path / "run.npz")
    at_20 = of.train(net, X, y, steps=0, resume=tmp_path / "run.ckpt.npz.1", **options)
    assert at_20.steps[-1] == 20 and at_20.losses[-1] == run.losses[20]
    for network in (run.network, of.ReLUNetwork.load(tmp_path / "run.npz"), at_20.network):
        fields, share = network.fields(X), 1 / 20 if "loss" in options else 1.0
        K = of.collective_kernel(fields).todense()
        values, U = np.linalg.eigh(K)
        values = values.clip(0)
        r, t = U.T @ (network(X) - y).ravel(), 5 / (share * values[-1])
        with np.errstate(invalid="ignore"):
            dual = np.where(values > 1e-9 * values[-1], -np.expm1(-t * share * values) / values, 0)
        cross = of.cross_kernel(network.fields(new), fields).todense()
        then = of.train(network, X, y, method=of.LinearisedFlow(), times=[t], **options)
        wanted = network(new) - (cross @ (U @ (dual * r))).reshape(-1, 2)
        np.testing.assert_allclose(then.predict(new), wanted, rtol=0, atol=1e-7)
        residual = (U @ (np.exp(-t * share * values) * r)).reshape(-1, 2)
        np.testing.assert_allclose(then.residual, residual, rtol=0, atol=1e-7)
