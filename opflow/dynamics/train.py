"""Training: arguments checked, a route planned, a method started, the loop run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opflow.dynamics import checks, routes
from opflow.dynamics.loop import DivergenceError, Loop
from opflow.dynamics.measurement import Outputs
from opflow.dynamics.methods.descent import GradientDescent
from opflow.dynamics.methods.method import Method
from opflow.dynamics.objectives import Objective, Quadratic, run_objective
from opflow.dynamics.plan import plan
from opflow.dynamics.record import Observer, Record, named
from opflow.dynamics.state import State
from opflow.dynamics.storage.checkpoint import Checkpoint
from opflow.dynamics.storage.fingerprint import fingerprint, kernel_mark
from opflow.dynamics.storage.log import Log
from opflow.dynamics.storage.resume import resumed
from opflow.dynamics.storage.trajectory import Trajectory
from opflow.dynamics.timetable import Timetable
from opflow.machine.arrays import Array, as_array, module_name
from opflow.machine.files import FilePath
from opflow.machine.ranks import same, space_of, together
from opflow.machine.workspace import workspace_limit
from opflow.operators.rules import is_operator
from opflow.relu.network import ReLUNetwork

__all__ = ["DivergenceError", "train"]


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
    stop: Observer | None = None,
    loss: str = "sum",
    objective: str | Objective = "quadratic",
    diverge: float = 1e3,
    memory: float | str | None = None,
    eliminate: bool | None = None,
    gram: Any = None,
    measurement: Any = None,
    checkpoint: Checkpoint | FilePath | None = None,
    resume: bool | FilePath | None = False,
    log: FilePath | None = None,
    explain: bool = False,
    progress: bool = False,
    comm: Any = None,
) -> Trajectory:
    r"""Train a network on the whole training set, matrix-free.

    Parameters
    ----------
    network : ReLUNetwork
        The start; it is not changed.
    X : array (N, d), rows on disk, sparse matrix, operator, or None
        Finite, of the network's dtype or converted to it.  Rows on disk are a ``numpy.memmap``
        or what has `shape`, `dtype` and row slicing (h5py, zarr), read in row blocks.  Of an
        operator only X· and Xᵀ· are used.  None if `gram` is all that is known.
    y : array (N,) or (N, k)
        Targets, of the same dtype or converted, finite; labels or probabilities of classes for the
        cross-entropy.
    method : GradientDescent, GaussNewton, GradientFlow, ExponentialFlow or another flow
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
        Called at every moment, the start and the end included; see :mod:`opflow.observe`.  One
        that returns None (it prints, say) records nothing.
    every : int, default 1
        Record a moment every so many steps (and the last).
    stop : callable, optional
        Called at every moment after the observers; the run ends with the first at which it is
        true, on any rank, or at `steps` or `until` (``lambda moment: moment.loss < 1e-3``).  What
        observers gave before is in ``moment.observations``, which checkpoints keep.
    loss : {"sum", "mean"}
        The sum of the samples' losses (½ ‖r_μ‖² if quadratic), or that divided by N.
    objective : {"quadratic", "cross-entropy", "huber"}, Huber, or object
        The loss of a sample, whose force g = ∂loss/∂f drives the fields instead of the
        residual r.  One output of the cross-entropy is the logit of class 1.  An object has
        ``value(f, y)``, (rows,), and ``force(f, y)``, (rows, k), for blocks of outputs and targets
        (rows, k); where steps follow λ_max, a number `curvature`, which no eigenvalue of
        ∂²value/∂f² exceeds; and may have ``hessian(f, y, u)``, (rows, k).
    diverge : float, default 1000
        A loss this many times the first one (or that of the zero function, if it is larger) is
        divergence, and ends the run; below it the loss may rise, as it does above 2/λ_max
        before the kernel has shrunk.  ``math.inf`` lets all losses pass that are finite.
    memory : float or str, optional
        Bytes the run may hold beyond X and y (``"4GB"``); half of what is free by default.
    eliminate : bool, optional
        Step the first layer through the Gram of its inputs (True) or by its weights (False);
        the cheaper by default.
    gram : callable, array, sparse matrix or operator, optional
        A positive semidefinite kernel instead of XXᵀ: ``gram(A, B)`` of two blocks of rows,
        or the (N, N) matrix itself.  h¹ then starts as the first layer makes it and moves in the
        space of the kernel; see Notes.
    measurement : operator, array or sparse matrix (M, N·k), optional
        G of the loss ½ ‖G f − d‖², on outputs flattened sample-major; `y` is then d, (M,) or the
        `dimsd` of a PyLops operator; see Notes.
    checkpoint : Checkpoint or path, optional
        Where to save the state on the way, atomically: every ten minutes, and when the run ends
        or is stopped, unless a :class:`Checkpoint` says otherwise.  SIGINT and SIGTERM then save
        and stop cleanly.
    resume : bool or path
        Go on from the checkpoint (from the start, if there is none yet), or from another state
        of the run.  The trajectory is that of the uninterrupted run, bit for bit with the same
        BLAS and number of threads.
    log : path, optional
        Append one JSON line for every moment.
    explain : bool
        Print the routes, with what each would cost, and which was taken.
    progress : bool
        Show a progress bar on stderr.
    comm : mpi4py.MPI.Comm or Sharded, optional
        Train on the samples of all ranks: X and y are the rows of this one.  Every rank calls
        with the same arguments otherwise, and has the same trajectory but for its rows of the
        residual; rank 0 alone prints, draws and writes `log`.  The first layer moves as weights.
        What one rank raises, an observer's error too, all raise.

    Returns
    -------
    Trajectory
        Of what was reached, if the run is interrupted from the keyboard.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, before any work is done; also for a checkpoint of another network,
        data set or method, or one that is damaged.
    MemoryError
        If `memory` does not suffice, naming what would; before any work is done.
    DivergenceError
        Naming the step, the loss, the step size and 2/λ_max.

    Warns
    -----
    UserWarning
        If a feature in memory spans 1,000 times what another does, or targets reach 100.

    See Also
    --------
    opflow.ReLUNetwork : The networks.
    opflow.observe : What can be recorded along a run.

    Notes
    -----
    :math:`W^\ell \leftarrow W^\ell - \eta\,\eta_\ell\,\partial loss/\partial W^\ell`.  A step
    costs about 2·N·(3P − P_1) flops; memory beyond X and y is that of some copies of the
    weights, some of the residual and a workspace that does not grow with N.

    With the first layer eliminated the state is (C, W², …, W^L) and :math:`h^1 = h^1(0) + G C`,
    :math:`dC/dt = -\eta_1 \varphi^{1T} r`, with G = XXᵀ or the kernel: a step costs 2·N²·n_1
    instead of 4·N·d·n_1 flops.  The weights are recovered at the end, W¹ = W¹(0) + CᵀX, unless
    a kernel was given; then :meth:`Trajectory.predict` goes through the kernel.  With X=None the
    first layer reads the rows of G (d = N), and its weights move by Cᵀ.

    With a measurement the residual is r = G f − d, (M, 1), the force on f is Gᵀr, and K becomes
    G K Gᵀ (:func:`opflow.measured_kernel`) for steps, Krylov spaces and observers; other objectives
    are of G f, entry by entry, and ``loss="mean"`` divides by M.  A step costs 2·N·P flops and a
    product with G and with Gᵀ more, memory f and Gᵀr.  ``pylops.VStack([G, ε L])`` with
    ``[d, 0]`` regularises.  A rank of `comm` gives its samples, all of G and d; it holds rows of r.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    >>> run = of.train(of.ReLUNetwork.random([3, 64, 64], seed=0), X, y, steps=50)
    >>> bool(run.losses[-1] < 0.5 * run.losses[0]), run.residual.shape
    (True, (20, 1))
    """
    if method is None:
        method = GradientDescent()
    eliminate = checks.checked_route(method, eliminate, gram, comm)
    goal = run_objective(objective, network.outputs if measurement is None else 1)
    if method.quadratic and not isinstance(goal, Quadratic):
        flows = "GradientFlow(), GradientDescent() or TruncatedFlow(...)"
        raise ValueError(f"{method!r} needs objective='quadratic'; of {goal.name} take {flows}")
    names = getattr(X, "columns", None)
    observers, X = together(
        comm, lambda: (named(observe), checks.checked_X(X, network, gram, comm is not None))
    )
    here = (gram if X is None else X).shape[0]
    rows = space_of(comm, here)

    def targets() -> tuple[Outputs, Array]:
        seen = checks.checked_measurement(measurement, network, rows.all_rows(here), method)
        return seen, seen.targets(y, network, here, goal)

    seen, y = together(comm, targets)
    if comm is None and gram is None:
        checks.warn_of_scales(X, y, names)
    same(comm, network.digest, "network")
    options = (steps, until, times, every, loss, goal, diverge, seen.symbol, *observers)
    what = "steps, until, times, every, loss, objective, diverge, measurement and names in observe"
    same(comm, lambda: repr(options), what)
    seen, y, space = seen.spread(y, rows)
    samples = space.all_rows(len(y))
    table = Timetable.of(steps, until, times, every)
    if not method.timed and table.end < math.inf:
        raise ValueError(f"until and times are moments, and {method!r} has none: give steps")
    if times is not None and method.stepwise:
        raise ValueError(f"times are for methods that choose their steps, not for {method!r}")
    checks.check_loss(loss, diverge)
    if stop is not None and not callable(stop):
        raise TypeError(f"stop must be a callable of a moment, true where a run ends, not {stop!r}")
    share = 1.0 / samples if loss == "mean" else 1.0
    count = table.steps
    if count and method.batch:  # in passes over all rows
        count = max(1, count * method.batch // samples)

    how = f"{method!r}, loss={loss!r}"
    if not isinstance(goal, Quadratic):
        how += f", objective={goal!r}"

    def identity() -> dict[str, str]:
        """What a checkpoint and the run that goes on from it have in common."""
        matrix = gram
        if gram is None or (callable(gram) and not is_operator(gram)):
            matrix = None
        elif not isinstance(getattr(gram, "dtype", None), np.dtype):  # lists, pandas, PyTorch
            matrix = as_array(gram, "gram")
        found = {
            "network": network.digest(),
            "inputs": fingerprint(X, matrix, space=rows),
            "targets": fingerprint(y, space=space),
            "method": how,
        }
        if gram is not None and matrix is None:
            found["gram"] = kernel_mark(gram, X)
        return found | seen.identity()

    saver, arrays, meta = resumed(checkpoint, resume, identity, space)
    budget = space.budget(memory, module_name(network.readout))
    found = together(
        comm, lambda: plan(network, X, count, budget, eliminate, gram, method, seen, meta)
    )
    if explain and space.leads:
        print(routes.explain(found.routes, network.dtype, count, budget))
    workspace, spread, held = found.allowance
    # a square that rounds to zero is no fault, whatever NumPy is told to do about it
    with np.errstate(under="ignore"), workspace_limit(workspace, spread):
        state = State(
            network,
            found.first,
            y,
            accumulate=method.accumulate,
            memory=max(held, 1.0),  # where nothing is left, fields are recomputed
            space=space,
            objective=goal,
            decay=method.weight_decay / share,
            measurement=seen,
        )
        loop = Loop(
            method.name,
            method.start(state, share),
            share,
            Record(observers, space),
            table,
            float(diverge),
            saver,
            found.record(),
            stop,
        )
        last = None
        if meta:
            loop.resume(arrays, meta)
            # a moment that was recorded only because the run ended is not kept
            last = meta["number"] - (not meta["recorded"])
        if log is not None:
            loop.log = space.together(lambda: Log(log, last) if space.leads else None)
        return loop.go(progress and space.leads)
