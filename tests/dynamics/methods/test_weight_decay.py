"""Weight decay is a term of the velocity: steps are those of torch, flows those of the equation."""

import re

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import opflow as of
from tests.relu.reference import chain_rule_jacobian


def problem(n=30, k=2, widths=(8, 7), **options):
    rng = np.random.default_rng(0)
    options = {"bias": True, "readout_rate": 1.0, "scaling": "standard"} | options
    net = of.ReLUNetwork.random([4, *widths], outputs=k, seed=0, **options)
    return net, rng.standard_normal((n, 4)), rng.standard_normal((n, k))


def distance(one, other):
    pairs = zip(one.parameter_list(), other.parameter_list(), strict=True)
    return max(float(abs(p - q).max()) for p, q in pairs)


def objective(network, X, y, decay):
    return 0.5 * ((network(X) - y) ** 2).sum() + 0.5 * decay * sum(
        (p**2).sum() for p in network.parameter_list()
    )


@pytest.mark.parametrize("loss", ["sum", "mean"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["quadratic", "cross-entropy"])
def test_every_step_is_that_of_torch(loss, momentum, kind):
    torch = pytest.importorskip("torch")
    net, X, y = problem(slope=0.1)
    share = 1 / len(X) if loss == "mean" else 1.0
    step, decay = 0.02 / (share * len(X)), 0.3 * share * len(X)
    module = net.to_torch()
    descent = torch.optim.SGD(module.parameters(), step, momentum, weight_decay=decay)
    keep = of.observe.Snapshots()
    classes = y.argmax(axis=1)
    run = of.train(net, X, y if kind == "quadratic" else classes, steps=20, loss=loss,
                   objective=kind, observe=[keep],
                   method=of.GradientDescent(step, momentum, weight_decay=decay))  # fmt: skip
    for number, network in run.observations["snapshots"].items():
        for p, q in zip(module.parameters(), network.parameter_list(), strict=True):
            np.testing.assert_allclose(p.detach().numpy().reshape(q.shape), q, rtol=0, atol=1e-12)
        f = module(torch.tensor(X))
        if kind == "quadratic":
            value = share * 0.5 * ((f - torch.tensor(y)) ** 2).sum()
        else:
            value = share * torch.nn.functional.cross_entropy(
                f, torch.tensor(classes), reduction="sum"
            )
        assert run.losses[number] == pytest.approx(float(value.detach()), rel=1e-12)  # no penalty
        descent.zero_grad()
        value.backward()
        descent.step()


def test_a_batch_of_all_rows_is_the_full_step_and_smaller_ones_decay_as_much():
    net, X, y = problem()
    how = {"steps": 8, "loss": "mean"}
    descent = {"step": 0.05, "momentum": 0.5, "weight_decay": 0.4}
    full = of.train(net, X, y, method=of.GradientDescent(**descent), **how)
    all_rows = of.train(net, X, y, method=of.GradientDescent(**descent, batch=30, rng=0), **how)
    assert distance(full.network, all_rows.network) < 1e-13
    # where f = y = 0, decay is all there is
    dead = of.ReLUNetwork(net.weights, 0 * net.readout)
    few = of.GradientDescent(0.05, batch=3, rng=0, weight_decay=0.4)
    run = of.train(dead, X, 0 * y, method=few, **how)
    np.testing.assert_allclose(run.network.weights[0], 0.98**8 * net.weights[0], rtol=1e-13)


@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_the_flow_is_that_of_the_differential_equation(loss):
    """Linear units, whose flow has no kinks, at rates of their own."""
    net, X, y = problem(n=12, slope=1.0, readout_rate=0.3, scaling="ntk")
    share = 1 / len(X) if loss == "mean" else 1.0
    decay, end = 2.0 * share, 1 / share
    sizes = np.cumsum([p.size for p in net.parameter_list()])[:-1]
    shapes = [p.shape for p in net.parameter_list()]
    pairs = zip(net.parameter_list(), net.parameter_rates(), strict=True)
    rates = np.concatenate([np.full(p.size, rate) for p, rate in pairs])

    def network(theta):
        parts = [p.reshape(s) for p, s in zip(np.split(theta, sizes), shapes, strict=True)]
        return net.with_parameters(parts)

    def velocity(t, theta):
        at = network(theta)
        slope = share * chain_rule_jacobian(at, X, rates=False).T @ (at(X) - y).ravel()
        return -rates * (slope + decay * theta)

    theta = np.concatenate([p.ravel() for p in net.parameter_list()])
    truth = solve_ivp(velocity, (0, end), theta, rtol=1e-9, atol=1e-10).y[:, -1]
    errors = []
    for tol in (1e-3, 1e-8):  # of first order, h ~ tol^(1/4)
        flow = of.GradientFlow(tol=tol, weight_decay=decay)
        run = of.train(net, X, y, method=flow, times=[end], loss=loss)
        errors.append(distance(run.network, network(truth)))
    moved = distance(net, network(truth))
    without = of.train(net, X, y, method=of.GradientFlow(tol=1e-6), times=[end], loss=loss)
    assert distance(without.network, network(truth)) > 0.1 * moved
    assert errors[1] < 0.2 * errors[0] and errors[1] < 5e-3 * moved


@pytest.mark.parametrize("kind", ["quadratic", "cross-entropy"])
@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_the_default_step_is_half_the_limit_of_loss_and_decay(loss, kind):
    net, X, y = problem(scaling="mean-field", readout_rate=None)
    K = of.collective_kernel(net.fields(X)).todense()
    share = 1 / len(X) if loss == "mean" else 1.0
    curvature = 0.5 if kind == "cross-entropy" else 1.0
    top = share * curvature * np.linalg.eigvalsh(K)[-1]
    decay = 2 * top / max(net.rates)
    labels = y if kind == "quadratic" else y.argmax(axis=1)
    how = {"loss": loss, "objective": kind}
    run = of.train(net, X, labels, method=of.GradientDescent(weight_decay=decay), steps=1, **how)
    assert run.step == pytest.approx(1 / (3 * top), rel=2e-2)
    assert "λ_max(K) + weight decay" in run.note and run.route == "weights"


@pytest.mark.parametrize("method", [of.GradientDescent, of.GradientFlow])
def test_strong_decay_is_stable(method):
    net, X, y = problem()
    decay = 1e3 * np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[-1]
    run = of.train(net, X, y, method=method(weight_decay=decay), until=20 / decay)
    assert distance(run.network, net.with_parameters([0 * p for p in net.parameter_list()])) < 1e-2


def test_what_descends_is_the_loss_with_the_penalty():
    """From a perfect fit the loss alone can but rise, and no step is taken back for that."""
    net, X, _ = problem()
    y = net(X)
    keep = of.observe.Snapshots()
    run = of.train(net, X, y, method=of.GradientDescent(weight_decay=1.0), steps=30, observe=[keep])
    values = [objective(n, X, y, 1.0) for n in run.observations["snapshots"].values()]
    assert run.losses[0] == 0 and run.losses[-1] > 0.1 and "taken back" not in run.note
    assert (np.diff(values) < 0).all()


def test_float32_frozen_layers_and_sums_in_float64():
    net, X, y = problem(dtype=np.float32)
    net = of.ReLUNetwork(net.weights, net.readout, rates=[0.0, 1.0])
    how = {"steps": 5, "loss": "mean"}
    X, y = X.astype(np.float32), y.astype(np.float32)
    plain = of.GradientDescent(0.05, weight_decay=0.5)
    run = of.train(net, X, y, method=plain, **how)
    wide = of.GradientDescent(0.05, weight_decay=0.5, accumulate="float64")
    assert run.network.weights[1].dtype == run.residual.dtype == np.float32
    np.testing.assert_array_equal(run.network.weights[0], net.weights[0])
    assert distance(run.network, of.train(net, X, y, method=wide, **how).network) < 1e-6


def test_divergence_names_the_limit_of_loss_and_decay():
    net, X, y = problem()
    with pytest.raises(of.DivergenceError) as info:
        of.train(net, X, y, method=of.GradientDescent(1.0, weight_decay=1e5), steps=50)
    limit = float(re.search(r"was (\S+) at the last step", str(info.value))[1])
    assert limit <= 2e-5


def test_what_has_no_weights_or_no_such_term_refuses_it_by_name():
    net, X, y = problem()
    for method in (of.GradientDescent(weight_decay=0.1), of.GradientFlow(weight_decay=0.1)):
        for options in ({"eliminate": True}, {"gram": X @ X.T}):
            with pytest.raises(ValueError, match=r"weight_decay=0.1\) moves weights: eliminate="):
                of.train(net, X, y, method=method, steps=1, **options)
    for kind in (of.GaussNewton, of.ExponentialFlow, of.LinearisedFlow, of.TruncatedFlow):
        with pytest.raises(TypeError, match=f"{kind.__name__}.*weight_decay"):
            kind(weight_decay=0.1)
    for kind in (of.GradientDescent, of.GradientFlow):
        for wrong in (-1.0, np.inf, np.nan):
            with pytest.raises(ValueError, match="weight_decay must be finite and not negative"):
                kind(weight_decay=wrong)
        with pytest.raises(TypeError, match="weight_decay must be a number"):
            kind(weight_decay="0.1")


def test_without_it_a_method_is_told_as_before_and_with_it_it_is_told():
    assert repr(of.GradientFlow()) == "GradientFlow(tol=0.0001)"  # in checkpoints of before
    assert repr(of.GradientFlow(1e-3, 0.1)) == "GradientFlow(tol=0.001, weight_decay=0.1)"
    assert repr(of.GradientDescent(weight_decay=0.1)).endswith("'auto', weight_decay=0.1)")
