"""A network behind a PyLops operator: opflow against torch with ``pylops.TorchOperator``.

The photograph of examples/deblurring.py.  100 steps of descent are compared in float64, steps are
timed in turn, then passes and seconds (float32) until the residual per pixel is 0.02, and 0.01.
A pass of torch, forward and backward, is opflow's product.  All times are CPU times of one thread.
"""

import time

import numpy as np
import pylops
import torch
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

import opflow as of

SHAPE, LIMIT = (64, 64), 2000


def problem(dtype):
    rng = np.random.default_rng(0)
    grey = load_sample_image("china.jpg")[40:424, 120:504].mean(axis=2) / 255
    model = grey.reshape(64, 6, 64, 6).mean(axis=(1, 3)).ravel() - 0.5
    line = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
    pulse = (np.outer(line, line) / line.sum() ** 2).astype(dtype)
    blur = pylops.signalprocessing.Convolve2D(SHAPE, pulse, offset=(4, 4), dtype=dtype)
    kept = np.sort(rng.permutation(model.size)[: model.size * 6 // 10])
    G = pylops.Restriction(model.size, kept, dtype=dtype) @ blur
    d = G @ model.astype(dtype) + 0.01 * rng.standard_normal(len(kept))
    X = of.fourier_features(of.coordinates(SHAPE), scale=1.5, count=128) / 128**0.5
    net = of.ReLUNetwork.random([256, 128, 128], seed=0, dtype=dtype)
    net = of.ReLUNetwork(net.weights, np.asarray(0.1, dtype) * net.readout, rates=net.rates)
    return net, X.astype(dtype), G, d.astype(dtype)


def torch_steps(net, X, G, d, lr, adam=False):
    """The trained weights, and a function that makes a step and gives the loss before it."""
    module = net.to_torch()
    G, X, d = pylops.TorchOperator(G), torch.tensor(X), torch.tensor(d)
    weights = [p for p in module.parameters() if p.requires_grad]
    sets = [{"params": [p], "lr": lr * rate} for p, rate in zip(weights, net.rates, strict=True)]
    optimiser = torch.optim.Adam(weights, lr) if adam else torch.optim.SGD(sets)

    def step():
        optimiser.zero_grad()
        loss = 0.5 * ((G.apply(module(X).reshape(SHAPE)) - d) ** 2).sum()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return weights, step


def compare_steps(dtype):
    net, X, G, d = problem(dtype)
    size = 0.5 / of.spectral.largest_eigenvalue(of.measured_kernel(net.fields(X), G)).value
    how = {"measurement": G, "method": of.GradientDescent(step=size)}
    weights, step = torch_steps(net, X, G, d, size)
    losses = [step() for _ in range(100)]
    run = of.train(net, X, d, steps=100, **how)
    pairs = zip(run.network.weights, weights, strict=True)
    worst = max(abs(W - p.detach().numpy()).max() / abs(W).max() for W, p in pairs)
    assert worst < 1e-10 or dtype == np.float32, worst
    times = {"opflow": [], "torch": []}
    for _ in range(9):
        run = of.train(net, X, d, steps=11, observe={"s": lambda m: time.process_time()}, **how)
        times["opflow"] += np.diff(run.observations["s"])[1:].tolist()
        times["torch"] += np.diff([(step(), time.process_time())[1] for _ in range(11)]).tolist()
    ms = [f"{name} {1e3 * np.median(t):.1f} ms" for name, t in times.items()]
    print(dtype.__name__, *ms, f"loss × {losses[-1] / losses[0]:.2f}, differ by {worst:.0e}")


def race(rms):
    net, X, G, d = problem(np.float32)
    goal = 0.5 * len(d) * rms**2
    for lr in (3e-3, 1e-2, 3e-2, 1e-1):
        start = time.process_time()
        step = torch_steps(net, X, G, d, lr, adam=True)[1]
        passes = next((i for i in range(1, LIMIT) if step() <= goal), "over 2,000")
        print(f"{rms}: Adam {lr}: {passes} passes, {time.process_time() - start:.1f} s", flush=True)
    descents = [of.GradientDescent(momentum=beta) for beta in (0.9, 0.97, 0.0)]
    how = {"measurement": G, "steps": LIMIT, "stop": lambda moment: moment.loss <= goal}
    for method in (of.GaussNewton(), of.GradientFlow(), *descents):
        start = time.process_time()
        run = of.train(net, X, d, method=method, **how)
        print(f"{rms}: {method}: {run.products} passes to {(2 * run.losses[-1] / len(d))**0.5:.4f},"
              f" {time.process_time() - start:.1f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        compare_steps(np.float64)
        compare_steps(np.float32)
        race(0.02)
        race(0.01)
