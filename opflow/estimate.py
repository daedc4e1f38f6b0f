"""What a run would take: routes, memory and work from shapes alone, before anything is allocated.

The numbers are those that :func:`opflow.train` decides by (:mod:`opflow.dynamics.plan`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from opflow.arrays import is_sparse
from opflow.dynamics.descent import GradientDescent
from opflow.dynamics.plan import GAIN, STEPS, Problem, Route, eliminated_routes, weight_route
from opflow.operators.describe import human
from opflow.operators.rows import parse_memory
from opflow.relu.fields import storage_bytes
from opflow.relu.inputs import is_whole
from opflow.relu.network import ReLUNetwork

NO_METHOD: Any = GradientDescent()


class Estimate(NamedTuple):
    """What a run would take.

    Attributes
    ----------
    routes : list of Route
        The one that would be taken first.
    fits : bool
        Whether any fits the budget.
    budget : float
        Bytes allowed.
    steps : int
    products : dict of str to (float, float)
        Of every way to hold the fields: flops of one product with the kernel at frozen gates,
        and bytes held for it.
    checkpoint : float
        Bytes of one state on disk.
    data : float
        Bytes of X and y, in memory or on disk.
    dense : float
        Bytes of a dense K, which is never formed unasked.
    """

    routes: list[Route]
    fits: bool
    budget: float
    steps: int
    products: dict[str, tuple[float, float]]
    checkpoint: float
    data: float
    dense: float


def shape_network(widths: Sequence[int], outputs: int, dtype: Any) -> ReLUNetwork:
    """A network of these shapes that takes no memory: every weight is one and the same zero."""
    start = ReLUNetwork.random([1] * len(widths), outputs=outputs, seed=0, dtype=dtype)
    zero = np.zeros((), dtype=dtype)
    weights = [np.broadcast_to(zero, (n, m)) for m, n in itertools.pairwise(widths)]
    return start.moved(weights, [None] * len(weights))


def problem(network: ReLUNetwork, X: Any, method: Any = NO_METHOD) -> Problem:
    """The shapes of a run on inputs at hand."""
    entries = float(X.nnz if is_sparse(X) else int(X.shape[0]) * network.widths[0])
    return Problem(network, int(X.shape[0]), entries, is_whole(X),
                   getattr(method, "frozen", True), getattr(method, "extra", 0.0))  # fmt: skip


def estimate(
    samples: int,
    widths: Sequence[int],
    outputs: int = 1,
    dtype: Any = np.float64,
    *,
    steps: int | None = None,
    memory: float | str | None = None,
    method: Any = NO_METHOD,
    eliminate: bool | None = None,
    X: Any = None,
) -> Estimate:
    """Memory and work of every route of a run.

    Parameters
    ----------
    samples : int
        N.
    widths : sequence of int
        [d, n_1, …, n_L].
    outputs : int
        k.
    dtype : dtype
    steps, memory, method, eliminate
        As in :func:`opflow.train`.
    X : inputs, optional
        Those of the run, if they are at hand: what is sparse is estimated so.

    Examples
    --------
    >>> found = estimate(10**9, [784, 512], 1, "float32", steps=10, memory="100GB")
    >>> found.routes[0].name, found.routes[0].step
    ('weights', 1605632000000000.0)
    """
    network = shape_network(widths, outputs, np.dtype(dtype))
    frozen, extra = getattr(method, "frozen", True), getattr(method, "extra", 0.0)
    p = Problem(network, samples, float(samples) * widths[0], False, frozen, extra)
    if X is not None:
        p = problem(network, X, method)
    by_weights = getattr(method, "by_weights", False)
    routes = [] if eliminate else [weight_route(p)]
    if eliminate is not False and not by_weights:
        routes += eliminated_routes(p, None, True)
    count, budget = max(STEPS if steps is None else steps, 1), parse_memory(memory)
    routes.sort(key=lambda r: (r.held > budget,
                               r.work(count) * (GAIN if r.name == "weights" else 1)))  # fmt: skip
    chosen, n = routes[0], float(samples)
    state = float(network.parameters)
    if chosen.name != "weights":
        state = n * widths[1] + p.upper()
    state *= 2 if getattr(method, "momentum", 0.0) else 1
    stored = p.entries * (p.item + 4.0 * p.whole)
    return Estimate(
        routes,
        chosen.held <= budget,
        budget,
        count,
        _products(p),
        state * p.item,
        stored + p.residuals,
        (n * outputs) ** 2 * p.item,
    )


def _products(p: Problem) -> dict[str, tuple[float, float]]:
    net, n = p.network, float(p.samples)
    k, units, upper = net.outputs, sum(net.widths[1:]), p.upper()
    first = p.entries * net.widths[1]
    vectors = 3.0 * net.parameters * p.item + p.residuals
    flops = {"cached": 4 * (first + n * upper) + 4 * n * k * units}
    if not p.whole:  # these read X by rows
        flops["packed"] = 4 * first + 8 * n * upper + 4 * n * k * net.widths[-1]
        flops["recomputed"] = flops["packed"] + 4 * (first + n * upper)
    return {name: (work, storage_bytes(net, p.samples, name) + vectors)
            for name, work in flops.items()}  # fmt: skip


def report(found: Estimate) -> str:
    """The estimate as a table for people."""

    def flop(value: float) -> str:
        return f"{human(value, 'flop', 1000):>12}"

    def size(value: float) -> str:
        return f"{human(value, 'B', 1024):>12}"

    lines = [f"{'route':28}{'set-up':>12}{'a step':>12}{found.steps:>6,} steps{'holds':>12}"]
    for i, route in enumerate(found.routes):
        over = route.held > found.budget
        lines.append(f"{route.name:28}{flop(route.setup)}{flop(route.step)}"
                     f"{flop(route.work(found.steps))}{size(route.held)}"
                     f"{'  over the budget' if over else '' if i else '  chosen'}")  # fmt: skip
    if not found.fits:
        least = min(route.held for route in found.routes)
        lines.append(f"no route fits: --memory {least:.0f} would do")
    lines += ["", f"{'one product with K, fields':28}{'':24}{'work':>12}{'holds':>12}"]
    lines += [f"  {name:26}{'':24}{flop(work)}{size(held)}"
              for name, (work, held) in found.products.items()]  # fmt: skip
    lines.append("")
    for name, value in (("budget", found.budget), ("X and y", found.data),
                        ("a checkpoint", found.checkpoint),
                        ("dense K (never formed unasked)", found.dense)):  # fmt: skip
        lines.append(f"{name:64}{size(value)}")
    return "\n".join(lines)
