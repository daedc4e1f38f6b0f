"""The yardstick, opflow's contenders, and what its cost model says."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.suite.problems import Call, Problem, SetUp, clock


def gemms(p: Problem) -> SetUp:
    """The two matrix products a layer of the factored product, preallocated, and no more.

    A block is one pass a column.  The first call finishes the product, to be compared; those
    that follow are the matrix products alone.
    """
    phi: Any = np.broadcast_to(p.readout, (len(p.X), p.readout.shape[1]))
    layers = []
    activations = [p.X]
    for W in p.weights:
        activations.append(np.maximum(activations[-1] @ W.T, 0))
    for i in reversed(range(len(p.weights))):
        phi = np.ascontiguousarray(phi * (activations[i + 1] > 0))
        layers.append((activations[i], phi))
        phi = phi @ p.weights[i] if i else None

    def set_up() -> Call:
        work = [
            (a, f, np.empty_like(f), np.empty((f.shape[1], a.shape[1]), a.dtype), np.empty_like(f))
            for a, f in layers
        ]
        finished: list[bool] = []

        def call() -> Any:
            if finished:
                for _ in range(p.columns):
                    for a, _, left, gradient, pushed in work:
                        np.matmul(left.T, a, out=gradient)
                        np.matmul(a, gradient.T, out=pushed)
                return None
            out = np.zeros_like(p.r)
            for c in range(p.columns):
                for a, f, left, gradient, pushed in work:
                    np.multiply(f, p.r[:, c, None], out=left)
                    np.matmul(left.T, a, out=gradient)
                    np.matmul(a, gradient.T, out=pushed)
                    out[:, c] += np.einsum("un,un->u", f, pushed)
            finished.append(True)
            return out

        return call

    return set_up


def product(p: Problem, how: str | None = None) -> SetUp:
    """``K @ r`` as anyone calls it, or K evaluated in one of its other ways."""
    import opflow as of

    net = of.ReLUNetwork(p.weights, p.readout)

    def set_up() -> Call:
        K = of.collective_kernel(net.fields(p.X))
        K = K if how is None else of.materialise(K, how=how)
        r = p.r if p.columns > 1 else p.r[:, 0]
        return lambda: (K @ r).reshape(p.r.shape)

    return set_up


def dense(p: Problem) -> SetUp:
    import opflow as of

    net = of.ReLUNetwork(p.weights, p.readout)
    return lambda: lambda: of.materialise(of.collective_kernel(net.fields(p.X)), how="dense").data


def steps(p: Problem) -> SetUp:
    import opflow as of

    net, method = of.ReLUNetwork(p.weights, p.readout), of.GradientDescent(step=p.step)

    def call(count: int) -> Any:
        run = of.train(
            net, p.X, p.y, steps=count, method=method, observe={"clock": lambda _: clock()}
        )
        return run.residual[:, 0] + p.y, np.diff(run.observations["clock"])

    return lambda: call


def ways(p: Problem, counts: list[int]) -> dict[str, Any]:
    """What the cost model predicts of each way, in seconds for so many products, and its choice."""
    import opflow as of

    K = of.collective_kernel(of.ReLUNetwork(p.weights, p.readout).fields(p.X))
    found: dict[str, Any] = {"choice": {}, "predicted": {}}
    for count in counts:
        forms = [form for form in of.candidates(K, count, p.columns) if form.fits]
        found["choice"][str(count)] = forms[0].how
        for form in forms:
            found["predicted"].setdefault(form.how, {})[str(count)] = form.seconds
    return found
