"""``lanczos`` for one vector, the largest eigenvalue, and both ends of a spectrum."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import bisect
from scipy.stats import beta as beta_law

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, check_integer, check_real
from opflow.operators.operator import Operator
from opflow.spectral.blocks import gaussian, matching, rounding_of
from opflow.spectral.checks import symmetric_operator
from opflow.spectral.krylov.recursion import Recursion


@keywords
def lanczos(
    op: Data,
    steps: int,
    v: Array | None = None,
    *,
    tol: float | None = None,
    reorthogonalise: bool = True,
    rng: Seed = 0,
    seed: Seed = 0,
) -> tuple[Array, Array, Array | None]:
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
        ``False`` holds three vectors instead of the basis and saves the 8·n·m flops a step:
        extreme Ritz values are as good, but come several times (ghosts), and there is no basis.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random start comes from.

    Returns
    -------
    alpha : array (m,), beta : array (m,), basis : array (n, m) or None
        ``basis.T @ op @ basis`` is tridiagonal with diagonal `alpha` and off-diagonal
        ``beta[:-1]``; ``beta[-1]`` is the norm of the next residual.  m < `steps` if the Krylov
        space is invariant earlier.  `alpha` and `beta` are on the host.

    See Also
    --------
    opflow.spectral.block_lanczos : The same for a block.
    opflow.spectral.largest_eigenvalue : The largest eigenvalue.
    opflow.spectral.eigsh : A few eigenpairs.

    Notes
    -----
    See [1]_, chapter 10.  Each step costs one product and, for the reorthogonalisation (done
    twice), 8·n·m flops.  One vector sees one copy of a repeated eigenvalue: :func:`block_lanczos`
    sees as many as its block is wide.

    References
    ----------
    .. [1] G. H. Golub, C. F. Van Loan, "Matrix Computations", 4th edition, 2013.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> alpha, beta, Q = of.spectral.lanczos(of.Gram(np.diag([3.0, 2.0, 1.0])), 3)
    >>> bool(np.allclose(np.trace(Q.T @ Q), 3)), round(float(alpha.sum()), 8)
    (True, 14.0)
    """
    space = _krylov_space(symmetric_operator(op), v, steps, rng, tol, reorthogonalise)
    alpha, beta = space.tridiagonal()
    basis = space.basis[0].T if reorthogonalise else None
    return alpha[0], beta[0], basis


def _krylov_space(
    op: Operator,
    v: Array | None,
    steps: int,
    rng: Seed,
    tol: float | None = None,
    keep: bool = True,
) -> Recursion:
    """The Krylov space of `v`, or of a random vector: see :func:`lanczos`."""
    check_integer(steps, "steps", 1)
    if v is None:
        v = gaussian(op, 1, rng)[:, 0]
    v = check_real(v, "v", dtype=op.dtype)
    if v.shape != (op.domain.here(op.shape[0]),):
        raise ValueError(f"v has shape {v.shape} but op has order {op.shape[0]}")
    space = Recursion(op, v[:, None], steps, keep=keep)
    if not space.norms[0] > 0:
        raise ValueError("v must not be zero")
    while space.open[0]:
        space.grow()
        # T of order m takes O(m³): a large one is not looked at in every step
        if tol is not None and space.products % max(1, space.products // 32) == 0:
            value, bound = _largest_ritz(space)
            if bound <= tol * abs(value):
                break
    return space


def _largest_ritz(space: Recursion) -> tuple[float, float]:
    """The largest Ritz value of a space with one column, and its residual."""
    ritz = space.ritz()
    return float(ritz.values[0, -1]), abs(float(ritz.beta[0] * ritz.last[0, -1]))


class Largest(NamedTuple):
    """An estimate of the largest eigenvalue, from a few Lanczos products.

    Attributes
    ----------
    value, bound : float
        The largest Ritz value, and its residual: an eigenvalue lies within `bound` of `value`.
    products : int
        Products that were spent.
    tol : float
        The tolerance that was asked for, relative to the value.
    vector : array (n,)
        The Ritz vector, of norm one: where to begin with a nearby operator.

    See Also
    --------
    opflow.spectral.largest_eigenvalue : Computes it.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.largest_eigenvalue(of.Gram(np.diag([3.0, 2.0, 1.0])))
    >>> found.converged, found.products
    (True, 3)
    """

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
    start: Array | None = None,
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
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random start comes from.

    Returns
    -------
    Largest
        ``value <= λ_max`` up to rounding, and an eigenvalue lies within `bound` of `value`.  Its
        ``converged`` says whether `tol` was reached; there is no warning, for rough values are
        what a few products are for.  :func:`norm` warns, and bounds λ_max from above.

    See Also
    --------
    opflow.spectral.norm : The spectral norm with bounds on both sides.
    opflow.spectral.eigsh : A few eigenpairs, to full accuracy.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> round(of.spectral.largest_eigenvalue(of.Gram(np.diag([3.0, 2.0, 1.0]))).value, 3)
    9.0
    """
    op = symmetric_operator(op)
    if start is not None:
        start = start + gaussian(op, 1, rng)[:, 0] * (0.1 / op.shape[0] ** 0.5)
    space = _krylov_space(op, start, steps, rng, tol)
    value, bound = _largest_ritz(space)
    basis = space.basis[0]
    ritz = space.ritz()
    # LAPACK leaves the sign open: the vector points where the search began
    weights = np.copysign(1.0, ritz.first[0, -1]) * ritz.vectors[0, :, -1]
    vector = matching(weights, basis) @ basis
    return Largest(value, bound, space.products, tol, vector)


class Extremes(NamedTuple):
    """Both ends of a spectrum, as far as Lanczos has shown them."""

    bottom: float  #: the smallest Ritz value
    floor: float  #: the bound below all eigenvalues, with a probability of 95 %
    top: float  #: the largest Ritz value
    ceiling: float  #: the bound above all eigenvalues, with a probability of 95 %
    products: int  #: with the operator


def extremes(op: Operator, products: int, rng: Seed = 0, *, both: bool = False) -> Extremes:
    """Both ends of a spectrum between bounds, from so many products; see :func:`norm`.

    With `both` the two bounds hold together with 95 %, else each does.
    """
    space = _krylov_space(op, None, products, rng)
    ritz = space.ritz().values[0]
    beta = space.tridiagonal()[1][0]
    if not (np.isfinite(ritz).all() and np.isfinite(beta).all()):
        raise ValueError("products with op contain NaN or infinity")
    rounding = 10 * rounding_of(op) * float(np.abs(ritz).max())
    quantile = beta_law.ppf(0.05 / (1 + both), 0.5, (op.shape[0] - 1) / 2)
    reach = -0.5 * math.log(quantile)
    above = _beyond(ritz, beta, reach) + rounding
    below = _beyond(-ritz[::-1], beta, reach) + rounding
    return Extremes(float(ritz[0]), -below, float(ritz[-1]), above, space.products)


def _beyond(ritz: Array, beta: Array, reach: float) -> float:
    """Where Π (x − θ_j) / β_j, beyond the largest θ, reaches ``exp(reach)``."""
    top = float(ritz[-1])
    high = top - float(ritz[0]) + float(beta[-1])
    if high == 0 or not beta.all():  # a β of zero has its root at θ
        return top
    with np.errstate(divide="ignore"):
        target = float(np.log(beta).sum()) + reach

        def excess(x: float) -> float:
            return float(np.log(x + (top - ritz)).sum()) - target

        while excess(high) < 0:
            high *= 2
        return top + float(bisect(excess, 0.0, high, xtol=np.finfo(float).tiny, disp=False))
