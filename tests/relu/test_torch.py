"""Identities against automatic differentiation and torch's own optimiser."""

import numpy as np
import pytest

import opflow as of

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

CASES = [(depth, k, bias) for depth in (1, 2, 3, 4) for k in (1, 2, 4) for bias in (False, True)]
#: of units other than ReLU, with a readout that is trained, its bias too
OTHERS = {"slope": [0.3, 1.0, -1.0, 0.01], "readout_rate": 0.6, "output_bias": True}


def make(depth, k, bias, rates=False, dtype=np.float64, slope=(0.0,) * 4, readout_rate=None,
         output_bias=False):  # fmt: skip
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
        slope=slope[:depth],
        readout_rate=readout_rate,
        output_bias=cast(rng.standard_normal(k)) if output_bias else None,
    )
    return net, rng.standard_normal((11, 5)).astype(dtype), rng.standard_normal((11, k))


def outputs(net, X, parameters):
    a, parameters = torch.from_numpy(X), iter(parameters)
    for b, slope in zip(net.biases, net.slopes, strict=True):
        h = a @ next(parameters).T
        a = torch.nn.functional.leaky_relu(h if b is None else h + next(parameters), slope)
    trained = net.readout_rate is not None
    f = a @ (next(parameters) if trained else torch.from_numpy(net.readout)).T
    if net.output_bias is not None:
        f = f + (next(parameters) if trained else torch.from_numpy(net.output_bias))
    return f


def leaves(net):
    return [torch.tensor(p, requires_grad=True) for p in net.parameter_list()]


@pytest.mark.parametrize("others", [{}, OTHERS], ids=["relu", "others"])
@pytest.mark.parametrize(("depth", "k", "bias"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("route", ["cached", "transport"])
def test_kernel_equals_autodiff_jacobian_product(depth, k, bias, dtype, tolerance, route, others):
    net, X, _ = make(depth, k, bias, dtype=dtype, **others)
    parts = torch.autograd.functional.jacobian(lambda *p: outputs(net, X, p), tuple(leaves(net)))
    J = np.concatenate([p.reshape(11 * k, -1).numpy() for p in parts], axis=1)
    fields = net.fields(X)
    K = of.collective_kernel(fields, route=route)
    sizes = [p.size for p in net.parameter_list()]
    expected = J.astype(float) * np.repeat(net.parameter_rates(), sizes) @ J.T.astype(float)
    product = K @ np.eye(11 * k, dtype=dtype)
    assert np.linalg.norm(product - expected) <= tolerance * np.linalg.norm(expected)
    ours = of.jacobian(fields, route=route, rates=False).todense()
    assert np.linalg.norm(ours - J) <= tolerance * np.linalg.norm(J)


@pytest.mark.parametrize("others", [{}, OTHERS], ids=["relu", "others"])
@pytest.mark.parametrize(("depth", "k", "bias"), CASES)
@pytest.mark.parametrize("rates", [False, True])
def test_descent_equals_torch_sgd_over_100_steps(depth, k, bias, rates, others):
    net, X, y = make(depth, k, bias, rates, **others)
    run = of.train(net, X, y, steps=100)
    parameters = leaves(net)
    optimiser = torch.optim.SGD(
        [
            {"params": [p], "lr": 1.0, "rate": rate}
            for p, rate in zip(parameters, net.parameter_rates(), strict=True)
        ],
        lr=1.0,
    )
    for step in np.diff(run.times):  # the default step follows the kernel
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * step
        optimiser.zero_grad()
        (0.5 * ((outputs(net, X, parameters) - torch.from_numpy(y)) ** 2).sum()).backward()
        optimiser.step()
    for mine, theirs in zip(run.network.parameter_list(), parameters, strict=True):
        theirs = theirs.detach().numpy()
        assert np.linalg.norm(mine - theirs) <= 1e-10 * np.linalg.norm(theirs)
