"""The loop: steps, observers, stopping, progress."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from opflow.arrays import check_real, namespace
from opflow.dynamics.observe import Moment
from opflow.dynamics.steppers import GradientDescent, TruncatedFlow
from opflow.dynamics.trajectory import Trajectory
from opflow.operators.algebra import scale
from opflow.relu.fields import Fields, check_inputs
from opflow.relu.kernels import collective_kernel
from opflow.relu.network import ReLUNetwork
from opflow.spectral.lanczos import Largest, largest_eigenvalue

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
    method: GradientDescent | TruncatedFlow | None = None,
    steps: int | None = None,
    until: float | None = None,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    loss: str = "sum",
    progress: bool = False,
) -> Trajectory:
    r"""Train a network by full-batch gradient descent, or by a truncation of its hierarchy.

    Parameters
    ----------
    network : ReLUNetwork
        The start; it is not changed.
    X : array (N, d) or sparse matrix
        Of the network's dtype, finite.
    y : array (N,) or (N, k)
        Targets, of the same dtype, finite.
    method : GradientDescent or TruncatedFlow, optional
        ``GradientDescent(step="auto")`` by default.
    steps : int, optional
        Steps to take.
    until : float, optional
        Time to reach (steps · step size); whichever of the two comes first ends the run, and
        one is needed.
    observe : sequence of observers, or mapping of names to observers
        Called at every moment, the start and the end included; see :mod:`opflow.observe`.
    loss : {"sum", "mean"}
        ½ Σ_μ |r_μ|², or that divided by N.
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
    DivergenceError
        Naming the step, the loss, the step size and 2/λ_max.

    Notes
    -----
    :math:`W^\ell \leftarrow W^\ell - \eta\,\eta_\ell\,\partial loss/\partial W^\ell`.  A step
    costs about 2·N·(3P − P_1) flops; memory beyond X and y is that of three copies of the
    weights, two of the residual and a workspace that does not grow with N.  ``step="auto"``
    also holds the activations (N·Σn_ℓ numbers) while it measures λ_max(K).

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
    if not isinstance(method, GradientDescent | TruncatedFlow):
        raise TypeError(
            f"method must be a GradientDescent or TruncatedFlow, not {type(method).__name__}"
        )
    X = check_inputs(X, network)
    y = check_targets(y, network, X)
    limit = _checked_length(steps, until)
    if loss not in ("sum", "mean"):
        raise ValueError(f"loss must be 'sum' or 'mean', not {loss!r}")
    observers = _named(observe)
    share = 1.0 / X.shape[0] if loss == "mean" else 1.0

    step, note, products = _step_size(method, network, X, share)
    if until is not None:
        reach = math.ceil(until / step * (1 - 1e-12))
        limit = reach if limit is None else min(limit, reach)
    assert limit is not None  # steps or until was given
    floor = _loss_of_zero(y, share)
    xp = namespace(network.readout)
    residual, spare = (xp.empty(y.shape, dtype=y.dtype) for _ in range(2))
    times: list[float] = []
    losses: list[float] = []
    seen: dict[str, list[Any]] = {name: [] for name in observers}
    reached = network
    interrupted = False

    def trajectory() -> Trajectory:
        done = len(losses)
        return Trajectory(
            reached,
            residual,
            np.array(times[:done]),
            np.array(losses),
            products + max(done - 1, 0),
            {name: np.array(values[:done]) for name, values in seen.items()},
            step,
            note,
            interrupted,
        )

    state = method.start(network, X, y)
    bar = tqdm(total=limit, disable=not progress, unit="step", desc="train")
    try:
        for number in range(limit + 1):
            with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported below
                value = share * state.evaluate(spare)
            if not math.isfinite(value) or (losses and value > GROWTH * max(losses[0], floor)):
                raise DivergenceError(
                    _divergence(method, number, value, step, reached, X, share), trajectory()
                )
            moment = Moment(number, number * step, value, spare, state.network, X, y, share)
            if observers:  # fields that are a state are copied out for them
                moment = replace(moment, fields=state.fields, exact=state.exact)
            values = {name: observer(moment) for name, observer in observers.items()}
            # From here to the end of the block nothing is half done.
            for name, observed in values.items():
                seen[name].append(observed)
            times.append(moment.time)
            residual, spare, reached = spare, residual, state.network
            losses.append(value)
            if number < limit:
                state.advance(step * share)
                bar.set_postfix(loss=f"{value:.4g}", refresh=False)
                bar.update()
    except KeyboardInterrupt:
        if not losses:
            raise
        interrupted = True
    finally:
        bar.close()
    return trajectory()


def check_targets(y: Any, network: ReLUNetwork, X: Any) -> Any:
    """`y` as (N, k), or an error that says what is wrong with it."""
    y = check_real(y, "y", finite=True)
    n, k = X.shape[0], network.outputs
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


def _checked_length(steps: int | None, until: float | None) -> int | None:
    if steps is None and until is None:
        raise ValueError("steps or until is needed to know when to stop")
    if steps is not None:
        if not isinstance(steps, numbers.Integral) or isinstance(steps, bool):
            raise TypeError(f"steps must be an integer, not {steps!r}")
        if steps < 0:
            raise ValueError(f"steps must not be negative, not {steps}")
    if until is not None and not 0 <= until < math.inf:
        raise ValueError(f"until must be a finite time, not {until!r}")
    return None if steps is None else int(steps)


def _named(observe: Sequence[Observer] | Mapping[str, Observer]) -> dict[str, Observer]:
    if not isinstance(observe, Mapping):
        observe = {getattr(o, "name", getattr(o, "__name__", type(o).__name__)): o for o in observe}
    for name, observer in observe.items():
        if not callable(observer):
            raise TypeError(f"observe[{name!r}] is not callable: {observer!r}")
    return dict(observe)


def sharpness(network: ReLUNetwork, X: Any, share: float = 1.0) -> Largest:
    """λ_max(K), by transport, which stores no conjugates."""
    kernel = scale(share, collective_kernel(Fields(network, X), route="transport"))
    return largest_eigenvalue(kernel)


def _step_size(
    method: GradientDescent | TruncatedFlow, network: ReLUNetwork, X: Any, share: float
) -> tuple[float, str, int]:
    if method.step != "auto":
        return float(method.step), f"step {float(method.step):.4g}, as given", 0
    top = sharpness(network, X, share)
    if not top.value > 0:
        # No gate is open anywhere: the kernel is zero and no step moves anything.
        return 1.0, "step 1: K = 0, nothing will move", top.products
    step = 1.0 / (top.value + top.bound)
    note = (
        f"step {step:.4g} (auto: 1/λ_max, half the stability limit, with λ_max(K) = "
        f"{top.value:.4g} at the start from {top.products} Lanczos products)"
    )
    return step, note, top.products


def _loss_of_zero(y: Any, share: float) -> float:
    """The loss of the zero function: what a fit from a perfect start is measured against."""
    return 0.5 * share * float((y.astype(np.float64) ** 2).sum())


def _divergence(
    method: GradientDescent | TruncatedFlow,
    number: int,
    value: float,
    step: float,
    reached: ReLUNetwork,
    X: Any,
    share: float,
) -> str:
    top = sharpness(reached, X, share).value
    limit = f"{2 / top:.4g}" if top > 0 else "infinite"
    return (
        f"{method.name} diverged at step {number}: loss {value:.4g} with step size {step:.4g}; "
        f"the stability limit 2/λ_max(K) was {limit} at the last step before"
    )
