"""Objectives: the loss of every sample, and the force g = ∂loss/∂f that drives the outputs.

All functions are by rows, in the array module and dtype of what they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Data, check_real, module_name, namespace
from opflow.machine.workspace import row_slices


class Objective(Protocol):
    """What ``objective=`` of :func:`opflow.train` takes; see there what it may have besides."""

    def value(self, f: Array, y: Array) -> Array:
        """The loss of every sample, (rows,), for outputs and targets (rows, k)."""

    def force(self, f: Array, y: Array) -> Array:
        """∂value/∂f, (rows, k)."""


class RunObjective(Objective):
    """An objective with all that a run asks of it."""

    name: str  #: for messages

    @property
    def curvature(self) -> float:
        """No eigenvalue of ∂²value/∂f² exceeds it; ``ValueError`` where it is not known."""
        return 1.0

    def hessian(self, f: Array, y: Array, u: Array) -> Array:
        """∂²value/∂f² times u, (rows, k), or `curvature` times u where it is not known."""
        return self.curvature * u

    def targets(self, y: Array, k: int) -> Array:
        """y, (N,) or (N, k), as targets (N, k) of k outputs."""
        return y[:, None] if y.ndim == 1 else y


@dataclass(frozen=True)
class Quadratic(RunObjective):
    """½ |f − y|², whose force is the residual f − y."""

    name = "quadratic"

    def value(self, f: Array, y: Array) -> Array:
        return 0.5 * ((f - y).astype(np.float64) ** 2).sum(axis=1)

    def force(self, f: Array, y: Array) -> Array:
        return f - y


QUADRATIC = Quadratic()


@dataclass(frozen=True)
class CrossEntropy(RunObjective):
    """log Σ exp f_j − y·f, force softmax(f) − y; one output has a class 0 of logit 0 before it."""

    outputs: int

    name = "cross-entropy"

    @property
    def curvature(self) -> float:
        return 0.25 if self.outputs == 1 else 0.5

    def value(self, f: Array, y: Array) -> Array:
        xp = namespace(f)
        z = self._logits(f)
        rest = xp.exp(xp.sort(z, axis=1)[:, :-1]).sum(axis=1)  # beside the largest, exp 0 = 1
        return xp.log1p(rest) - (self._classes(y, 1 - y) * z).sum(axis=1)

    def force(self, f: Array, y: Array) -> Array:
        p = self._shares(f)
        r = p - self._classes(y, 1 - y)
        # near 1, p − y keeps no digits of what the others share: rows of r sum to 0
        likely = p > 0.5
        others = (r * ~likely).sum(axis=1, keepdims=True)
        return namespace(f).where(likely, -others, r)[:, -self.outputs :]

    def hessian(self, f: Array, y: Array, u: Array) -> Array:
        p = self._shares(f)
        u = self._classes(u, 0 * u)
        u = u - (u * (p > 0.5)).sum(axis=1, keepdims=True)  # of the likely class, for its digits
        return (p * (u - (p * u).sum(axis=1, keepdims=True)))[:, -self.outputs :]

    def _classes(self, x: Array, first: Array) -> Array:
        """Columns of all classes: `first` before that of a single output."""
        return x if self.outputs > 1 else namespace(x).concatenate([first, x], axis=1)

    def _logits(self, f: Array) -> Array:
        """Less the largest of a row, so that no power overflows."""
        f = self._classes(f, 0 * f)
        return f - f.max(axis=1, keepdims=True)

    def _shares(self, f: Array) -> Array:
        p = namespace(f).exp(self._logits(f))
        return p / p.sum(axis=1, keepdims=True)

    def targets(self, y: Array, k: int) -> Array:
        """One-hot rows of labels (N,), or probabilities (N, k); a single one is that of class 1."""
        top = max(k - 1, 1)
        total = 0 * y + 1
        if y.ndim == 2 and k > 1:
            total = y.sum(axis=1, keepdims=True)
        good = (y >= 0) & (y <= total) & (abs(total - 1) <= 1e-4)
        if y.ndim == 1:
            good = (y >= 0) & (y <= top) & (y == y.round())
        if not bool(good.all()):
            raise ValueError(
                f"y must be labels 0..{top}, (N,), or probabilities, (N, {k}), for the "
                f"cross-entropy of {k} outputs (rows of sum 1), and its numbers go from "
                f"{float(y.min()):g} to {float(y.max()):g}: "
                "np.unique(labels, return_inverse=True)[1] numbers any labels"
            )
        if y.ndim == 1 and k > 1:
            return (y[:, None] == namespace(y).arange(k)).astype(y.dtype)
        return super().targets(y / total, k)  # rows of sum 1 to rounding


@dataclass(frozen=True)
class Huber(RunObjective):
    """The Huber loss, quadratic in the residual r = f − y up to `delta` and linear beyond.

    ½ r² up to `delta`, delta (abs(r) − delta/2) beyond: the force is clipped there.

    Parameters
    ----------
    delta : float, default 1
        In units of the targets; ``objective="huber"`` is ``Huber()``.

    See Also
    --------
    opflow.train : Takes it as `objective`.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Huber(0.5).force(np.array([[0.25], [3.0]]), np.zeros((2, 1)))
    array([[0.25],
           [0.5 ]])
    """

    delta: float = 1.0

    name = "huber"

    def __post_init__(self) -> None:
        if not isinstance(self.delta, int | float) or not 0 < self.delta < math.inf:
            raise ValueError(f"delta must be a positive number, not {self.delta!r}")

    def value(self, f: Array, y: Array) -> Array:
        r = abs(f - y)
        inner = r.clip(max=self.delta)
        return (inner * (r - 0.5 * inner)).sum(axis=1)

    def force(self, f: Array, y: Array) -> Array:
        return (f - y).clip(-self.delta, self.delta)

    def hessian(self, f: Array, y: Array, u: Array) -> Array:
        return u * (abs(f - y) <= self.delta)


class Given(RunObjective):
    """A user's own objective."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.name = type(given).__qualname__

    @property
    def curvature(self) -> float:
        bound = getattr(self.given, "curvature", math.nan)
        if not 0 < bound < math.inf:
            raise ValueError(
                f"{self.name} needs a positive number `curvature`, which no eigenvalue of "
                "∂²value/∂f² exceeds: step='auto', the flows, GaussNewton and Sharpness use it, "
                "GradientDescent(step=number) does not"
            )
        return float(bound)

    def value(self, f: Array, y: Array) -> Array:
        return self._rows(self.given.value(f, y), "value", f.shape[:1])

    def force(self, f: Array, y: Array) -> Array:
        return self._rows(self.given.force(f, y), "force", f.shape)

    def hessian(self, f: Array, y: Array, u: Array) -> Array:
        own = getattr(self.given, "hessian", super().hessian)
        return self._rows(own(f, y, u), "hessian", f.shape)

    def _rows(self, found: Array, what: str, shape: tuple[int, ...]) -> Array:
        if np.shape(found) != shape:
            raise ValueError(f"{what} of {self.name} must be {shape}, not {np.shape(found)}")
        return found

    def __repr__(self) -> str:  # goes into checkpoints: no address
        return self.name if type(self.given).__repr__ is object.__repr__ else repr(self.given)


def run_objective(objective: str | Objective, outputs: int) -> RunObjective:
    """What ``objective=`` names or is, for a network of so many outputs."""
    known = {o.name: o for o in (QUADRATIC, CrossEntropy(outputs), Huber())}
    if isinstance(objective, str) and objective in known:
        return known[objective]
    if isinstance(objective, RunObjective):
        return objective
    parts = (getattr(objective, part, None) for part in ("value", "force"))
    if isinstance(objective, type) or not all(map(callable, parts)):
        raise ValueError(
            f"objective must be {', '.join(map(repr, known))} or an object with value(f, y) and "
            f"force(f, y), not {objective!r}"
        )
    return Given(objective)


def targets_of(y: Data, dtype: DTypeLike, n: int, k: int, objective: RunObjective) -> Array:
    """The targets (n, k) of any network."""
    y = check_real(y, "y", dtype=dtype, finite=True)
    labels = k == 1 or isinstance(objective, CrossEntropy)
    if y.ndim == 1 and labels:
        y = objective.targets(y, k)
    if y.shape != (n, k):
        wanted = f"({n}, {k})" + f" or ({n},)" * labels
        raise ValueError(
            f"y has shape {y.shape} but X has {n} rows and the network {k} outputs: "
            f"{wanted} is expected"
        )
    return objective.targets(y, k)


def objective_blocks(f: Array) -> list[slice]:
    """Row blocks of outputs in which the temporaries of any objective here fit the workspace."""
    return row_slices(len(f), 16 * f.shape[1] * f.dtype.itemsize, where=module_name(f))


def driven(
    objective: RunObjective, y: Array, out: Array
) -> tuple[Callable[[slice, Array], Array], Callable[[], Any]]:
    """The force of rows, written to `out`, of the outputs there; after all of them, the loss."""
    xp = namespace(y)
    if isinstance(objective, Quadratic):

        def residual(s: slice, f: Array) -> Array:
            return xp.subtract(f, y[s], out=out[s])

        def half_square() -> Any:
            blocks = row_slices(len(out), 24 * out.shape[1], where=module_name(out))
            return 0.5 * sum((out[s].astype(np.float64) ** 2).sum() for s in blocks)

        return residual, half_square
    losses = xp.empty(len(y), dtype=np.float64)

    def force(s: slice, f: Array) -> Array:
        losses[s] = objective.value(f, y[s])
        out[s] = objective.force(f, y[s])
        return out[s]

    return force, losses.sum
