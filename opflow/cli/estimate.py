"""What a run would take: routes, memory and work from shapes alone, before anything is allocated.

The numbers are those that :func:`opflow.train` decides by (:mod:`opflow.dynamics.plan`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from opflow.dynamics.methods.descent import GradientDescent
from opflow.dynamics.methods.method import Method
from opflow.dynamics.plan import (
    STEPS,
    Plan,
    Problem,
    Route,
    best,
    eliminated_routes,
    explain,
    problem,
    rates_for,
    weight_route,
)
from opflow.machine.arrays import module_name
from opflow.machine.workspace import parse_memory
from opflow.operators import Cost, Gram
from opflow.operators.describe import duration, human
from opflow.relu.fields import storage_bytes
from opflow.relu.inputs import input_operator
from opflow.relu.network import ReLUNetwork

NO_METHOD: Method = GradientDescent()


class Estimate(NamedTuple):
    """What a run would take; sizes are in bytes."""

    routes: list[Route]  #: the one that would be taken first
    fits: bool  #: whether any fits the budget
    budget: float
    steps: int
    dtype: Any
    #: one product with the kernel, and what is held for it, by the way to hold the fields
    products: dict[str, tuple[Cost, float]]
    checkpoint: float
    data: float  #: X and y, in memory or on disk
    dense: float  #: a dense K, which is never formed unasked

    @property
    def seconds(self) -> float:
        """Time of the whole run."""
        rates = rates_for(self.routes, self.steps, self.dtype)
        return self.routes[0].seconds(self.steps, self.dtype, rates)


def shape_network(widths: Sequence[int], outputs: int, dtype: Any) -> ReLUNetwork:
    """A network of these shapes that takes no memory: every weight is one and the same zero."""
    start = ReLUNetwork.random([1] * len(widths), outputs=outputs, seed=0, dtype=dtype)
    zero = np.zeros((), dtype=dtype)
    weights = [np.broadcast_to(zero, (n, m)) for m, n in itertools.pairwise(widths)]
    return start.moved(weights, [None] * len(weights))


def estimate(
    samples: int,
    widths: Sequence[int],
    outputs: int = 1,
    dtype: Any = np.float64,
    *,
    steps: int | None = None,
    memory: float | str | None = None,
    method: Method = NO_METHOD,
    eliminate: bool | None = None,
    X: Any = None,
) -> Estimate:
    """Memory and work of every route of a run, whose options are those of :func:`opflow.train`.

    `samples`, `widths` [d, n_1, …, n_L] and `outputs` are its shapes, X its inputs if they are at
    hand: what is sparse is estimated so.

    Examples
    --------
    >>> found = estimate(10**9, [784, 512], 1, "float32", steps=10, memory="100GB")
    >>> found.routes[0].name, found.routes[0].step.flops
    ('weights', 1605632000000000.0)
    """
    network = shape_network(widths, outputs, np.dtype(dtype))
    if X is None:
        X = np.broadcast_to(np.zeros((), dtype=dtype), (samples, widths[0]))
    p = problem(network, X, int(X.shape[0]), method)
    routes = [] if eliminate else [weight_route(p)]
    if eliminate is not False and not method.by_weights:
        routes += eliminated_routes(p, Gram(input_operator(X)), False, True)
    count, budget = max(STEPS if steps is None else steps, 1), parse_memory(memory, module_name(X))
    fitting = [r for r in routes if r.held <= budget]
    chosen = best(fitting or routes, count, network.dtype)
    routes.sort(key=lambda r: r is not chosen)
    n = float(samples)
    state = float(network.parameters)
    if chosen.name != "weights":
        state = n * widths[1] + p.upper()
    state *= 2 if method.momentum else 1
    stored = p.entries * (p.item + 4.0 * p.whole)
    return Estimate(
        routes,
        bool(fitting),
        budget,
        count,
        network.dtype,
        _products(p),
        state * p.item,
        stored + p.residuals,
        (n * outputs) ** 2 * p.item,
    )


def _products(p: Problem) -> dict[str, tuple[Cost, float]]:
    net, n = p.network, float(p.samples)
    k, units, upper = net.outputs, sum(net.widths[1:]), p.upper()
    first = p.entries * net.widths[1]
    vectors = 3.0 * net.parameters * p.item + p.residuals
    # of one output, the narrower side of every layer is scaled
    scaled = k * units if k > 1 else sum(map(min, itertools.pairwise(net.widths)))
    flops = {"cached": 4 * (first + n * upper) + 4 * n * scaled}
    if not p.whole:  # these read X by rows
        flops["packed"] = 4 * first + 8 * n * upper + 4 * n * k * net.widths[-1]
        flops["recomputed"] = flops["packed"] + 4 * (first + n * upper)
    found = {}
    for name, work in flops.items():
        held = storage_bytes(net, p.samples, name) + vectors
        found[name] = (Cost(work, held, 4 * first if p.sparse else 0.0), held)
    return found


def numbers(found: Estimate) -> dict[str, Any]:
    """The estimate for JSON: seconds, flops and bytes, the route that would be taken first."""
    rates = rates_for(found.routes, found.steps, found.dtype)
    routes = [
        {
            "route": route.name,
            "seconds": route.seconds(found.steps, found.dtype, rates),
            "set_up_flops": route.setup.flops,
            "step_flops": route.step.flops,
            "step_bytes": route.step.bytes,
            "held_bytes": route.held,
            "fits": bool(route.held <= found.budget),
        }
        for route in found.routes
    ]
    products = {
        name: {"flops": cost.flops, "held_bytes": held, "seconds": rates.seconds(cost, found.dtype)}
        for name, (cost, held) in found.products.items()
    }
    return {
        "dtype": str(found.dtype),
        "steps": found.steps,
        "routes": routes,
        "kernel_products": products,
        "memory_bytes": found.budget,
        "data_bytes": found.data,
        "checkpoint_bytes": found.checkpoint,
        "dense_kernel_bytes": found.dense,
    }


def report(found: Estimate) -> str:
    """The estimate as a table for people; its first part is what `train` explains itself with."""
    routes = Plan(cast(Any, None), cast(Any, None), found.routes)  # nothing was built
    lines = [explain(routes, found.dtype, found.steps, found.budget)]
    if not found.fits:
        least = min(route.held for route in found.routes)
        lines[0] = lines[0].replace("  chosen", "  over the budget")
        lines.append(f"no route fits: --memory {math.ceil(least)} would do")
    rates = rates_for(found.routes, found.steps, found.dtype)
    lines += ["", f"{'one product with K, fields':38}{'work':>12}{'':10}{'held':>10}"]
    for name, (cost, held) in found.products.items():
        seconds = rates.seconds(cost, found.dtype)
        lines.append(
            f"  {name:36}{human(cost.flops, 'flop'):>12}{'':10}"
            f"{human(held, 'B', 1024):>10}{duration(seconds):>14}"
        )
    lines.append("")
    for name, value in (
        ("budget", found.budget),
        ("X and y", found.data),
        ("a checkpoint", found.checkpoint),
        ("dense K, never formed unasked", found.dense),
    ):
        lines.append(f"{name:60}{human(value, 'B', 1024):>10}")
    return "\n".join(lines)
