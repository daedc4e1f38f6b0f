"""Training: arguments checked, a route planned, a method started, the loop let go."""

from __future__ import annotations

import itertools
import math
import numbers
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opflow.dynamics.loop import DivergenceError, Loop, Observer
from opflow.dynamics.methods.descent import GradientDescent
from opflow.dynamics.methods.method import Method
from opflow.dynamics.plan import checked_X, plan
from opflow.dynamics.plan import explain as explained
from opflow.dynamics.state import State
from opflow.dynamics.storage.checkpoint import Checkpoint, Saver, exists, load
from opflow.dynamics.storage.fingerprint import fingerprint, kernel_mark
from opflow.dynamics.storage.log import Log
from opflow.dynamics.storage.trajectory import Trajectory
from opflow.machine.arrays import check_integer, check_real, module_name, namespace
from opflow.machine.ranks import RowDistribution, Sharded, same, space_of, together
from opflow.machine.workspace import workspace_limit
from opflow.operators.algebra import is_operator
from opflow.relu.network import ReLUNetwork

#: how many times wider one feature may be than another, and how large targets, without a word
UNLIKE, LARGE = 1e3, 1e2

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
    loss: str = "sum",
    diverge: float = 1e3,
    memory: float | str | None = None,
    eliminate: bool | None = None,
    gram: Any = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    resume: bool | str | os.PathLike[str] | None = False,
    log: str | os.PathLike[str] | None = None,
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
        Targets, of the same dtype or converted, finite.
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
        Called at every moment, the start and the end included; see :mod:`opflow.observe`.  One
        that returns None (it prints, say) records nothing.
    every : int, default 1
        Record a moment every so many steps (and the last).
    loss : {"sum", "mean"}
        ½ Σ_μ |r_μ|², or that divided by N.
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
        A positive semidefinite kernel in the place of XXᵀ: ``gram(A, B)`` of two blocks of rows,
        or the (N, N) matrix itself.  h¹ then starts as the first layer makes it and moves in the
        space of the kernel; see Notes.
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

    Warns
    -----
    UserWarning
        If a feature in memory spans 1,000 times what another does, or targets reach 100.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, before any work is done; also for a checkpoint of another network,
        data set or method, or one that is damaged.
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
    if comm is not None:
        _check_sharded(method, eliminate, gram)
        eliminate = False
    observers, X, y = together(
        comm, lambda: (_named(observe), *_checked_data(network, X, y, gram, comm is not None))
    )
    if comm is None and gram is None:
        _warn_of_scales(X, y)
    same(comm, network.digest, "network")
    said = (steps, until, times, every, loss, diverge, *observers)
    what = "steps, until, times, every, loss, diverge and the names in observe"
    same(comm, lambda: repr(said), what)
    space = space_of(comm, y.shape[0])
    samples = space.size if isinstance(space, Sharded) else y.shape[0]
    limit, end, stops = _checked_length(steps, until, times)
    if stops is not None and getattr(method, "stepwise", False):
        raise ValueError(f"times are for methods that choose their steps, not for {method!r}")
    every = check_integer(every, "every", 1)
    if loss not in ("sum", "mean"):
        raise ValueError(f"loss must be 'sum' or 'mean', not {loss!r}")
    if not isinstance(diverge, int | float) or isinstance(diverge, bool):
        raise TypeError(f"diverge must be a number, not {diverge!r}")
    if not diverge >= 1:
        raise ValueError(f"diverge must be a factor of at least 1, or math.inf, not {diverge!r}")
    share = 1.0 / samples if loss == "mean" else 1.0
    if getattr(method, "by_weights", False):
        if eliminate or gram is not None:
            raise ValueError(f"{method!r} moves weights: eliminate= and gram= are not for it")
        eliminate = False
    count = None if math.isinf(limit) else int(limit)
    if count and getattr(method, "batch", None):  # in passes over all rows
        count = max(1, count * method.batch // samples)  # type: ignore[attr-defined]
    saver, held = _checkpoint(checkpoint, resume, method, network, X, y, gram, loss, space)
    budget = space.budget(memory, module_name(network.readout))
    resumed = None if held is None else held[1]
    found = together(
        comm,
        lambda: plan(
            network,
            X,
            steps=count,
            memory=budget,
            eliminate=eliminate,
            gram=gram,
            method=method,
            resumed=resumed,
        ),
    )
    if explain and space.leads:
        print(explained(found, network.dtype, count, budget))
    # a square that rounds to zero is no fault, whatever NumPy is told to do about it
    with np.errstate(under="ignore"), workspace_limit(found.room.workspace, found.room.spread):
        accumulate = getattr(method, "accumulate", None)
        state = State(network, found.first, y, None, accumulate, found.room.fields, space)
        loop = Loop(
            method.name,
            method.start(state, share),
            share,
            observers,
            every,
            float(diverge),
            limit,
            end,
            stops,
            saver,
            found.record(),
        )
        last = None
        if held is not None:
            loop.resume(*held)
            # a moment that was recorded only because the run ended is not kept
            last = held[1]["number"] - (not held[1]["recorded"])
        if log is not None:
            loop.log = space.together(lambda: Log(log, last) if space.leads else None)
        return loop.go(progress and space.leads)


def _check_sharded(method: Method, eliminate: bool | None, gram: Any) -> None:
    """Raise ``ValueError`` for what cannot be spread over ranks."""
    if eliminate or gram is not None:
        raise ValueError(
            "eliminate= and gram= are for one machine: with comm= the first layer moves as weights"
        )
    if not getattr(method, "sharded", True):
        raise ValueError(f"{method!r} is for one machine: its state is fields, not weights")


def _checkpoint(
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    resume: bool | str | os.PathLike[str] | None,
    method: Method,
    network: ReLUNetwork,
    X: Any,
    y: Any,
    gram: Any,
    loss: str,
    space: RowDistribution,
) -> tuple[Saver | None, tuple[dict[str, Any], dict[str, Any]] | None]:
    """What saves the run, and the state it goes on from."""
    resume = _resume(resume)
    if checkpoint is None:
        if resume is True:
            raise ValueError("resume=True needs checkpoint= to say which run goes on")
        if resume is False:
            return None, None
    elif not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    known = gram if hasattr(gram, "shape") else None
    identity = {
        "network": network.digest(),
        "inputs": fingerprint(X, known, space=space),
        "targets": fingerprint(y, space=space),
        "method": f"{method!r}, loss={loss!r}",
    }
    if callable(gram) and not is_operator(gram):
        identity["gram"] = kernel_mark(gram, X)
    held = None
    if resume is True:
        assert checkpoint is not None
        if space.agreed(exists(checkpoint)):
            held = space.together(lambda: load(checkpoint, identity, space))
    elif resume is not False:
        held = space.together(lambda: load(resume, identity, space))
    elif checkpoint is not None and space.agreed(exists(checkpoint)):
        raise ValueError(
            f"{checkpoint.path} holds a run already: resume=True goes on from it; remove it, or "
            "give another path, to begin anew"
        )
    if checkpoint is None:
        return None, held
    saver = Saver(checkpoint, identity, 0 if held is None else held[1]["number"], space)
    space.together(lambda: saver.prepare() if space.leads else None)
    return saver, held


def _resume(resume: Any) -> bool | str | os.PathLike[str]:
    if resume is None:
        return False
    if isinstance(resume, bool | np.bool_):
        return bool(resume)
    if not isinstance(resume, str | os.PathLike):
        raise TypeError(f"resume must be True, False or the path of a state, not {resume!r}")
    if not os.fspath(resume):
        raise ValueError("resume must be True, False or the path of a state, not an empty text")
    return resume


def _checked_data(network: ReLUNetwork, X: Any, y: Any, gram: Any, empty: bool) -> tuple[Any, Any]:
    """The inputs and the targets of this rank."""
    X = checked_X(X, network, gram, empty)
    return X, check_targets(y, network, X.shape[0] if X is not None else gram.shape[0])


def _warn_of_scales(X: Any, y: Any) -> None:
    """Warn of features and targets that make a run slow: one pass over what is in memory."""
    found = []
    if type(X) is np.ndarray and X.size:
        spread = X.max(axis=0) - X.min(axis=0)
        order = np.argsort(np.where(spread > 0, spread, np.inf))
        low, high = order[0], spread.argmax()
        if spread[high] >= UNLIKE * spread[low] > 0:
            widths = f"{spread[high]:.3g} and column {low} only {spread[low]:.3g}"
            found.append(f"column {high} of X spans {widths}")
    if type(y) is np.ndarray and (size := np.abs(y).max(initial=0.0)) >= LARGE:
        found.append(f"y has values of size {size:.3g}")
    if found:
        advice = "such data train badly; of.Standardiser, or --standardise, makes columns alike"
        warnings.warn(f"{', '.join(found)}: {advice}", UserWarning, stacklevel=3)


def check_targets(y: Any, network: ReLUNetwork, n: int) -> Any:
    """`y` as (N, k), or an error that says what is wrong with it."""
    y = check_real(y, "y", dtype=network.dtype, finite=True)
    k = network.outputs
    wanted = f"({n}, {k})" + (f" or ({n},)" if k == 1 else "")
    if y.ndim == 1 and k == 1:
        y = y[:, None]
    if y.shape != (n, k):
        raise ValueError(
            f"y has shape {y.shape} but X has {n} rows and the network {k} outputs: "
            f"{wanted} is expected"
        )
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
        names = [getattr(o, "name", getattr(o, "__name__", type(o).__name__)) for o in observe]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"observe has two called {twice[0]!r}: name one, or give a mapping")
        observe = dict(zip(names, observe, strict=True))
    for name, observer in observe.items():
        if not isinstance(name, str):
            raise TypeError(f"the names in observe must be strings, not {name!r}")
        if not callable(observer):
            raise TypeError(f"observe[{name!r}] is not callable: {observer!r}")
    return dict(observe)
