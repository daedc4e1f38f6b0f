"""Which route a run takes and what it may hold, decided from shapes before any work is done.

The routes: *weights*, every layer as its weights; *eliminated*, the first layer through the Gram
of its inputs (:mod:`opflow.dynamics.state`), formed once where it fits and pays, through X where
it does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from opflow.dynamics.methods.descent import GradientDescent
from opflow.dynamics.methods.method import Method
from opflow.dynamics.methods.step_size import LANCZOS
from opflow.dynamics.state import DualLayer, FirstLayer, WeightLayer
from opflow.evaluation import FunctionGram, materialise
from opflow.evaluation.dense import dense_plan
from opflow.machine.arrays import Data, check_real, is_sparse, module_name, namespace
from opflow.machine.cost import MachineProfile, machine_profile
from opflow.machine.workspace import THREAD_MEMORY, WORKSPACE, parse_memory
from opflow.operators import Cost, Gram, Operator
from opflow.operators.algebra import as_operator, is_operator
from opflow.operators.describe import duration, human
from opflow.relu.fields import storage_bytes
from opflow.relu.inputs import check_inputs, input_operator, is_whole
from opflow.relu.network import ReLUNetwork

#: steps that a run is taken to have where their number is not known beforehand
STEPS = 100
#: elimination is chosen where it takes less than this share of the time, or half the memory
GAIN = 0.7
#: the smallest workspace worth having, and Python's own needs
LEAST_WORKSPACE, OVERHEAD = 1 << 16, 1 << 20


class Route(NamedTuple):
    """A way to make the steps of a run.

    Attributes
    ----------
    name : str
        "weights" or "eliminated", and for the latter how the Gram is evaluated.
    setup, step : Cost
        Before the first step, and of each.
    held : float
        Bytes it holds at its peak, beyond X and y, with the smallest workspace.
    """

    name: str
    setup: Cost
    step: Cost
    held: float

    def seconds(self, steps: int, dtype: Any, rates: MachineProfile) -> float:
        """Time of the whole run."""
        return rates.seconds(self.setup, dtype) + steps * rates.seconds(self.step, dtype)


class Room(NamedTuple):
    """What a run may hold in passing, in bytes.

    Attributes
    ----------
    workspace : float
        The row blocks of a product.
    spread : float
        What several threads take beyond those of one.
    fields : float
        The fields of a frozen kernel.
    """

    workspace: float
    spread: float
    fields: float


class Plan(NamedTuple):
    """What was decided.

    Attributes
    ----------
    first : WeightLayer or DualLayer
    room : Room
    routes : list of Route
        All that were possible, the chosen one first.
    """

    first: FirstLayer
    room: Room
    routes: list[Route]

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"route": self.routes[0].name, **self.room._asdict()}


class Problem(NamedTuple):
    """Shapes that costs follow from."""

    network: ReLUNetwork
    samples: int
    entries: float  # stored entries of X
    sparse: bool
    whole: bool  # X is applied whole
    frozen: bool  # kernels at frozen gates are needed: Lanczos, Krylov
    extra: float  # sets of parameters that the method keeps besides the state
    vectors: float = LANCZOS  # of the Krylov basis
    kept: float = 0.0  # fields of all samples that the state holds at its peak
    cached: bool = False  # fields cannot be held but whole

    @property
    def item(self) -> int:
        return self.network.dtype.itemsize

    @property
    def residuals(self) -> float:
        return float(self.samples * self.network.outputs * self.item)

    def upper(self) -> float:
        """Parameters above the first layer."""
        return float(self.network.parameters - self.network.weights[0].size)

    def above(self) -> Cost:
        """One step of the layers above the first, and entry-wise passes over all fields."""
        fields = float(self.samples) * sum(self.network.widths[1:])
        return Cost(6.0 * self.samples * self.upper(), (8 * fields + 6 * self.upper()) * self.item)

    def kernel_bytes(self, parameters: float) -> float:
        """A Krylov basis and the vectors of a product with K."""
        return (self.vectors + 6) * self.residuals + 3 * parameters * self.item

    def workspace(self) -> float:
        """The least a row block can take, two of them at a time."""
        net = self.network
        row = (net.widths[0] + 5 * (1 + net.outputs) * sum(net.widths[1:])) * self.item
        least = 2.0 * max(LEAST_WORKSPACE, row)
        if self.sparse:  # a block of rows is copied with its indices
            block = min(float(self.samples), least / (sum(net.widths[1:]) * self.item))
            least += 1.5 * block / max(self.samples, 1) * self.entries * (self.item + 8)
        return least


def problem(network: ReLUNetwork, X: Data, samples: int, method: Method | None = None) -> Problem:
    """The shapes of a run; X is None where only a Gram is known."""
    method = method or GradientDescent()
    entries = 0.0 if X is None else float(samples * network.widths[0])
    if is_sparse(X):
        entries = float(X.nnz)
    elif is_operator(X):
        entries = as_operator(X).cost(1).flops / 2
    return Problem(
        network,
        samples,
        entries,
        is_sparse(X),
        is_whole(X),
        method.frozen,
        method.extra,
        max(LANCZOS, 1.5 * method.size),
        method.kept,
        is_operator(X),
    )


def weight_route(p: Problem) -> Route:
    """All layers as weights."""
    net, n = p.network, float(p.samples)
    first, hidden = float(net.weights[0].size), n * net.widths[1] * p.item
    flops = 4.0 * p.entries * net.widths[1]
    step = p.above() + Cost(flops, 6.0 * first * p.item, flops if p.sparse else 0.0)
    moving = (4 + p.extra) * net.parameters * p.item + first * p.item
    if p.whole:  # h¹, and both operands of a whole product
        moving += 2 * hidden + 2 * first * p.item
    frozen = p.kernel_bytes(net.parameters) + 2 * hidden * p.whole
    if p.cached:
        frozen += storage_bytes(net, p.samples, "cached")
    held = max(moving, frozen) if p.frozen else moving
    held += 3 * p.residuals + p.workspace() + OVERHEAD
    held += p.kept * storage_bytes(net, p.samples, "cached")
    return Route("weights", Cost(0.0, 0.0), step, held)


def eliminated_routes(p: Problem, gram: Operator | None, given: bool, weights: bool) -> list[Route]:
    """The first layer through its Gram: as it is and, with `gram` to form it from, dense.

    `given` says that the Gram is a kernel of its own, `weights` that W¹ is wanted in the end.
    """
    net, n, width = p.network, float(p.samples), p.network.widths[1]
    hidden = n * width * p.item
    moving = (5 + p.extra) * hidden + (4 + p.extra) * p.upper() * p.item
    if weights:  # W¹ as it comes out, and what forms it
        moving += 2.0 * net.weights[0].size * p.item
    frozen = p.kernel_bytes(p.upper()) + 6 * hidden + storage_bytes(net, p.samples, "cached")
    held = (max(moving, frozen) if p.frozen else moving) + 3 * p.residuals + OVERHEAD
    held += p.workspace()
    flops = 4.0 * p.entries * width
    through = Cost(flops, 2 * hidden, flops if p.sparse else 0.0)
    middle = net.widths[0] * 32.0 * p.item if p.sparse else net.widths[0] * width * p.item
    if given:
        assert gram is not None
        through, middle = gram.cost(width), 2 * hidden
    name = "Gram as given" if given else "factored Gram"
    routes = [Route(f"eliminated, {name}", Cost(0.0, 0.0), p.above() + through, held + middle)]
    square = n * n * p.item
    forming = Cost(n * p.entries, square, n * p.entries if p.sparse else 0.0)
    most = square + 2.0 * WORKSPACE
    if gram is not None:
        forming, most = dense_plan(gram)[2:]
    step = p.above() + Cost(2.0 * n * n * width, square)
    return [*routes, Route("eliminated, dense Gram", forming, step, held + max(most, square))]


def plan(
    network: ReLUNetwork,
    X: Any,
    *,
    steps: int | None,
    memory: float | str | None = None,
    eliminate: bool | None = None,
    gram: Any = None,
    method: Any = None,
    resumed: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose the route of a run and its workspace.

    Parameters
    ----------
    network : ReLUNetwork
    X : checked inputs, or None where only `gram` is known
    steps : int, optional
        How many there will be, if known.
    memory : float or str, optional
        Bytes the run may hold beyond X and y; half of what is free by default.
    eliminate : bool, optional
        Ask for a route; the cheaper one by default.
    gram : callable, array, sparse matrix or operator, optional
        A kernel in the place of XXᵀ.
    method : Method, optional
        As :func:`problem` reads it.
    resumed : mapping, optional
        :meth:`Plan.record` of the run that goes on: its route is taken again, so that every sum
        is over the same blocks.

    Raises
    ------
    ValueError, TypeError
        For arguments that exclude each other, or the route of `resumed`.
    MemoryError
        If no route fits; it names the smallest budget that would do.
    """
    budget = parse_memory(memory, module_name(network.readout))
    kernel, cross = checked_gram(gram, network, X)
    shaped: Any = kernel if X is None else X
    if kernel is not None and eliminate is False:
        raise ValueError("eliminate=False and gram= exclude each other: a kernel has no weights")
    shapes = problem(network, X, int(shaped.shape[0]), method)
    routes = []
    if kernel is None and not eliminate:
        routes.append(weight_route(shapes))
    if kernel is not None or eliminate is not False:
        operator = Gram(input_operator(X)) if kernel is None else kernel
        weights = kernel is None or X is None
        routes += eliminated_routes(shapes, operator, kernel is not None, weights)
    fitting = [r for r in routes if r.held <= budget]
    if resumed is not None:
        # Parameters of one kind say nothing to the other.
        kind = resumed["route"].split(",")[0]
        routes = [r for r in routes if r.name.split(",")[0] == kind]
        if not routes:
            raise ValueError(f"the run to go on with is one of {kind!r}, which eliminate= excludes")
        fitting = [r for r in fitting if r in routes]
        fitting = [r for r in fitting if r.name == resumed["route"]] or fitting
    if not fitting:
        least = min(r.held for r in routes)
        raise MemoryError(
            f"memory allows {human(budget, 'B', 1024)} but the run needs at least "
            f"{human(least, 'B', 1024)} beyond X and y: memory={math.ceil(least)} would do"
        )
    count = STEPS if steps is None else max(steps, 1)
    chosen = best(fitting, count, network.dtype)
    spare = budget - chosen.held
    workspace = min(float(WORKSPACE), (shapes.workspace() + spare) / 2)
    left = max(0.0, spare - 2 * (workspace - shapes.workspace() / 2))
    spread = min(float(THREAD_MEMORY), left / 2)
    room = Room(workspace, spread, left - spread)
    if resumed is not None:
        before = Room(*(float(resumed.get(name, 0.0)) for name in Room._fields))
        # The same row blocks again, unless there is less memory now: sums in the same order.
        if all(b <= now for b, now in zip(before, room, strict=True)):
            room = before
    first: FirstLayer
    if chosen.name == "weights":
        first = WeightLayer(X)
    else:
        if chosen.name.endswith("dense Gram"):
            operator = materialise(operator, how="dense", memory=budget)
        first = DualLayer(network, X, operator, cross)
    ordered = sorted(routes, key=lambda r: r is not chosen)
    return Plan(first, room, ordered)


def best(routes: list[Route], steps: int, dtype: Any) -> Route:
    """The fastest; but weights, which are what is wanted in the end, unless the gain is clear."""
    if len(routes) == 1:
        return routes[0]
    rates = rates_for(routes, steps, dtype)
    seconds = {r.name: r.seconds(steps, dtype, rates) for r in routes}
    fastest = min(routes, key=lambda r: seconds[r.name])
    near = [r for r in routes if GAIN * seconds[r.name] <= seconds[fastest.name]]
    for weights in (r for r in near if r.name == "weights"):
        least = min(near, key=lambda r: r.held)
        return least if least.held < 0.5 * weights.held else weights
    return fastest


def rates_for(routes: list[Route], steps: int, dtype: Any) -> MachineProfile:
    """The machine's rates; nominal ones for a run that would be over before they are measured."""
    nominal = MachineProfile()
    long = max(r.seconds(steps, dtype, nominal) for r in routes) > 1.0
    return machine_profile() if long else nominal


def checked_gram(
    gram: Any, network: ReLUNetwork, X: Any
) -> tuple[Operator | None, Callable[[Any], Any] | None]:
    """The kernel of the first layer as an operator, and its cross kernel where it has one."""
    if gram is None:
        return None, None
    if callable(gram) and not is_operator(gram):
        if X is None or is_whole(X):
            raise ValueError("a callable gram needs X as an array or rows on disk")
        kernel: Operator = FunctionGram(gram, X)
        cross: Any = partial(_cross, gram, X)
    else:
        if not is_operator(gram):
            gram = check_real(gram, "gram", dtype=network.dtype, finite=True)
        kernel = copy.copy(as_operator(gram, symbol="G"))
        cross = _no_cross

    n = kernel.shape[0] if X is None else int(X.shape[0])
    if kernel.shape != (n, n):
        raise ValueError(f"gram has shape {kernel.shape} but there are {n} samples: ({n}, {n})")
    if kernel.dtype != network.dtype:
        raise TypeError(f"gram is {kernel.dtype} but the network is {network.dtype}")
    xp = namespace(network.readout)
    probe = xp.asarray(np.random.default_rng(0).standard_normal((n, 4)), dtype=network.dtype)
    columns = kernel.matmat(probe)
    if not bool(xp.isfinite(columns).all()):
        raise ValueError("gram contains NaN or infinity")
    eps, size = float(xp.finfo(network.dtype).eps), float(abs(columns).max())
    if not kernel.symmetric:
        gap = float(abs(columns - kernel.rmatmat(probe)).max())
        if gap > 100 * n**0.5 * eps * size:
            raise ValueError("gram must be symmetric")
    if float((probe * columns).sum(axis=0).min()) < -100 * n * eps * size:
        raise ValueError("gram must be positive semidefinite")
    kernel.symmetric = kernel.psd = True  # that it is positive is what gram= means
    return kernel, None if X is None else cross


def _cross(function: Callable[[Any, Any], Any], X: Any, new: Any) -> Operator:
    return FunctionGram(function, new, X)


def _no_cross(new: Any) -> Any:
    raise ValueError("predictions need the kernel as a function: gram=callable")


def explain(found: Plan, dtype: Any, steps: int | None, memory: float | str | None) -> str:
    """The routes as a table for people."""
    budget, count = parse_memory(memory), STEPS if steps is None else max(steps, 1)
    lines = [
        f"{'route':26}{'set-up':>12}{'a step':>12}{'moved':>10}{'held':>10}{f'{count} steps':>14}"
    ]
    rates = rates_for(found.routes, count, dtype)
    for i, r in enumerate(found.routes):
        mark = "  chosen" if i == 0 else "" if r.held <= budget else "  over the budget"
        lines.append(
            f"{r.name:26}{human(r.setup.flops, 'flop'):>12}{human(r.step.flops, 'flop'):>12}"
            f"{human(r.step.bytes, 'B', 1024):>10}{human(r.held, 'B', 1024):>10}"
            f"{duration(r.seconds(count, dtype, rates)):>14}{mark}"
        )
    return "\n".join(lines)


def checked_X(X: Any, network: ReLUNetwork, gram: Any, empty: bool = False) -> Any:
    """The inputs, checked; None where a Gram stands for them."""
    if X is not None:
        return check_inputs(X, network, empty=empty)
    if not hasattr(gram, "shape"):
        raise ValueError("X is needed, unless gram= gives the kernel matrix of the samples")
    if gram.shape[0] != network.widths[0]:
        raise ValueError(
            f"without X the first layer reads rows of gram: the network expects "
            f"{network.widths[0]} input features but gram has {gram.shape[0]} columns"
        )
    return None
