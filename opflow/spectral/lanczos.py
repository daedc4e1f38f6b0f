"""The Lanczos recursion with full reorthogonalisation, and the largest eigenvalue from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from opflow.arrays import namespace
from opflow.operators.operator import Operator
from opflow.operators.rows import op_namespace


def lanczos(
    op: Operator,
    steps: int,
    v: Any = None,
    *,
    tol: float | None = None,
    rng: int | np.random.Generator | None = 0,
) -> tuple[Any, Any, Any]:
    r"""Tridiagonalise a symmetric operator on a Krylov space.

    Parameters
    ----------
    op : Operator
        Symmetric, of order n.
    steps : int
        Products to spend at most.
    v : array (n,), optional
        Start; a Gaussian vector by default.
    tol : float, optional
        Stop once the largest Ritz value has a residual below `tol` times itself.
    rng : int or numpy.random.Generator, default 0
        Of the start vector.

    Returns
    -------
    alpha : array (m,), beta : array (m,), basis : array (n, m)
        ``basis.T @ op @ basis`` is tridiagonal with diagonal `alpha` and off-diagonal
        ``beta[:-1]``; ``beta[-1]`` is the norm of the next residual.  m < `steps` if the Krylov
        space is invariant earlier.

    Notes
    -----
    Each step costs one product and, for the reorthogonalisation (done twice), 8·n·m flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> alpha, beta, Q = of.spectral.lanczos(of.Gram(np.diag([3.0, 2.0, 1.0])), 3)
    >>> bool(np.allclose(np.trace(Q.T @ Q), 3)), round(float(alpha.sum()), 8)
    (True, 14.0)
    """
    n = op.shape[0]
    if op.shape[1] != n:
        raise ValueError(f"op must be square, not of shape {op.shape}")
    if not steps >= 1:
        raise ValueError(f"steps must be at least 1, not {steps!r}")
    xp = op_namespace(op)
    if v is None:
        v = xp.asarray(np.random.default_rng(rng).standard_normal(n), dtype=op.dtype)
    if v.shape != (n,):
        raise ValueError(f"v has shape {v.shape} but op has order {n}")
    norm = float(xp.linalg.norm(v))
    if not norm > 0:
        raise ValueError("v must not be zero")
    steps = min(steps, n)
    basis = namespace(v).empty((steps, n), dtype=op.dtype)
    basis[0] = v / norm
    alpha, beta = [], []
    for m in range(steps):
        w = op.matvec(basis[m])
        alpha.append(float(basis[m] @ w))
        scale = float(xp.linalg.norm(w))
        for _ in range(2):  # once is not enough in floating point
            w = w - basis[: m + 1].T @ (basis[: m + 1] @ w)
        beta.append(float(xp.linalg.norm(w)))
        invariant = beta[m] <= 10 * n**0.5 * float(np.finfo(op.dtype).eps) * scale
        if m + 1 == steps or invariant or (tol is not None and _settled(alpha, beta, tol)):
            break
        basis[m + 1] = w / beta[m]
    return np.array(alpha), np.array(beta), basis[: m + 1].T


class Largest(NamedTuple):
    """The largest eigenvalue: an estimate from below, its error bound, products spent."""

    value: float
    bound: float
    products: int


def largest_eigenvalue(
    op: Operator, *, tol: float = 1e-2, steps: int = 30, rng: int | np.random.Generator | None = 0
) -> Largest:
    """The largest eigenvalue of a symmetric operator, by a few Lanczos products.

    Parameters
    ----------
    op : Operator
    tol : float, default 1e-2
        Relative residual at which to stop.
    steps : int, default 30
        Products to spend at most.

    Returns
    -------
    Largest
        ``value <= λ_max`` up to rounding, and an eigenvalue lies within `bound` of `value`.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> round(of.spectral.largest_eigenvalue(of.Gram(np.diag([3.0, 2.0, 1.0]))).value, 3)
    9.0
    """
    alpha, beta, _ = lanczos(op, steps, tol=tol, rng=rng)
    value, bound = _top(list(alpha), list(beta))
    return Largest(value, bound, len(alpha))


def _top(alpha: list[float], beta: list[float]) -> tuple[float, float]:
    values, vectors = eigh_tridiagonal(
        alpha, beta[:-1], select="i", select_range=(len(alpha) - 1, len(alpha) - 1)
    )
    return float(values[0]), abs(float(beta[-1] * vectors[-1, 0]))


def _settled(alpha: list[float], beta: list[float], tol: float) -> bool:
    value, bound = _top(alpha, beta)
    return bound <= tol * abs(value)
