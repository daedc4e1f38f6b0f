"""Objectives against torch: values, forces, Hessians, runs; and what is refused."""

import copy

import numpy as np
import pytest

import opflow as of
from opflow.dynamics.objectives import CrossEntropy, Huber, Quadratic, run_objective

torch = pytest.importorskip("torch")
EPS = np.finfo(float).eps


def loss_of(name, k):
    """The same loss in torch, sample by sample."""
    functional = torch.nn.functional
    if name == "quadratic":
        return lambda f, y: 0.5 * ((f - y) ** 2).sum(1)
    if name == "huber":
        return lambda f, y: functional.huber_loss(f, y, reduction="none").sum(1)
    if k == 1:
        plain = functional.binary_cross_entropy_with_logits
        return lambda f, y: plain(f, y, reduction="none").sum(1)
    return lambda f, y: functional.cross_entropy(f, y, reduction="none")


def data(name, k, n=40, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    f = scale * rng.standard_normal((n, k))
    y = rng.standard_normal((n, k))
    if name == "cross-entropy":
        y = rng.integers(0, max(k, 2), n)
    return f, y


CASES = [(name, k) for name in ("quadratic", "cross-entropy", "huber") for k in (1, 3)]


@pytest.mark.parametrize("scale", [0.1, 2.0, 100.0])
@pytest.mark.parametrize(("name", "k"), CASES)
def test_value_force_and_hessian_are_those_of_torch(name, k, scale):
    f, y = data(name, k, scale=scale)
    objective = run_objective(name, k)
    y = objective.targets(y.astype(float), k)
    u = np.random.default_rng(1).standard_normal(f.shape)
    leaf = torch.tensor(f, requires_grad=True)
    values = loss_of(name, k)(leaf, torch.tensor(y))
    (force,) = torch.autograd.grad(values.sum(), leaf, create_graph=True)
    (moved,) = torch.autograd.grad((force * torch.tensor(u)).sum(), leaf, allow_unused=True)
    tolerance = {"rtol": 8 * EPS, "atol": 8 * EPS * scale}
    np.testing.assert_allclose(objective.value(f, y), values.detach(), **tolerance)
    np.testing.assert_allclose(objective.force(f, y), force.detach(), **tolerance)
    np.testing.assert_allclose(objective.hessian(f, y, u), moved, **tolerance)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_saturated_softmax_keeps_all_digits(k, seed):
    f, y = data("cross-entropy", k, scale=30.0, seed=seed)
    y = run_objective("cross-entropy", k).targets(y.astype(float), k)
    u = np.random.default_rng(seed).standard_normal(f.shape)
    wide = [np.asarray(x, dtype=np.longdouble) for x in (f, y, u)]
    if k == 1:
        wide = [np.hstack([first, x]) for first, x in zip((0 * f, 1 - y, 0 * u), wide, strict=True)]
    z, t, v = wide
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    pairs = p[:, :, None] * p[:, None]  # Σ_j (y_j p_i − p_j y_i) and p_i Σ_j p_j (v_i − v_j)
    force = (t[:, None] * p[:, :, None] - p[:, None] * t[:, :, None]).sum(axis=2)
    moved = (pairs * (v[:, :, None] - v[:, None])).sum(axis=2)
    objective = CrossEntropy(k)
    for got, exact in ((objective.force(f, y), force), (objective.hessian(f, y, u), moved)):
        # f less the largest is rounded, and exp turns that into a relative error
        size = abs(exact).max(axis=1, keepdims=True)
        assert (abs(got - exact[:, -k:]) <= (np.ptp(z) + 8) * EPS * size).all()


@pytest.mark.parametrize("k", [1, 3])
def test_probabilities_are_targets_and_the_force_is_the_slope_of_the_value(k):
    rng = np.random.default_rng(0)
    y = rng.random((20, k))
    if k > 1:
        y /= y.sum(axis=1, keepdims=True)
    f = rng.standard_normal((20, k))
    objective = run_objective("cross-entropy", k)
    leaf = torch.tensor(f, requires_grad=True)
    values = loss_of("cross-entropy", k)(leaf, torch.tensor(y))
    values.sum().backward()
    y = objective.targets(y, k)
    np.testing.assert_allclose(objective.value(f, y), values.detach(), rtol=8 * EPS)
    np.testing.assert_allclose(objective.force(f, y), leaf.grad, atol=8 * EPS)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_curvature_bounds_the_hessian_and_is_reached(k):
    objective = CrossEntropy(k)
    f = np.zeros((1, k)) if k < 3 else np.array([[50.0, 50.0, 0, 0, 0]])
    H = np.hstack([objective.hessian(f, None, e[None]).T for e in np.eye(k)])
    assert np.linalg.eigvalsh(H)[-1] == pytest.approx(objective.curvature)
    assert Quadratic().curvature == Huber().curvature == 1


@pytest.mark.parametrize(("name", "k"), CASES)
def test_outputs_of_any_size_are_finite_in_float32(name, k):
    f, y = data(name, k)
    f = np.float32([-1e30, 1e4, 1e30] * 14)[:40, None] * np.float32([1, -1, 0.5])[:k]
    objective = run_objective(name, k)
    y = objective.targets(y.astype(np.float32), k)
    with np.errstate(all="raise", under="ignore"):
        force = objective.force(f, y)
        if name != "quadratic":
            value = objective.value(f, y)
            assert value.dtype == np.float32
            assert np.isfinite(value).all()
    assert force.dtype == np.float32
    assert np.isfinite(force).all()


@pytest.mark.parametrize(
    ("y", "k"),
    [
        ([-1.0, 1.0], 1),
        ([0.0, 2.0], 1),
        ([0.5, 1.0], 1),
        ([0.0, 3.0], 3),
        ([0.0, 1.5], 3),
        ([[0.5, 0.6, 0.1]], 3),
        ([[1.5, -0.5, 0.0]], 3),
        ([[-1.0]], 1),
        ([[1.5]], 1),
    ],
)
def test_what_names_no_class_is_refused(y, k):
    y = np.array(y)
    with pytest.raises(ValueError, match=rf"labels 0\.\.{max(k - 1, 1)}.*np\.unique"):
        CrossEntropy(k).targets(y, k)


@pytest.mark.parametrize("objective", ["hinge", None, 3, Huber, object()])
def test_what_is_no_objective_is_refused(objective):
    with pytest.raises(ValueError, match=r"'quadratic', 'cross-entropy', 'huber'.*value\(f, y\)"):
        run_objective(objective, 1)


@pytest.mark.parametrize("delta", [0, -1.0, np.inf, np.nan, "1"])
def test_a_huber_loss_needs_a_positive_delta(delta):
    with pytest.raises(ValueError, match="delta must be a positive number"):
        Huber(delta)


# -- runs ------------------------------------------------------------------------------------


def problem(name, k, n=20, **options):
    """A network, inputs, targets as a user gives them, and the loss of torch."""
    rng = np.random.default_rng(k)
    net = of.ReLUNetwork.random([4, 12, 10], outputs=k, bias=True, seed=k, **options)
    y = 3 * rng.standard_normal((n, k))
    if name == "cross-entropy":
        y = rng.integers(0, max(k, 2), n)
    return net, rng.standard_normal((n, 4)), y


def torch_losses(net, X, y, name, step, steps, momentum=0.0):
    """The losses of descent by automatic differentiation, and where it led."""
    loss = loss_of(name, net.outputs)
    X = torch.tensor(X)
    y = torch.tensor(run_objective(name, net.outputs).targets(y.astype(float), net.outputs))
    leaves = [torch.tensor(p, requires_grad=True) for p in net.parameter_list()]
    readout = torch.tensor(net.readout)
    motion = [0.0] * len(leaves)
    losses = []
    for _ in range(steps + 1):
        a, rest = X, list(leaves)
        for _ in range(net.depth):
            a = torch.relu(a @ rest.pop(0).T + rest.pop(0))
        total = loss(a @ readout.T, y).sum()
        losses.append(total.item())
        slopes = torch.autograd.grad(total, leaves)
        for i, (p, g, rate) in enumerate(zip(leaves, slopes, net.parameter_rates(), strict=True)):
            motion[i] = momentum * motion[i] - step * rate * g
            p.data += motion[i]
    return np.array(losses)


@pytest.mark.parametrize(
    ("momentum", "options"),
    [(0.0, {}), (0.0, {"eliminate": True}), (0.8, {}), (0.0, {"loss": "mean"})],
)
@pytest.mark.parametrize(("name", "k"), CASES)
def test_a_hundred_steps_are_those_of_torch(name, k, momentum, options):
    net, X, y = problem(name, k)
    n = len(X) if "loss" in options else 1
    method = of.GradientDescent(step=0.02 * n, momentum=momentum)
    run = of.train(net, X, y, method=method, steps=100, objective=name, **options)
    expected = torch_losses(net, X, y, name, 0.02, 100, momentum)
    np.testing.assert_allclose(n * run.losses, expected, rtol=1e-10)
    assert run.losses[-1] < 0.9 * run.losses[0]
    y = run_objective(name, k).targets(y.astype(float), k)
    force = run_objective(name, k).force(run.network(X), y)
    np.testing.assert_allclose(run.residual, force, atol=1e-12)


@pytest.mark.parametrize(("name", "k"), CASES[2:])
def test_the_gradient_flow_is_the_limit_of_small_steps(name, k):
    net, X, y = problem(name, k)
    flow = of.GradientFlow(tol=1e-11)
    run = of.train(net, X, y, method=flow, times=[0.1, 0.2], objective=name)
    fine = of.GradientDescent(step=5e-5)
    euler = of.train(net, X, y, method=fine, until=0.2, every=2000, objective=name)
    np.testing.assert_allclose(run.losses[1:], euler.losses[1:], rtol=2e-4)
    rough = of.train(net, X, y, method=of.GradientFlow(), times=[0.2], objective=name)
    assert rough.losses[-1] == pytest.approx(euler.losses[-1], rel=0.01)


@pytest.mark.parametrize(("name", "k"), CASES[2:])
def test_the_truncated_flow_of_full_order_is_descent(name, k):
    net, X, y = problem(name, k)
    options = {"steps": 20, "objective": name}
    method = of.TruncatedFlow(order=2, step=0.02)
    seen = {"observe": [of.observe.TruncationError()]}
    run = of.train(net, X, y, method=method, **options, **seen)
    plain = of.train(net, X, y, method=of.GradientDescent(0.02), **options)
    np.testing.assert_allclose(run.losses, plain.losses, rtol=1e-12)
    assert run.observations["truncation_error"].max() < 1e-12
    auto = of.train(net, X, y, method=of.TruncatedFlow(order=2), **options)
    assert auto.step == pytest.approx(of.train(net, X, y, **options).step)


@pytest.mark.parametrize(("k", "curvature"), [(1, 0.25), (3, 0.5)])
def test_the_default_step_is_that_of_the_curvature(k, curvature):
    net, X, y = problem("cross-entropy", k)
    top = np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[-1]
    seen = [of.observe.Sharpness(tol=1e-8, steps=100)]
    run = of.train(net, X, y, steps=200, objective="cross-entropy", observe=seen)
    first = of.train(net, X, y, steps=0, objective="cross-entropy")
    assert 1 / (curvature * first.step * top) == pytest.approx(1, rel=0.03)
    assert run.observations["sharpness"][0] == pytest.approx(curvature * top)
    assert (np.diff(run.losses) < 0.01 * run.losses[1:]).all()
    assert run.losses[-1] < 0.2 * run.losses[0]


def test_batches_follow_the_force_without_bias():
    net, X, y = problem("cross-entropy", 3)
    method = of.GradientDescent(step=1e-6, batch=7, rng=0)
    run = of.train(net, X, y, method=method, steps=2000, every=2000, objective="cross-entropy")
    whole = of.train(net, X, y, method=of.GradientDescent(1e-6), steps=2000, every=2000,
                     objective="cross-entropy")  # fmt: skip
    moved, expected = (r.network.weights[0] - net.weights[0] for r in (run, whole))
    assert np.linalg.norm(moved - expected) < 0.1 * np.linalg.norm(expected)
    auto = of.GradientDescent(batch=7, rng=0)
    run = of.train(net, X, y, method=auto, steps=200, every=10, objective="cross-entropy")
    assert run.losses[-1] < 0.7 * run.losses[0]


def test_a_run_of_cross_entropy_goes_on_bit_for_bit(tmp_path):
    net, X, y = problem("cross-entropy", 3)
    for method in (of.GradientDescent(), of.GradientFlow(tol=1e-3)):
        path = tmp_path / method.name
        options = {"method": method, "objective": "cross-entropy"}
        whole = of.train(net, X, y, steps=20, **options)
        of.train(net, X, y, steps=9, checkpoint=path, **options)
        run = of.train(net, X, y, steps=20, checkpoint=path, resume=True, **options)
        assert run.losses.tobytes() == whole.losses.tobytes()
        assert run.residual.tobytes() == whole.residual.tobytes()
        with pytest.raises(ValueError, match=r"another run.*CrossEntropy\(outputs=3\)"):
            onehot = np.eye(3)[y]
            of.train(net, X, onehot, steps=20, method=method, checkpoint=path, resume=True)


def test_the_observers_follow_the_objective():
    net, X, y = problem("cross-entropy", 1)
    seen = [of.observe.Accuracy(X, y), of.observe.HeldOutLoss(X, y), of.observe.ResidualNorm()]
    run = of.train(net, X, y, steps=50, objective="cross-entropy", observe=seen)
    assert run.observations["accuracy"][-1] == ((run.network(X)[:, 0] > 0) == y).mean()
    np.testing.assert_allclose(run.observations["held_out_loss"] * len(X), run.losses)
    assert run.observations["residual_norm"][-1] == pytest.approx(np.linalg.norm(run.residual))
    net, X, y = problem("cross-entropy", 3)
    options = {"steps": 5, "objective": "cross-entropy"}
    held = of.observe.HeldOutLoss(X, y)
    run = of.train(net, X, y, observe=[held], **options)
    np.testing.assert_allclose(run.observations["held_out_loss"] * len(X), run.losses)
    onehot = of.train(net, X, np.eye(3)[y], **options)
    assert onehot.losses.tobytes() == run.losses.tobytes()


class Cosh:
    """Σ log cosh (f − y), with all that an objective may have."""

    curvature = 1.0

    def value(self, f, y):
        return np.log(np.cosh(f - y)).sum(axis=1)

    def force(self, f, y):
        return np.tanh(f - y)


class Bare:
    """The same without its curvature, shifted below zero."""

    def value(self, f, y):
        return Cosh().value(f, y) - 100

    force = Cosh.force


@pytest.mark.parametrize("k", [1, 3])
def test_a_users_own_objective_is_followed(k):
    net, X, y = problem("huber", k)
    step = of.GradientDescent(0.02)
    run = of.train(net, X, y, method=step, steps=30, objective=Cosh())
    np.testing.assert_allclose(run.residual, np.tanh(run.network(X) - y), atol=1e-13)
    assert run.losses[-1] == pytest.approx(np.log(np.cosh(run.network(X) - y)).sum(), rel=1e-13)
    low = of.train(net, X, y, method=step, steps=30, objective=Bare())
    np.testing.assert_allclose(low.losses + 100 * len(X), run.losses, rtol=1e-12)
    for method in (of.GradientDescent(), of.GradientFlow()):
        run = of.train(net, X, y, method=method, steps=10, objective=Cosh())
        assert run.losses[-1] < run.losses[0]


@pytest.mark.parametrize(
    "method", [of.GradientDescent(), of.GradientFlow(), of.TruncatedFlow(order=1)]
)
@pytest.mark.parametrize("curvature", [None, 0, np.nan, np.inf])
def test_a_step_by_lambda_max_needs_a_curvature(method, curvature):
    net, X, y = problem("huber", 1)
    own = Bare()
    if curvature is not None:
        own.curvature = curvature
    with pytest.raises(ValueError, match=r"Bare needs a positive number `curvature`.*step=number"):
        of.train(net, X, y, method=method, steps=10, objective=own)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("part", ["value", "force"])
def test_an_objective_of_another_shape_is_refused(part, k):
    net, X, y = problem("huber", k)
    own = copy.copy(Cosh())
    setattr(own, part, lambda f, y: (f - y).sum())
    with pytest.raises(ValueError, match=rf"{part} of Cosh must be \(20,.*\), not \(\)"):
        of.train(net, X, y, method=of.GradientDescent(0.1), steps=10, objective=own)


@pytest.mark.parametrize("method", [of.ExponentialFlow(), of.LinearisedFlow()])
def test_a_linear_flow_is_for_the_quadratic_objective(method):
    net, X, y = problem("cross-entropy", 3)
    with pytest.raises(ValueError, match=r"Flow\(.*needs objective='quadratic'.*cross-entropy"):
        of.train(net, X, y, method=method, until=1.0, objective="cross-entropy")


@pytest.mark.parametrize(
    ("y", "k", "message"),
    [
        (2 * (np.arange(20) % 2) - 1, 1, r"labels 0\.\.1"),
        (np.arange(20), 3, r"labels 0\.\.2"),
        (np.zeros(19, int), 3, r"X has 20 rows.*\(20, 3\) or \(20,\)"),
        (np.zeros((20, 1), int), 3, r"shape \(20, 1\)"),
        (np.array(["a"] * 20), 3, "text"),
    ],
)
def test_wrong_labels_are_refused_before_any_work(y, k, message):
    net, X, _ = problem("cross-entropy", k)
    with pytest.raises((ValueError, TypeError), match=message):
        of.train(net, X, y, steps=10, objective="cross-entropy")


def test_divergence_says_of_what():
    net, X, y = problem("cross-entropy", 3)
    with pytest.raises(of.DivergenceError, match="of the quadratic loss was"):
        of.train(net, X, y, method=of.GradientDescent(1e4), steps=50, objective="cross-entropy")
    big = 1e200 * np.ones((20, 3))
    with (
        pytest.warns(UserWarning, match="badly"),
        pytest.raises(of.DivergenceError, match="quadratic loss, are beyond"),
    ):
        of.train(net, X, big, method=of.GradientDescent(0.1), steps=5)


def test_the_mark_of_an_objective_in_checkpoints_does_not_change():
    marks = [repr(run_objective(name, 3)) for name in ("quadratic", "cross-entropy", "huber")]
    assert marks == ["Quadratic()", "CrossEntropy(outputs=3)", "Huber(delta=1.0)"]
    assert repr(run_objective(Cosh(), 3)) == "Cosh"
