"""The loop: steps, observers, stopping, progress."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from opflow.arrays import check_integer, check_real, namespace
from opflow.dynamics.descent import GradientDescent
from opflow.dynamics.flow import State
from opflow.dynamics.observe import Moment
from opflow.dynamics.plan import checked_X, plan
from opflow.dynamics.plan import explain as explained
from opflow.dynamics.steppers import Integrator, Method, sharpness
from opflow.dynamics.trajectory import Trajectory
from opflow.operators.rows import workspace_limit
from opflow.relu.network import ReLUNetwork

Observer = Callable[[Moment], Any]

#: a loss this many times the first one is divergence, not a transient
GROWTH = 10.0


class DivergenceError(ArithmeticError):
    """The loss became infinite, NaN, or far larger than at the start.

    Attributes
    ----------
    trajectory : Trajectory
        The run up to the last moment before.
    """

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


def train(
    network: ReLUNetwork,
    X: Any,
    y: Any,
    *,
    method: Method | None = None,
    steps: int | None = None,
    until: float | None = None,
    times: Sequence[float] | None = None,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    every: int = 1,
    loss: str = "sum",
    memory: float | str | None = None,
    eliminate: bool | None = None,
    gram: Any = None,
    explain: bool = False,
    progress: bool = False,
) -> Trajectory:
    r"""Train a network on the whole training set, matrix-free.

    Parameters
    ----------
    network : ReLUNetwork
        The start; it is not changed.
    X : array (N, d), rows on disk, sparse matrix, operator, or None
        Of the network's dtype, finite.  Rows on disk are a ``numpy.memmap`` or anything with
        `shape`, `dtype` and row slicing (h5py, zarr), read in row blocks.  Of an operator only
        X· and Xᵀ· are used.  None if `gram` is all that is known.
    y : array (N,) or (N, k)
        Targets, of the same dtype, finite.
    method : GradientDescent, GradientFlow, ExponentialFlow, LinearisedFlow or TruncatedFlow
        ``GradientDescent(step="auto")`` by default.
    steps : int, optional
        Steps to take.
    until : float, optional
        Time to reach; whichever of the two comes first ends the run, and one is needed (or
        `times`).  Methods of fixed step end with the step that reaches it.
    times : increasing sequence of floats, optional
        Moments to record, and where to end; the start is always recorded.  Not for methods of
        fixed step.
    observe : sequence of observers, or mapping of names to observers
        Called at every moment, the start and the end included; see :mod:`opflow.observe`.
    every : int, default 1
        Record a moment every so many steps (and the last).
    loss : {"sum", "mean"}
        ½ Σ_μ |r_μ|², or that divided by N.
    memory : float or str, optional
        Bytes the run may hold beyond X and y (``"4GB"``); half of what is free by default.
    eliminate : bool, optional
        Step the first layer through the Gram of its inputs (True) or by its weights (False);
        the cheaper by default.
    gram : callable, array, sparse matrix or operator, optional
        A positive semidefinite kernel in the place of XXᵀ: ``gram(A, B)`` of two blocks of rows,
        or the (N, N) matrix itself.  h¹ then starts as the first layer makes it and moves in the
        space of the kernel; see Notes.
    explain : bool
        Print the routes, with what each would cost, and which was taken.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Trajectory
        Of what was reached, if the run is interrupted from the keyboard.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, before any work is done.
    MemoryError
        If `memory` does not suffice, naming what would; before any work is done.
    DivergenceError
        Naming the step, the loss, the step size and 2/λ_max.

    Notes
    -----
    :math:`W^\ell \leftarrow W^\ell - \eta\,\eta_\ell\,\partial loss/\partial W^\ell`.  A step
    costs about 2·N·(3P − P_1) flops; memory beyond X and y is that of some copies of the
    weights, some of the residual and a workspace that does not grow with N.

    With the first layer eliminated the state is (C, W², …, W^L) and :math:`h^1 = h^1(0) + G C`,
    :math:`dC/dt = -\eta_1 \varphi^{1T} r`, with G = XXᵀ or the kernel: a step costs 2·N²·n_1 in
    the place of 4·N·d·n_1 flops.  The weights are recovered at the end, W¹ = W¹(0) + CᵀX, unless
    a kernel was given; then :meth:`Trajectory.predict` goes through the kernel.  With X=None the
    first layer reads the rows of G (d = N), and its weights move by Cᵀ.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    >>> run = of.train(of.ReLUNetwork.random([3, 64, 64], seed=0), X, y, steps=50)
    >>> bool(run.losses[-1] < 0.5 * run.losses[0]), run.residual.shape
    (True, (20, 1))
    """
    method = GradientDescent() if method is None else method
    if not hasattr(method, "start") or isinstance(method, type):
        raise TypeError(
            f"method must be a GradientDescent, TruncatedFlow or another flow, not {method!r}"
        )
    X = checked_X(X, network, gram)
    y = check_targets(y, network, (gram if X is None else X).shape[0] if X is not None or
                      hasattr(gram, "shape") else -1)  # fmt: skip
    limit, end, stops = _checked_length(steps, until, times)
    every = check_integer(every, "every", 1)
    if loss not in ("sum", "mean"):
        raise ValueError(f"loss must be 'sum' or 'mean', not {loss!r}")
    observers = _named(observe)
    share = 1.0 / y.shape[0] if loss == "mean" else 1.0
    if getattr(method, "by_weights", False):
        if eliminate or gram is not None:
            raise ValueError(f"{method!r} moves weights: eliminate= and gram= are not for it")
        eliminate = False
    count = None if math.isinf(limit) else int(limit)
    found = plan(
        network, X, steps=count, memory=memory, eliminate=eliminate, gram=gram,
        frozen=getattr(method, "frozen", True), extra=getattr(method, "extra", 0.0),
    )  # fmt: skip
    if explain:
        print(explained(found, count, memory))
    with workspace_limit(found.workspace):
        accumulate = getattr(method, "accumulate", None)
        state = State(network, found.first, y, None, accumulate, found.fields)
        integrator = method.start(state, share)
        run = _Run(method, integrator, share, observers, every, limit, end, stops)
        return run.go(progress)


class _Run:
    """One run: what it has recorded, and its loop."""

    def __init__(
        self,
        method: Method,
        integrator: Integrator,
        share: float,
        observers: dict[str, Observer],
        every: int,
        limit: float,
        end: float,
        stops: list[float] | None,
    ) -> None:
        self.method, self.integrator, self.share = method, integrator, share
        self.observers, self.every = observers, every
        self.limit, self.end, self.stops = limit, end, stops
        self.number, self.time = 0, 0.0
        self.times: list[float] = []
        self.losses: list[float] = []
        self.seen: dict[str, list[Any]] = {name: [] for name in observers}
        targets = integrator.state.targets
        self.inputs = getattr(integrator.state.first, "inputs", None)
        self.floor = _loss_of_zero(targets, share)
        xp = namespace(targets)
        self.residual, self.spare = (xp.empty(targets.shape, targets.dtype) for _ in range(2))
        self.reached = integrator.state
        self.interrupted = False

    def go(self, progress: bool) -> Trajectory:
        """Until the end, or an interrupt."""
        total = None if math.isinf(self.limit) else int(self.limit)
        bar = tqdm(total=total, disable=not progress, unit="step", desc="train")
        try:
            while True:
                last = self._finished()
                self._moment(last)
                if last:
                    break
                self._step()
                bar.set_postfix(loss=f"{self.losses[-1]:.4g}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            if not self.losses:
                raise
            self.interrupted = True
        finally:
            bar.close()
        return self.trajectory()

    def _finished(self) -> bool:
        return self.number >= self.limit or self.time >= (1 - 1e-12) * self.end

    def _step(self) -> None:
        target = self.end
        if self.stops is not None:
            target = next(t for t in self.stops if t - self.time > 1e-12 * t)
        self.time += self.integrator.advance(target - self.time)
        if math.isclose(self.time, target, rel_tol=1e-12):
            self.time = target
        self.number += 1

    def _due(self, last: bool) -> bool:
        if last or self.number == 0:
            return True
        if self.stops is not None:
            return self.time in self.stops
        return self.number % self.every == 0

    def _moment(self, last: bool) -> None:
        due = self._due(last)
        if not due and getattr(self.integrator, "stochastic", False):
            return
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported below
            value = self.share * self.integrator.evaluate(self.spare)
        first = self.losses[0] if self.losses else math.inf
        if not math.isfinite(value) or value > GROWTH * max(first, self.floor):
            raise DivergenceError(self._divergence(value), self.trajectory())
        state = self.integrator.state
        values = {}
        if due:
            moment = Moment(
                self.number, self.time, value, self.spare, state, self.inputs, self.share
            )
            values = {name: observer(moment) for name, observer in self.observers.items()}
        # From here to the end nothing is half done.
        self.residual, self.spare, self.reached = self.spare, self.residual, state
        if due:
            for name, observed in values.items():
                self.seen[name].append(observed)
            self.times.append(self.time)
            self.losses.append(value)

    def trajectory(self) -> Trajectory:
        """What was recorded, and the state it led to."""
        done = len(self.losses)
        return Trajectory.of_state(
            self.reached,
            residual=self.residual,
            times=np.array(self.times[:done]),
            losses=np.array(self.losses),
            products=self.integrator.products,
            observations={name: np.array(values[:done]) for name, values in self.seen.items()},
            step=getattr(self.integrator, "step", float("nan")),
            note=self.integrator.note,
            interrupted=self.interrupted,
        )

    def _divergence(self, value: float) -> str:
        top = sharpness(self.reached, self.share).value
        size = getattr(self.integrator, "step", float("nan"))
        limit = f"{2 / top:.4g}" if top > 0 else "infinite"
        return (
            f"{self.method.name} diverged at step {self.number}: loss {value:.4g} with step size "
            f"{size:.4g}; the stability limit 2/λ_max(K) was {limit} at the last step before"
        )


def check_targets(y: Any, network: ReLUNetwork, n: int) -> Any:
    """`y` as (N, k), or an error that says what is wrong with it."""
    y = check_real(y, "y", finite=True)
    k = network.outputs
    wanted = f"({n}, {k})" + (f" or ({n},)" if k == 1 else "")
    if y.ndim == 1 and k == 1:
        y = y[:, None]
    if y.shape != (n, k):
        raise ValueError(f"y has shape {y.shape} but X has {n} rows and the network {k} outputs: "
                         f"{wanted} is expected")  # fmt: skip
    if y.dtype != network.dtype:
        raise TypeError(f"y is {y.dtype} but the network is {network.dtype}")
    namespace(y, network.readout)
    return y


def _checked_length(
    steps: int | None, until: float | None, times: Sequence[float] | None
) -> tuple[float, float, list[float] | None]:
    """Steps and time at which to end, infinite where not given, and the moments to record."""
    if steps is None and until is None and times is None:
        raise ValueError("steps or until (or times) is needed to know when to stop")
    if steps is not None:
        if not isinstance(steps, numbers.Integral) or isinstance(steps, bool):
            raise TypeError(f"steps must be an integer, not {steps!r}")
        if steps < 0:
            raise ValueError(f"steps must not be negative, not {steps}")
    if until is not None and not 0 <= until < math.inf:
        raise ValueError(f"until must be a finite time, not {until!r}")
    stops = None
    if times is not None:
        if until is not None:
            raise ValueError("until and times exclude each other: the last of times is the end")
        stops = [float(t) for t in times]
        increasing = all(a < b for a, b in itertools.pairwise([-1.0, *stops]))
        if not stops or not increasing or not 0 <= stops[0] <= stops[-1] < math.inf:
            raise ValueError(f"times must be increasing and not negative, not {times!r}")
        until = stops[-1]
    return math.inf if steps is None else int(steps), math.inf if until is None else until, stops


def _named(observe: Sequence[Observer] | Mapping[str, Observer]) -> dict[str, Observer]:
    if not isinstance(observe, Mapping):
        observe = {getattr(o, "name", getattr(o, "__name__", type(o).__name__)): o for o in observe}
    for name, observer in observe.items():
        if not callable(observer):
            raise TypeError(f"observe[{name!r}] is not callable: {observer!r}")
    return dict(observe)


def _loss_of_zero(y: Any, share: float) -> float:
    """The loss of the zero function: what a fit from a perfect start is measured against."""
    return 0.5 * share * float((y.astype(np.float64) ** 2).sum())
