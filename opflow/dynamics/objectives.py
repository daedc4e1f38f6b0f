"""Objectives: the loss of every sample, and the force g = ∂loss/∂f that drives the outputs.

All functions are by rows, in the array module and dtype of what they are given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from opflow.machine.arrays import Array, namespace
from opflow.machine.workspace import row_slices


class Objective(Protocol):
    """What ``objective=`` of :func:`opflow.train` takes; see there what it may have besides."""

    def value(self, f: Array, y: Array) -> Array:
        """The loss of every sample, (rows,), for outputs and targets (rows, k)."""

    def force(self, f: Array, y: Array) -> Array:
        """∂value/∂f, (rows, k)."""


class RunObjective(Objective, Protocol):
    """An objective with all that a run asks of it."""

    #: for messages
    name: str
    #: no eigenvalue of ∂²value/∂f² exceeds it; NaN where it is not known
    curvature: float = 1.0
    #: whether targets (N,) are the labels of classes
    classes: bool = False

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


@dataclass(frozen=True)
class CrossEntropy(RunObjective):
    """log Σ_j exp f_j − y·f for probabilities y of classes: the force is softmax(f) − y.

    One output is the logit of class 1, beside a class 0 of logit 0.
    """

    outputs: int

    name = "cross-entropy"
    classes = True

    @property
    def curvature(self) -> float:  # type: ignore[override]
        return 0.25 if self.outputs == 1 else 0.5

    def value(self, f: Array, y: Array) -> Array:
        if self.outputs == 1:
            y = namespace(y).concatenate([1 - y, y], axis=1)
        z = self._logits(f)
        return namespace(z).log(namespace(z).exp(z).sum(axis=1)) - (y * z).sum(axis=1)

    def force(self, f: Array, y: Array) -> Array:
        return self._shares(f) - y

    def hessian(self, f: Array, y: Array, u: Array) -> Array:
        p = self._shares(f)
        return p * (u - (p * u).sum(axis=1, keepdims=True))

    def _logits(self, f: Array) -> Array:
        """Less the largest of a row, so that no power overflows."""
        if self.outputs == 1:
            f = namespace(f).concatenate([0 * f, f], axis=1)
        return f - f.max(axis=1, keepdims=True)

    def _shares(self, f: Array) -> Array:
        p = namespace(f).exp(self._logits(f))
        return p[:, -self.outputs :] / p.sum(axis=1, keepdims=True)

    def targets(self, y: Array, k: int) -> Array:
        """One-hot rows of labels (N,), or probabilities (N, k); a single one is that of class 1."""
        top = max(k - 1, 1)
        if y.ndim == 1:
            good = (y >= 0) & (y <= top) & (y == y.round())
        else:
            total = y.sum(axis=1, keepdims=True) if k > 1 else 0 * y + 1
            good = (y >= 0) & (y <= total) & (abs(total - 1) <= 1e-4)
        if not bool(good.all()):
            raise ValueError(
                f"y must be labels 0..{top}, (N,), or probabilities, (N, {k}), for the "
                f"cross-entropy of {k} outputs, and its numbers go from {float(y.min()):g} to "
                f"{float(y.max()):g}: np.unique(labels, return_inverse=True)[1] numbers any labels"
            )
        if y.ndim == 2:
            return y / total  # 1 to rounding
        if y.ndim == 1 < k:
            y = (y[:, None] == namespace(y).arange(k)).astype(y.dtype)
        return super().targets(y, k)


@dataclass(frozen=True)
class Huber(RunObjective):
    """½ r² of r = f − y up to `delta`, delta (|r| − delta/2) beyond: the force is clipped there."""

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
        self.curvature = float(getattr(given, "curvature", math.nan))

    def value(self, f: Array, y: Array) -> Array:
        return self._rows(self.given.value(f, y), "value", f.shape[:1])

    def force(self, f: Array, y: Array) -> Array:
        return self._rows(self.given.force(f, y), "force", f.shape)

    def hessian(self, f: Array, y: Array, u: Array) -> Array:
        if not hasattr(self.given, "hessian"):
            return super().hessian(f, y, u)
        return self._rows(self.given.hessian(f, y, u), "hessian", f.shape)

    def _rows(self, found: Array, what: str, shape: tuple[int, ...]) -> Array:
        if np.shape(found) != shape:
            raise ValueError(f"{what} of {self.name} must be {shape}, not {np.shape(found)}")
        return found

    def __repr__(self) -> str:  # goes into checkpoints: no address
        return self.name if type(self.given).__repr__ is object.__repr__ else repr(self.given)


def run_objective(objective: str | Objective, outputs: int) -> RunObjective:
    """What ``objective=`` names or is, for a network of so many outputs."""
    named = (Quadratic(), CrossEntropy(outputs), Huber())
    for known in named:
        if isinstance(objective, str) and objective == known.name:
            return known
    if isinstance(objective, Quadratic | CrossEntropy | Huber | Given):
        return objective
    parts = (getattr(objective, part, None) for part in ("value", "force"))
    if isinstance(objective, type) or not all(map(callable, parts)):
        raise ValueError(
            f"objective must be {', '.join(repr(known.name) for known in named)} or an object with "
            f"value(f, y) and force(f, y), not {objective!r}"
        )
    return Given(objective)


def summed(objective: RunObjective, f: Array, y: Array) -> Any:
    """The loss of all rows in float64; a number on the device."""
    blocks = row_slices(len(y), 32 * y.shape[1])
    return sum(objective.value(f[s], y[s]).astype(np.float64).sum() for s in blocks)
