"""What a run would take: routes, memory and work from shapes alone, before anything is allocated.

The numbers are those that :func:`opflow.train` decides by (:mod:`opflow.dynamics.routes`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import opflow as of
from opflow.cli.folder import Numbers
from opflow.dynamics.methods.method import Method
from opflow.dynamics.routes import (
    METHOD,
    Route,
    RunShapes,
    explain,
    possible_routes,
    ranked,
    steps_expected,
)
from opflow.machine.arrays import Data, module_name
from opflow.machine.workspace import parse_memory
from opflow.operators.describe import duration, human
from opflow.relu.inputs import is_whole


class Estimate(NamedTuple):
    """What a run would take; sizes are in bytes."""

    #: the first one would be taken; it fits the budget if any does
    routes: list[Route]
    budget: float
    steps: int
    dtype: np.dtype[Any]
    #: one product with the kernel, and what is held for it, by the way to hold the fields
    products: dict[str, tuple[of.Cost, float]]
    checkpoint: float
    #: X and y, in memory or on disk
    data: float
    #: a dense K, which is never formed unasked
    dense: float


def estimate(
    samples: int,
    widths: Sequence[int],
    outputs: int = 1,
    dtype: DTypeLike = np.float64,
    *,
    steps: int | None = None,
    memory: float | str | None = None,
    method: Method = METHOD,
    eliminate: bool | None = None,
    X: Data = None,
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
    zero = np.zeros((), dtype=dtype)  # every weight, and every entry of X: they take no memory
    start = of.ReLUNetwork.random([1] * len(widths), outputs=outputs, seed=0, dtype=zero.dtype)
    weights = [np.broadcast_to(zero, (n, m)) for m, n in itertools.pairwise(widths)]
    network = start.with_parameters(weights)
    if X is None:
        X = np.broadcast_to(zero, (samples, widths[0]))
    shapes = RunShapes(network, X, int(X.shape[0]), method)
    routes = possible_routes(shapes, None, False if method.by_weights else eliminate)
    count = steps_expected(steps)
    budget = parse_memory(memory, module_name(X))
    fitting = [r for r in routes if r.held <= budget]
    routes = ranked(routes, fitting or routes, count, network.dtype)
    ways = ["cached"]
    if not is_whole(X):  # these read X by rows
        ways += ["packed", "recomputed"]
    stored = shapes.entries * (shapes.item + 4.0 * is_whole(X))
    return Estimate(
        routes,
        budget,
        count,
        network.dtype,
        {storage: shapes.kernel_product(storage) for storage in ways},
        _checkpoint_bytes(shapes, routes[0]),
        stored + shapes.residuals,
        (float(samples) * outputs) ** 2 * shapes.item,
    )


def _checkpoint_bytes(shapes: RunShapes, route: Route) -> float:
    numbers = float(shapes.network.parameters)
    if route.kind == "eliminated":
        numbers = float(shapes.samples * shapes.network.widths[1]) + shapes.upper()
    if shapes.method.momentum:
        numbers *= 2
    return numbers * shapes.item


def numbers(found: Estimate) -> Numbers:
    """The estimate for JSON: seconds, flops and bytes, the route that would be taken first."""
    rates = of.machine_profile()
    routes = [
        {
            "route": route.name,
            "seconds": route.seconds(found.steps, found.dtype),
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
    lines = [explain(found.routes, found.dtype, found.steps, found.budget)]
    if found.routes[0].held > found.budget:
        least = min(route.held for route in found.routes)
        lines.append(f"no route fits: --memory {math.ceil(least)} would do")
    lines += ["", f"{'one product with K, fields':38}{'work':>12}{'':10}{'held':>10}"]
    for name, (cost, held) in found.products.items():
        seconds = of.machine_profile().seconds(cost, found.dtype)
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
