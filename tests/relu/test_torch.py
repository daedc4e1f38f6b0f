"""Identities against automatic differentiation and torch's own optimiser."""

import numpy as np
import pytest

import opflow as of

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

CASES = [(depth, k, bias) for depth in (1, 2, 3, 4) for k in (1, 2, 4) for bias in (False, True)]


def make(depth, k, bias, rates=False, dtype=np.float64):
    rng = np.random.default_rng(7000 + 100 * depth + 10 * k + bias)
    widths = [5, 9, 7, 8, 6][: depth + 1]
    net = of.ReLUNetwork.random(widths, outputs=k, seed=rng, bias=bias, scaling="standard")
    biases = [None if b is None else 0.3 * rng.standard_normal(b.shape) for b in net.biases]
    cast = lambda a: None if a is None else a.astype(dtype)  # noqa: E731
    net = of.ReLUNetwork(
        [cast(W) for W in net.weights],
        cast(net.readout),
        biases=[cast(b) for b in biases],
        rates=list(rng.uniform(0.3, 2, depth)) if rates else None,
    )
    return net, rng.standard_normal((11, 5)).astype(dtype), rng.standard_normal((11, k))


def outputs(net, X, parameters):
    a, parameters = torch.from_numpy(X), iter(parameters)
    for b in net.biases:
        h = a @ next(parameters).T
        a = torch.relu(h if b is None else h + next(parameters))
    return a @ torch.from_numpy(net.readout).T


def leaves(net):
    return [
        torch.tensor(p, requires_grad=True)
        for pair in zip(net.weights, net.biases, strict=True)
        for p in pair
        if p is not None
    ]


@pytest.mark.parametrize(("depth", "k", "bias"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("route", ["cached", "transport"])
def test_kernel_equals_autodiff_jacobian_product(depth, k, bias, dtype, tolerance, route):
    net, X, _ = make(depth, k, bias, dtype=dtype)
    parts = torch.autograd.functional.jacobian(lambda *p: outputs(net, X, p), tuple(leaves(net)))
    J = np.concatenate([p.reshape(11 * k, -1).numpy() for p in parts], axis=1)
    fields = net.fields(X)
    K = of.collective_kernel(fields, route=route)
    expected = J.astype(float) @ J.T.astype(float)
    product = K @ np.eye(11 * k, dtype=dtype)
    assert np.linalg.norm(product - expected) <= tolerance * np.linalg.norm(expected)
    ours = of.jacobian(fields, route=route).todense()
    assert np.linalg.norm(ours - J) <= tolerance * np.linalg.norm(J)


@pytest.mark.parametrize(("depth", "k", "bias"), CASES)
@pytest.mark.parametrize("rates", [False, True])
def test_descent_equals_torch_sgd_over_100_steps(depth, k, bias, rates):
    net, X, y = make(depth, k, bias, rates)
    run = of.train(net, X, y, steps=100)
    parameters = leaves(net)
    per_layer = [
        rate
        for rate, b in zip(net.rates, net.biases, strict=True)
        for _ in range(1 if b is None else 2)
    ]
    optimiser = torch.optim.SGD(
        [
            {"params": [p], "lr": 1.0, "rate": rate}
            for p, rate in zip(parameters, per_layer, strict=True)
        ],
        lr=1.0,
    )
    for step in np.diff(run.times):  # the default step follows the kernel
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * step
        optimiser.zero_grad()
        (0.5 * ((outputs(net, X, parameters) - torch.from_numpy(y)) ** 2).sum()).backward()
        optimiser.step()
    ours = [
        p
        for pair in zip(run.network.weights, run.network.biases, strict=True)
        for p in pair
        if p is not None
    ]
    for mine, theirs in zip(ours, parameters, strict=True):
        theirs = theirs.detach().numpy()
        assert np.linalg.norm(mine - theirs) <= 1e-10 * np.linalg.norm(theirs)


def test_from_torch_gives_the_same_function():
    nn = torch.nn
    module = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    ).double()  # fmt: skip
    net = of.ReLUNetwork.from_torch(module)
    X = np.random.default_rng(0).standard_normal((7, 4))
    np.testing.assert_allclose(net(X), module(torch.from_numpy(X)).detach().numpy(), atol=1e-14)
    assert net.biases[0] is not None and net.biases[1] is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda nn: [nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1, bias=False)], "Tanh"),
        (lambda nn: [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)], "bias=False"),
        (lambda nn: [nn.Linear(2, 1, bias=False)], "1 parts"),
    ],
)
def test_from_torch_refuses_other_modules(parts, message):
    with pytest.raises(TypeError, match=message):
        of.ReLUNetwork.from_torch(torch.nn.Sequential(*parts(torch.nn)))


def test_from_torch_refuses_what_is_not_sequential():
    with pytest.raises(TypeError, match="Sequential"):
        of.ReLUNetwork.from_torch(torch.nn.Linear(2, 2))
