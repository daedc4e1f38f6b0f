"""Gauss–Newton against descent with momentum: products to the loss of its 2,000th step.

Digits, breast cancer and diabetes of scikit-learn, standardised, and its photograph china.jpg,
every sixth pixel each way (72 × 107), as a function of 128 Fourier features of the place (normal
frequencies, 10 cycles a width).  The quadratic loss, summed; float64, the photograph in float32.
Descent takes step "auto" and the best of the momenta given; Gauss–Newton its defaults; L-BFGS of
torch (history 20, strong Wolfe) as many evaluations as it needs.  An evaluation of torch, forward
and backward, is what opflow counts as one product.

    python benchmarks/gauss_newton.py --only diabetes cancer digits
    python benchmarks/gauss_newton.py --only photograph --momentum 0.97
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import opflow as of

STEPS = 2000
#: evaluations of L-BFGS at most
LONGEST = 4000


def scaled(a: Any) -> Any:
    spread = a.std(axis=0)
    return (a - a.mean(axis=0)) / np.where(spread > 0, spread, 1)


def photograph() -> tuple[Any, Any]:
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg")[::6, ::6] / 255
    height, width, _ = pixels.shape
    rows, columns = np.mgrid[:height, :width]
    places = 2 * np.pi * np.stack([rows.ravel(), columns.ravel()], axis=1) / width
    phases = places @ np.random.default_rng(0).normal(0, 10, (2, 64))
    y = pixels.reshape(-1, 3)
    return np.concatenate([np.sin(phases), np.cos(phases)], axis=1), y - y.mean(axis=0)


def problem(name: str) -> tuple[Any, Any, Any]:
    from sklearn import datasets

    dtype = np.dtype("float64")
    if name == "photograph":
        dtype = np.dtype("float32")
        X, y = photograph()
        hidden = [256, 256]
    else:
        load = {
            "digits": datasets.load_digits,
            "cancer": datasets.load_breast_cancer,
            "diabetes": datasets.load_diabetes,
        }[name]
        X, y = load(return_X_y=True)
        X = scaled(X)
        hidden = [128, 128] if name == "digits" else [64, 64]
        y = scaled(y)[:, None] if name == "diabetes" else np.eye(y.max() + 1)[y]
    net = of.ReLUNetwork.random(
        [X.shape[1], *hidden], outputs=y.shape[1], bias=True, seed=0, dtype=dtype
    )
    return net, X.astype(dtype), y.astype(dtype)


def descent(net: Any, X: Any, y: Any, beta: float) -> tuple[float, int, float]:
    """The loss reached, products and seconds."""
    start = time.perf_counter()
    method = of.GradientDescent(momentum=beta)
    run = of.train(net, X, y, steps=STEPS, method=method, every=STEPS, eliminate=False)
    return float(run.losses[-1]), run.products, time.perf_counter() - start


def gauss_newton(net: Any, X: Any, y: Any, goal: float) -> tuple[float, int, float]:
    """The loss, products and seconds once it is at the goal; the run is made twice."""
    steps = 0
    run = of.train(net, X, y, steps=60, method=of.GaussNewton(), eliminate=False)
    steps = int(np.argmax(run.losses <= goal))
    assert run.losses[steps] <= goal, "it has not come there in 60 steps"
    start = time.perf_counter()
    run = of.train(net, X, y, steps=steps, method=of.GaussNewton(), eliminate=False)
    seconds = time.perf_counter() - start
    loss = 0.5 * float(((run.network(X) - y).astype(np.float64) ** 2).sum())  # not its own word
    assert loss <= 1.001 * goal, (loss, goal)
    return loss, run.products, seconds


def lbfgs(net: Any, X: Any, y: Any, goal: float) -> tuple[float, int, float]:
    """The loss, evaluations and seconds of torch's L-BFGS, in the coordinates W/√η."""
    import torch

    roots = [rate**0.5 for rate in net.parameter_rates()]
    start = [p / root for p, root in zip(net.parameter_list(), roots, strict=True)]
    parameters = [torch.tensor(p, requires_grad=True) for p in start]
    X, y, V = torch.tensor(X), torch.tensor(y), torch.tensor(net.readout)
    seen = [0, np.inf]

    def loss() -> Any:
        a = X
        for i in range(0, len(parameters), 2):
            a = torch.relu(a @ (roots[i] * parameters[i]).T + roots[i + 1] * parameters[i + 1])
        return 0.5 * ((a @ V.T - y) ** 2).sum()

    class Reached(Exception):
        pass

    def closure() -> Any:
        solver.zero_grad()
        value = loss()
        value.backward()
        seen[0] += 1
        seen[1] = min(seen[1], float(value.detach()))
        if seen[1] <= goal or seen[0] >= LONGEST:
            raise Reached
        return value

    solver = torch.optim.LBFGS(
        parameters, max_iter=LONGEST, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0, max_eval=LONGEST,
    )  # fmt: skip
    begun = time.perf_counter()
    try:
        while True:
            before = seen[0]
            solver.step(closure)
            if seen[0] - before < 3:
                break
    except Reached:
        pass
    return float(seen[1]), int(seen[0]), time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["digits", "cancer", "diabetes", "photograph"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--momentum", nargs="+", type=float, default=[0.9, 0.95, 0.97, 0.99])
    args = parser.parse_args()
    for name in args.only:
        net, X, y = problem(name)
        print(f"{name}: N = {len(X):,}, k = {y.shape[1]}, P = {net.parameters:,}", flush=True)
        runs = []
        for beta in args.momentum:
            runs.append((*descent(net, X, y, beta), beta))
            print(f"  descent β={beta}: loss %.4g, {runs[-1][1]:,} products, %.1f s"
                  % (runs[-1][0], runs[-1][2]), flush=True)  # fmt: skip
        goal, products, _, _ = min(runs)
        loss, spent, seconds = gauss_newton(net, X, y, goal)
        ratio = products / spent
        print(f"  Gauss–Newton: loss {loss:.4g}, {spent:,} products ({ratio:.1f} times fewer), "
              f"{seconds:.1f} s", flush=True)  # fmt: skip
        loss, spent, seconds = lbfgs(net, X, y, goal)
        print(
            f"  torch L-BFGS: loss {loss:.4g}, {spent:,} evaluations, {seconds:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
