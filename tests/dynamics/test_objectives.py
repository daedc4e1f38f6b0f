"""Objectives against torch: values, forces, Hessians, runs; and what is refused."""

import numpy as np
import pytest

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
