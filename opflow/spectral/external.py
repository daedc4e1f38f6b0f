"""Eigenvectors by SciPy's solvers, for host data."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.linalg as spla

from opflow.operators.operator import Operator
from opflow.operators.rows import op_namespace
from opflow.spectral.checks import gaussian, sharing
from opflow.spectral.recursion import Recursion


class Found(NamedTuple):
    """Vectors (n, k) that span what was asked for, and what comes next; the norm as far as it was
    seen; products."""

    vectors: Any
    scale: float
    products: int
    guard: Any = None


def external(
    op: Operator, k: int, which: str, tolerance: tuple[float, float], method: str, steps: int,
    start: Any, rng: np.random.Generator,
) -> Found:  # fmt: skip
    """Vectors of the pairs asked for, by ARPACK or LOBPCG.

    `tolerance` is relative to an eigenvalue, and to the norm.  What did not converge is measured
    by the caller.
    """
    if op_namespace(op) is not np or sharing(op).sharded:
        raise TypeError(f"method={method!r} is SciPy's, for host data; use 'lanczos' on a device "
                        "or on many ranks")  # fmt: skip
    if method == "arpack" and k == op.shape[0]:
        raise ValueError(
            f"method='arpack' finds fewer than all {k} pairs: use 'lapack' or 'lanczos'"
        )
    counted = _Counted(op)
    space = Recursion(op, gaussian(op, 1, rng), 10)
    while space.open[0]:
        space.grow()
    counted.columns += space.products
    scale = float(abs(space.ritz().values).max())
    if scale == 0:
        return Found(gaussian(op, k, rng), 0.0, counted.columns)
    if method == "arpack":
        v0 = gaussian(op, 1, rng)[:, 0] if start is None else start.sum(axis=1)
        try:
            vectors = spla.eigsh(counted, k, which=which, v0=v0, tol=tolerance[0],
                                 maxiter=steps)[1]  # fmt: skip
        except spla.ArpackNoConvergence as stopped:
            more = gaussian(op, k - stopped.eigenvectors.shape[1], rng)
            vectors = np.concatenate([stopped.eigenvectors, more], axis=1).astype(op.dtype)
        return Found(vectors, scale, counted.columns)
    if which not in ("LA", "SA") and not (which == "LM" and op.psd):
        raise ValueError(f"method='lobpcg' finds which='LA' or 'SA', not {which!r}")
    first = gaussian(op, k, rng)
    if start is not None:
        first[:, : start.shape[1]] = start[:, :k]
    size = float(np.linalg.norm(op.matmat(first))) / float(np.linalg.norm(first))
    counted.columns += k
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what did not converge is measured
        vectors = spla.lobpcg(counted, first, largest=which != "SA", maxiter=steps,
                              tol=max(tolerance) * size)[1]  # fmt: skip
    return Found(vectors.astype(op.dtype), scale, counted.columns)


class _Counted(spla.LinearOperator):
    """An operator for SciPy's solvers that counts the vectors it multiplies."""

    def __init__(self, op: Operator) -> None:
        super().__init__(op.dtype, op.shape)
        self.op, self.columns = op, 0

    def _matvec(self, x: Any) -> Any:
        self.columns += 1
        return self.op.matvec(x)

    def _matmat(self, X: Any) -> Any:
        self.columns += X.shape[1]
        return self.op.matmat(X)
