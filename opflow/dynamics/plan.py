"""The plan of a run: the fastest route within the memory budget, chosen before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from opflow.dynamics.checks import checked_gram
from opflow.dynamics.first_layer import DualLayer, FirstLayer
from opflow.dynamics.measurement import OUTPUTS, Outputs
from opflow.dynamics.methods.method import Method
from opflow.dynamics.routes import METHOD, Route, RunShapes, possible_routes, ranked
from opflow.evaluation import materialise
from opflow.machine.arrays import Data, module_name
from opflow.machine.workspace import THREAD_MEMORY, most_workspace
from opflow.operators import Gram
from opflow.operators.describe import human
from opflow.relu.inputs import input_operator
from opflow.relu.network import ReLUNetwork


class MemoryAllowance(NamedTuple):
    """What a run may hold in passing, in bytes."""

    #: the row blocks of a product
    workspace: float
    #: what several threads take beyond those of one
    spread: float
    #: the fields of a frozen kernel
    fields: float

    @classmethod
    def of(cls, budget: float, route: Route, shapes: RunShapes) -> MemoryAllowance:
        """What the budget leaves beside what the route holds with the smallest workspace."""
        spare = budget - route.held
        least = shapes.workspace()
        most = most_workspace(module_name(shapes.network.weights[0]))
        workspace = min(float(most), (least + spare) / 2)
        left = max(0.0, spare - 2 * (workspace - least / 2))
        spread = min(float(THREAD_MEMORY), left / 2)
        return cls(workspace, spread, left - spread)


class Plan(NamedTuple):
    """What was decided."""

    first: FirstLayer
    allowance: MemoryAllowance
    #: all that were possible, the chosen one first
    routes: list[Route]

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"route": self.routes[0].name, **self.allowance._asdict()}


def plan(
    network: ReLUNetwork,
    X: Data,
    steps: int | None,
    memory: float,
    eliminate: bool | None = None,
    gram: Any = None,
    method: Method = METHOD,
    seen: Outputs = OUTPUTS,
    resumed: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose the route of a run of checked inputs, or of a kernel, and its workspace.

    A run that goes on takes the route of its record, `resumed`, so that all sums are over the same
    blocks.  Other arguments are those of :func:`opflow.train`, with `memory` in bytes.
    """
    kernel, cross = checked_gram(gram, network, X)
    if kernel is not None and eliminate is False:
        raise ValueError("eliminate=False and gram= exclude each other: a kernel has no weights")
    samples = int((X if kernel is None else kernel).shape[0])
    shapes = RunShapes(network, X, samples, method, seen)
    routes = possible_routes(shapes, kernel, eliminate)
    if resumed:
        # A checkpoint stores either W¹ or C, so a resumed run takes a route of the same kind.
        kind = resumed["route"].split(",")[0]
        routes = [r for r in routes if r.kind == kind]
        if not routes:
            raise ValueError(f"the run to go on with is one of {kind!r}, which eliminate= excludes")
    fitting = [r for r in routes if r.held <= memory]
    if not fitting:
        least = min(r.held for r in routes)
        raise MemoryError(
            f"memory allows {human(memory, 'B', 1024)} but the run needs at least "
            f"{human(least, 'B', 1024)} beyond X and y: memory={math.ceil(least)} would do"
        )
    if resumed:
        fitting = [r for r in fitting if r.name == resumed["route"]] or fitting
    routes = ranked(routes, fitting, steps, network.dtype)
    chosen = routes[0]
    allowance = MemoryAllowance.of(memory, chosen, shapes)
    if resumed:
        parts = MemoryAllowance._fields
        before = MemoryAllowance(*(float(resumed.get(name, 0.0)) for name in parts))
        # The same row blocks again, unless there is less memory now: sums in the same order.
        if all(b <= now for b, now in zip(before, allowance, strict=True)):
            allowance = before
    if chosen.kind == "weights":
        first = FirstLayer(X)
    else:
        operator = kernel or Gram(input_operator(X))
        if chosen.name.endswith("dense Gram"):
            operator = materialise(operator, how="dense", memory=memory)
        first = DualLayer(network, X, operator, cross)
    return Plan(first, allowance, routes)
