"""Routes of a run (first layer by weights, or eliminated), with the work and memory of each.

The routes: *weights*, every layer as its weights; *eliminated*, the first layer through the Gram
of its inputs (:mod:`opflow.dynamics.state`), formed once where it fits and pays, through X where
it does not.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from numpy.typing import DTypeLike

from opflow.dynamics.measurement import OUTPUTS, Outputs
from opflow.dynamics.methods.descent import GradientDescent
from opflow.dynamics.methods.method import Method
from opflow.dynamics.methods.step_size import LANCZOS
from opflow.evaluation.dense import dense_plan
from opflow.machine.arrays import Data, is_sparse
from opflow.machine.cost import machine_profile
from opflow.operators import Cost, Gram, Operator
from opflow.operators.describe import duration, human
from opflow.operators.rules import as_operator, is_operator
from opflow.relu.inputs import input_operator, is_whole
from opflow.relu.network import ReLUNetwork
from opflow.relu.storage import storage_bytes

#: steps that a run is taken to have where their number is not known beforehand
STEPS = 100
#: elimination is chosen where it takes less than this share of the time of the weights
GAIN = 0.7
#: or less than this share of their memory
SMALL = 0.5
#: bytes of the smallest workspace worth having
LEAST_WORKSPACE = 1 << 16
#: bytes that Python itself needs
OVERHEAD = 1 << 20
#: of a run, if none is given
METHOD: Method = GradientDescent()


class Route(NamedTuple):
    """A way to make the steps of a run."""

    #: "weights" or "eliminated", and for the latter how the Gram is evaluated
    name: str
    #: before the first step, and of each
    setup: Cost
    step: Cost
    #: bytes at its peak, beyond X and y, with the smallest workspace
    held: float

    @property
    def kind(self) -> str:
        """Which parameters it moves: those of one kind mean nothing to the other."""
        return self.name.split(",")[0]

    def seconds(self, steps: int, dtype: DTypeLike) -> float:
        """Time of the whole run, by the rates of :func:`opflow.machine_profile`."""
        rates = machine_profile()
        return rates.seconds(self.setup, dtype) + steps * rates.seconds(self.step, dtype)


class RunShapes(NamedTuple):
    """The shapes of a run, from which its work and its memory follow."""

    network: ReLUNetwork
    #: None where only a Gram is known
    X: Data
    samples: int
    method: Method = METHOD
    #: what is measured of the outputs
    seen: Outputs = OUTPUTS

    @property
    def entries(self) -> float:
        """Stored entries of X."""
        if self.X is None:
            return 0.0
        if is_sparse(self.X):
            return float(self.X.nnz)
        if is_operator(self.X):
            return as_operator(self.X).cost(1).flops / 2
        return float(self.samples * self.network.widths[0])

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return self.network.dtype.itemsize

    @property
    def residuals(self) -> float:
        """Bytes of a residual; a run has two, the losses, and targets that its objective made."""
        return float(self.seen.size(self.samples * self.network.outputs) * self.item)

    def upper(self) -> float:
        """Parameters above the first layer."""
        return float(self.network.parameters - self.network.weights[0].size)

    def first_layer(self, passes: float) -> Cost:
        """So many products of X, or its transpose, with as many columns as the first layer has."""
        flops = 2 * passes * self.entries * self.network.widths[1]
        return Cost(flops, 0.0, flops * is_sparse(self.X))

    def above(self) -> Cost:
        """One step of what is above the first layer, and entry-wise passes over all fields."""
        fields = float(self.samples) * sum(self.network.widths[1:])
        flops = (6.0 + 2.0 * self.seen.passes) * self.samples * self.upper()
        return Cost(flops, (8 * fields + 6 * self.upper()) * self.item) + self.seen.cost()

    def cached_fields(self) -> float:
        """Bytes of all fields."""
        return storage_bytes(self.network, self.samples, "cached")

    def krylov(self, parameters: float) -> float:
        """Bytes of a Krylov basis and of the vectors of a product with K."""
        vectors = max(LANCZOS, 1.5 * self.method.size)
        return (vectors + 6) * self.residuals + 3 * parameters * self.item

    def workspace(self) -> float:
        """Bytes of the least that a row block can take, two of them at a time."""
        net = self.network
        row = (net.widths[0] + 5 * (1 + net.outputs) * sum(net.widths[1:])) * self.item
        least = 2.0 * max(LEAST_WORKSPACE, row)
        if is_sparse(self.X):  # a block of rows is copied with its indices
            block = min(float(self.samples), least / (sum(net.widths[1:]) * self.item))
            least += 1.5 * block / max(self.samples, 1) * self.entries * (self.item + 8)
        return least

    def peak(self, stepping: float, frozen: float) -> float:
        """Bytes at most: of its steps, or of a kernel at frozen gates if one is needed."""
        held = max(stepping, frozen * self.method.frozen)
        seen = self.seen.held(self.samples * self.network.outputs)
        held += 4 * self.residuals + seen + self.workspace() + OVERHEAD
        return held + self.method.kept * self.cached_fields()

    def kernel_product(self, storage: str) -> tuple[Cost, float]:
        """One product with K, and the bytes held for it, the fields being held in this way."""
        net = self.network
        n = float(self.samples)
        upper = n * self.upper()
        if storage == "cached":
            # of one output, the narrower side of every layer is scaled
            scaled = net.outputs * sum(net.widths[1:])
            if net.outputs == 1:
                scaled = sum(map(min, itertools.pairwise(net.widths)))
            work = 4 * upper + 4 * n * scaled
        else:
            work = 8 * upper + 4 * n * net.outputs * net.widths[-1]
        first = self.first_layer(2)
        if storage == "recomputed":
            work += 4 * upper + first.flops
        held = storage_bytes(net, self.samples, storage)
        held += 3.0 * net.parameters * self.item + self.residuals
        return first + Cost(work, held), held


def possible_routes(
    shapes: RunShapes, kernel: Operator | None, eliminate: bool | None
) -> list[Route]:
    """The routes that the arguments allow; a kernel stands in the place of the Gram of X."""
    routes = []
    if kernel is None and not eliminate:
        routes.append(weight_route(shapes))
    if eliminate is not False:
        routes += eliminated_routes(shapes, kernel)
    return routes


def weight_route(shapes: RunShapes) -> Route:
    """All layers as weights."""
    net = shapes.network
    item = shapes.item
    passes = shapes.seen.passes
    first = float(net.weights[0].size) * item
    held = (4 + shapes.method.extra) * net.parameters * item + first
    frozen = shapes.krylov(net.parameters)
    again = passes  # h¹ is computed anew, or copied
    if is_whole(shapes.X):  # h¹, and both operands of a whole product
        hidden = float(shapes.samples) * net.widths[1] * item
        held += (2 + passes) * hidden + 2 * first
        frozen += 2 * hidden
        again = 0
    if is_operator(shapes.X):  # its fields cannot be held but whole
        frozen += shapes.cached_fields()
    step = shapes.above() + shapes.first_layer(2 + again) + Cost(0.0, 6.0 * first)
    return Route("weights", Cost(0.0, 0.0), step, shapes.peak(held, frozen))


def eliminated_routes(shapes: RunShapes, kernel: Operator | None) -> list[Route]:
    """The first layer through its Gram, as it is and dense."""
    net = shapes.network
    X = shapes.X
    item = shapes.item
    width = net.widths[1]
    n = float(shapes.samples)
    hidden = n * width * item
    extra = shapes.method.extra
    held = (5 + shapes.seen.passes + extra) * hidden + (4 + extra) * shapes.upper() * item
    if kernel is None or X is None:  # W¹ as it comes out, and what forms it
        held += 2.0 * net.weights[0].size * item
    frozen = shapes.krylov(shapes.upper()) + 6 * hidden + shapes.cached_fields()
    held = shapes.peak(held, frozen)
    if kernel is not None:
        gram = kernel
        name = "Gram as given"
        through = gram.cost(width)
        between = 2 * hidden
    else:
        gram = Gram(input_operator(X))
        name = "factored Gram"
        through = shapes.first_layer(2) + Cost(0.0, 2 * hidden)
        # Xᵀ C, of which a sparse X takes a few columns at a time
        between = float(net.widths[0] * (32 if is_sparse(X) else width) * item)
    square = n * n * item
    forming, most = dense_plan(gram)[2:]
    dense = shapes.above() + Cost(2.0 * n * n * width, square)
    return [
        Route(f"eliminated, {name}", Cost(0.0, 0.0), shapes.above() + through, held + between),
        Route("eliminated, dense Gram", forming, dense, held + max(most, square)),
    ]


def ranked(
    routes: list[Route], fitting: list[Route], steps: int | None, dtype: DTypeLike
) -> list[Route]:
    """All routes, the one to take first: the fastest that fits, or weights if these are nearly so.

    Weights are what is wanted in the end.
    """
    count = steps_expected(steps)
    seconds = {r.name: r.seconds(count, dtype) for r in fitting}
    chosen = min(fitting, key=lambda r: seconds[r.name])
    near = [r for r in fitting if GAIN * seconds[r.name] <= seconds[chosen.name]]
    for weights in near:
        if weights.name == "weights":
            least = min(near, key=lambda r: r.held)
            chosen = least if least.held < SMALL * weights.held else weights
    return sorted(routes, key=lambda r: r is not chosen)


def steps_expected(steps: int | None) -> int:
    """The number of steps by which routes are compared."""
    return STEPS if steps is None else max(steps, 1)


def explain(routes: list[Route], dtype: DTypeLike, steps: int | None, budget: float) -> str:
    """The routes as a table for people, the one that is taken first."""
    count = steps_expected(steps)
    lines = [
        f"{'route':26}{'set-up':>12}{'a step':>12}{'moved':>10}{'held':>10}{f'{count} steps':>14}"
    ]
    for i, r in enumerate(routes):
        mark = ""
        if r.held > budget:
            mark = "  over the budget"
        elif i == 0:
            mark = "  chosen"
        lines.append(
            f"{r.name:26}{human(r.setup.flops, 'flop'):>12}{human(r.step.flops, 'flop'):>12}"
            f"{human(r.step.bytes, 'B', 1024):>10}{human(r.held, 'B', 1024):>10}"
            f"{duration(r.seconds(count, dtype)):>14}{mark}"
        )
    return "\n".join(lines)
