"""Which eigenpairs are asked for (``which=``), which comes next, and when they are good enough."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opflow.machine.arrays import Array, to_device_of
from opflow.operators.operator import Operator
from opflow.spectral.blocks import rounding_of


class Tolerance(NamedTuple):
    """When a pair is good enough: its residual is within either of two bounds."""

    #: to the eigenvalue
    relative: float
    #: to the norm of the operator
    rounding: float

    @classmethod
    def of(cls, op: Operator, tol: float) -> Tolerance:
        """The tolerance asked for, and 10·√n·ε relative to the norm."""
        if not 0 <= tol < 1:
            raise ValueError(f"tol must be at least 0 and below 1, not {tol!r}")
        return cls(float(tol), 10 * rounding_of(op))

    def allowed(self, values: Array | float, scale: float) -> Array:
        """The residuals that are good enough, for an operator of norm `scale`."""
        return np.maximum(self.relative * np.abs(values), self.rounding * scale)


def choose(values: Array, k: int, which: str) -> Array:
    """Indices of the k values asked for, descending by value; `values` in any order."""
    order = np.argsort(-values, kind="stable")
    if which == "LA":
        return order[:k]
    if which == "SA":
        return order[len(order) - k :]
    if which == "BE":
        return np.concatenate([order[: -(-k // 2)], order[len(order) - k // 2 :]])
    best = np.argsort(-abs(values), kind="stable")[:k]
    return best[np.argsort(-values[best], kind="stable")]


def _following(values: Array, k: int, which: str) -> Array:
    """The index of the value that comes after the k asked for, if there is one."""
    more = min(k + 1, len(values))
    return np.setdiff1d(choose(values, more, which), choose(values, k, which))


def next_to(values: Array, k: int, which: str, vectors: Array) -> Array:
    """The vector of the value that comes after the k asked for, if there is one."""
    return vectors[:, to_device_of(_following(values, k, which), vectors)]


def settled_next(
    values: Array, residuals: Array, k: int, which: str, within: Array, doubt: float
) -> bool:
    """Whether the pair next to the k asked for has converged, or cannot be one of them.

    It cannot if its residual is below `doubt` times its distance from them.
    """
    if which == "BE" or len(values) <= k:
        return True
    following = int(_following(values, k, which)[0])
    ranked = {"LM": abs(values), "LA": values, "SA": -values}[which]
    best = ranked[following] + residuals[following] / doubt
    return bool(within[following] or best < ranked[choose(values, k, which)].min())
