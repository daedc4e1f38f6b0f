"""The Lanczos recursion on one vector, and the largest eigenvalue from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, check_integer, check_real, namespace
from opflow.operators.operator import Operator
from opflow.spectral.checks import gaussian, symmetric_operator
from opflow.spectral.krylov.recursion import Recursion


@keywords
def lanczos(
    op: Any,
    steps: int,
    v: Any = None,
    *,
    tol: float | None = None,
    reorthogonalise: bool = True,
    rng: Seed = 0,
    seed: Seed = 0,
) -> tuple[Array, Array, Any]:
    r"""Tridiagonalise a symmetric operator on a Krylov space.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    steps : int
        Products to spend at most.
    v : array (n,), optional
        Start, float32 or float64 (cast to the operator's dtype); a Gaussian vector by default.
    tol : float, optional
        Stop once the largest Ritz value has a residual below `tol` times itself.
    reorthogonalise : bool, default True
        ``False`` holds three vectors in the place of the basis and saves the 8·n·m flops a step:
        extreme Ritz values are as good, but come several times (ghosts), and there is no basis.
    rng, seed : int, numpy.random.Generator or None, default 0
        Of the start vector.

    Returns
    -------
    alpha : array (m,), beta : array (m,), basis : array (n, m) or None
        ``basis.T @ op @ basis`` is tridiagonal with diagonal `alpha` and off-diagonal
        ``beta[:-1]``; ``beta[-1]`` is the norm of the next residual.  m < `steps` if the Krylov
        space is invariant earlier.  `alpha` and `beta` are on the host.

    Notes
    -----
    Each step costs one product and, for the reorthogonalisation (done twice), 8·n·m flops.  One
    vector sees one copy of a repeated eigenvalue: :func:`block_lanczos` sees as many as its block
    is wide.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> alpha, beta, Q = of.spectral.lanczos(of.Gram(np.diag([3.0, 2.0, 1.0])), 3)
    >>> bool(np.allclose(np.trace(Q.T @ Q), 3)), round(float(alpha.sum()), 8)
    (True, 14.0)
    """
    op = symmetric_operator(op)
    n = op.shape[0]
    check_integer(steps, "steps", 1)
    if v is None:
        v = gaussian(op, 1, rng)[:, 0]
    v = check_real(v, "v", dtype=op.dtype)
    if v.shape != (op.domain.here(n),):
        raise ValueError(f"v has shape {v.shape} but op has order {n}")
    space = Recursion(op, v[:, None], steps, keep=reorthogonalise)
    if not space.norms[0] > 0:
        raise ValueError("v must not be zero")
    while space.open[0]:
        space.grow()
        if tol is not None and _settled(*_tridiagonal(space), tol):
            break
    return *_tridiagonal(space), space.basis[0].T if reorthogonalise else None


def _tridiagonal(space: Recursion) -> tuple[Any, Any]:
    alpha, beta = space.tridiagonal()
    return alpha[0], np.append(beta[0], space.residuals)


class Largest(NamedTuple):
    """The largest eigenvalue: an estimate from below, its bound, products, tolerance, vector."""

    value: float
    bound: float
    products: int
    tol: float = 1e-2
    vector: Any = None

    @property
    def converged(self) -> bool:
        """Whether the bound is within the tolerance, relative to the value."""
        return self.bound <= self.tol * abs(self.value)


@keywords
def largest_eigenvalue(
    op: Operator,
    *,
    tol: float = 1e-2,
    steps: int = 30,
    start: Any = None,
    rng: Seed = 0,
    seed: Seed = 0,
) -> Largest:
    """The largest eigenvalue of a symmetric operator, by a few Lanczos products.

    Parameters
    ----------
    op : Operator
    tol : float, default 1e-2
        Relative residual at which to stop.
    steps : int, default 30
        Products to spend at most.
    start : array (n,), optional
        Where to begin, such as the `vector` of a nearby operator, of norm one; a tenth of a
        random vector joins it, for `op` may have moved out of its sight.

    Returns
    -------
    Largest
        ``value <= λ_max`` up to rounding, and an eigenvalue lies within `bound` of `value`.  Its
        ``converged`` says whether `tol` was reached; there is no warning, for rough values are
        what a few products are for.  :func:`norm` warns, and bounds λ_max from above.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> round(of.spectral.largest_eigenvalue(of.Gram(np.diag([3.0, 2.0, 1.0]))).value, 3)
    9.0
    """
    if start is not None:
        start = start + gaussian(op, 1, rng)[:, 0] * (0.1 / op.shape[0] ** 0.5)
    alpha, beta, basis = lanczos(op, steps, start, tol=tol, rng=rng)
    value, bound, weights = _top(alpha, beta)
    vector = basis @ namespace(basis).asarray(weights, dtype=basis.dtype)
    return Largest(value, bound, len(alpha), tol, vector)


def _top(alpha: Any, beta: Any) -> tuple[float, float, Any]:
    unit = float(max(np.abs(alpha).max(), beta.max())) or 1.0  # LAPACK takes squares here
    values, vectors = eigh_tridiagonal(
        alpha / unit, beta[:-1] / unit, select="i", select_range=(len(alpha) - 1, len(alpha) - 1)
    )
    return float(unit * values[0]), abs(float(beta[-1] * vectors[-1, 0])), vectors[:, 0]


def _settled(alpha: Any, beta: Any, tol: float) -> bool:
    value, bound, _ = _top(alpha, beta)
    return bound <= tol * abs(value)
