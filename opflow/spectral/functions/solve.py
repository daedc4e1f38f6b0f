r"""Systems ``(op + μ) X = B`` for one or many right-hand sides, by conjugate gradients.

Every column has its own iteration; they share the products, so that an iteration is one block
product with those that are not solved yet.  Once they have cost what factorising the matrix would,
it is factorised.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from opflow.evaluation.dense import dense, dense_plan
from opflow.interface.keywords import Seed, advance, keywords
from opflow.machine.arrays import Array, check_integer, check_real, is_sparse, namespace, to_host
from opflow.machine.workspace import operator_module, parse_memory
from opflow.operators.algebra import as_operator
from opflow.operators.operator import Cost, Operator
from opflow.spectral.checks import (
    ConvergenceWarning,
    Normalised,
    check_finite,
    check_shift,
    distribution_of,
    finite,
    peaks,
    symmetric_operator,
    unit_of,
)
from opflow.spectral.functions.preconditioners import jacobi, nystrom
from opflow.spectral.traces.structure import NOMINAL, forming_products

#: iterations before anything is factorised
FEWEST = 20
#: part of the tolerance the recursive residual is driven to, so that the true one meets it
MARGIN = 0.9


class Solution(NamedTuple):
    """The solution of (op + μ) x = b and how good it is.

    `x` has the shape of b, `residuals` (c,) are ‖b − (op + μ)x‖/‖b‖ of each column, recomputed
    from x (a float for a vector b), `converged` says whether all are within the tolerance,
    `iterations` and `products` what was spent; a product is with one vector.
    """

    x: Array
    residuals: Array | float
    converged: bool
    iterations: int
    products: int

    def __repr__(self) -> str:
        return (
            f"<Solution {self.x.shape}, relative residuals up to {np.max(self.residuals):.1e} "
            f"({'' if self.converged else 'not '}converged, {self.products:,} products)>"
        )


@keywords
def solve(
    op: Any,
    b: Any,
    shift: float = 0.0,
    *,
    preconditioner: Any = None,
    tol: float | None = None,
    maxiter: int | None = None,
    rank: int = 100,
    rng: Seed = 0,
    seed: Seed = 0,
    how: str | None = None,
    progress: bool = False,
) -> Solution:
    r"""Solve (op + μ) x = b by conjugate gradients.

    Parameters
    ----------
    op : operator or array (n, n)
        Symmetric PSD.
    b : array (n,) or (n, c)
        Of the operator's dtype, or converted to it; a warning tells of rounding.
    shift : float, default 0
        μ, not negative.
    preconditioner : {None, "nystrom", "jacobi"} or operator, optional
        An operator near the inverse of op + μ, symmetric positive definite; built by
        :func:`nystrom` or :func:`jacobi` if named.
    tol : float, optional
        ‖b − (op + μ)x‖ is at most `tol`·‖b‖ in every column; 1e-8 by default, 1e-5 in float32.
    maxiter : int, optional
        Iterations at most: 10·n by default, and no more than 10,000.
    how : {None, "iterative", "direct"}
        Conjugate gradients alone, or the dense matrix and LAPACK alone.  By default conjugate
        gradients until, by the cost model, they have taken as long as the direct solution would;
        then that, if the matrix fits in half of the free memory and no preconditioner is given.
    rank : int, default 100
        Of the Nyström preconditioner.
    rng, seed : int, numpy.random.Generator or None, default 0
        Of the Nyström preconditioner.
    progress : bool, default False
        Count the products, the preconditioner's as well, on standard error.

    Returns
    -------
    Solution
        ``(x, residuals, converged, iterations, products)``.

    Warns
    -----
    ConvergenceWarning
        If a residual is above the tolerance in the end; the best iterate is returned.

    Notes
    -----
    Some :math:`\frac12\sqrt{\kappa}\log(2/tol)` iterations, κ the condition number of the
    preconditioned op + μ, fewer if its spectrum is clustered; each is one block product with op
    and one with the preconditioner.  Memory: ten blocks like b.  Columns that are solved take no
    more products.  A residual that rounding has kept above the tolerance is computed afresh and
    reduced further, while that helps.  Beside its products, an iteration completes two sums over
    the rows, of three numbers a column, and brings them to the host together.

    The direct solution takes the entries and 2/3·n³ flops, in float64.  For op singular and μ = 0 a
    solution exists only if b has no null part; else it is not converged.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag([1.0, 10.0, 100.0]))
    >>> solution = of.spectral.solve(op, np.ones(3), 1.0, preconditioner="jacobi")
    >>> solution.converged, solution.iterations
    (True, 1)
    >>> bool(np.allclose(solution.x, 1 / np.array([2.0, 101.0, 10001.0])))
    True
    """
    op, shift = symmetric_operator(op), check_shift(shift)
    b = check_real(b, "b", dtype=op.dtype)
    n, here = op.shape[0], op.domain.here(op.shape[0])
    if is_sparse(b) or b.ndim not in (1, 2) or len(b) != here or 0 in b.shape[1:]:
        raise ValueError(f"b has shape {b.shape} but op has shape {op.shape}")
    b = check_finite(b, "b", op.space)
    if tol is None:
        tol = 1e-8 if b.dtype == np.float64 else 1e-5
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, not {tol!r}")
    most = min(10 * n, 10_000) if maxiter is None else check_integer(maxiter, "maxiter", 1)
    inverse, spent = _preconditioner(op, shift, preconditioner, rank, rng)
    block = b if b.ndim == 2 else b[:, None]
    xp = namespace(block)
    units = xp.asarray(unit_of(peaks(block, op.space), b.dtype), dtype=b.dtype)
    norms = op.space.norm(block / units, axis=0)
    sizes = xp.where(norms > 0, norms, xp.ones_like(norms)) * units
    system = _System(op, shift, inverse)
    patience = _patience(op, how, block.shape[1], preconditioner)
    with np.errstate(all="ignore"):
        x, residuals = system.solve(block / sizes, tol, int(min(most, patience)))
        if np.max(residuals, initial=0.0) > tol and system.iterations < most and patience < most:
            x, residuals = system.factorised(block / sizes, x, residuals)
    converged = bool((residuals <= tol).all())
    if not converged:
        warnings.warn(
            f"solve: after {system.iterations} iterations the relative residual is "
            f"{residuals.max():.1e}, not {tol:.1e}; give a preconditioner, a larger shift or "
            "maxiter",
            ConvergenceWarning,
            stacklevel=3,
        )
    return Solution(
        (x * (sizes / system.unit)).reshape(b.shape),
        residuals if b.ndim == 2 else float(residuals[0]),
        converged,
        system.iterations,
        spent + system.products,
    )


def _preconditioner(
    op: Operator, shift: float, given: Any, rank: int, rng: Any
) -> tuple[Operator | None, int]:
    """The preconditioner that was asked for, and the products it took."""
    if given is None:
        return None, 0
    if isinstance(given, str):
        if given == "jacobi":
            return jacobi(op, shift), 0
        if given == "nystrom":
            return nystrom(op, shift, rank, rng=rng), min(rank, op.shape[0])
        raise ValueError(
            f"preconditioner must be 'nystrom', 'jacobi' or an operator, not {given!r}"
        )
    inverse = as_operator(given)
    if inverse.shape != op.shape:
        raise ValueError(f"preconditioner has shape {inverse.shape} but op has shape {op.shape}")
    if inverse.domain.sharded != op.domain.sharded:
        raise ValueError("preconditioner must be sharded if op is, and not if it is not")
    return inverse, 0


def _patience(op: Operator, how: str | None, columns: int, preconditioner: Any) -> float:
    """Iterations that take as long as the direct solution; ∞ where that is not to be had."""
    if how not in (None, "iterative", "direct"):
        raise ValueError(f"how must be 'iterative', 'direct' or None, not {how!r}")
    n = op.shape[0]
    sharded = distribution_of(op).sharded
    if how == "direct":
        if preconditioner is not None:
            raise ValueError("how='direct' needs no preconditioner: give one or the other")
        if sharded:
            raise ValueError("a sharded op has no entries to factorise: how must not be 'direct'")
        return 0
    # the matrix, in float64, and its factors
    need = n * n * (op.dtype.itemsize + 16.0)
    if (
        how
        or sharded
        or preconditioner is not None
        or need > parse_memory(None, operator_module(op))
    ):
        return math.inf
    direct = NOMINAL.seconds(dense_plan(op).cost, op.dtype)
    direct += NOMINAL.seconds(Cost(2 / 3 * float(n) ** 3, 0.0), np.float64)
    return max(FEWEST, math.ceil(direct / NOMINAL.seconds(op.cost(columns), op.dtype)))


class _System:
    """``(op + μ) x = b``, the preconditioner, and what it took so far."""

    def __init__(self, op: Operator, shift: float, inverse: Operator | None) -> None:
        self.space = op.space
        self._op = op
        self._shift = shift
        self._product = Normalised(lambda v: op.matmat(v) + shift * v, op.space)
        self._inverse = None if inverse is None else Normalised(inverse.matmat, op.space)
        self.iterations = self.products = 0
        self._eps = float(np.finfo(op.dtype).eps)
        self._slack = 10 * op.shape[0] ** 0.5 * self._eps

    def solve(self, b: Any, tol: float, maxiter: int) -> tuple[Any, np.ndarray]:
        """Iterates and their true residuals for columns b of norm 1 (or 0).

        A column is solved for again, with its true residual on the right, while it is above the
        tolerance and that at least halves it.
        """
        xp, x, residual = namespace(b), namespace(b).zeros_like(b), b
        sizes = self._sizes(b)
        going = np.flatnonzero(sizes > tol)
        while going.size and self.iterations < maxiter:
            which = xp.asarray(going)
            step = self._descend(residual.take(which, axis=1), MARGIN * tol, maxiter)
            moved = x.take(which, axis=1) + step
            rest = b.take(which, axis=1) - self._times(moved)
            before, now = sizes[going], self._sizes(rest)
            better = xp.asarray(now < before)
            x[:, which] = xp.where(better, moved, x.take(which, axis=1))
            residual = residual.copy()
            residual[:, which] = xp.where(better, rest, residual.take(which, axis=1))
            sizes[going] = np.minimum(now, before)
            going = going[(now > tol) & (now < 0.5 * before)]
        return x, sizes

    def factorised(self, b: Any, x: Any, sizes: np.ndarray) -> tuple[Any, np.ndarray]:
        """The direct solution in float64, of columns where it is better than x."""
        xp = namespace(b)
        self.products += forming_products(self._op)
        advance(0, f"LAPACK, order {self._op.shape[0]}")
        A = dense(self._op).astype(np.float64) / self.unit
        A[xp.arange(len(A)), xp.arange(len(A))] += self._shift / self.unit
        try:
            found = xp.linalg.solve(finite(A), b)
        except np.linalg.LinAlgError:  # singular: what the iterations gave is all there is
            return x, sizes
        now = self._sizes(b - self._times(found.astype(b.dtype)))
        better = xp.asarray(now < sizes)
        return xp.where(better, found.astype(b.dtype), x), np.minimum(now, sizes)

    def _descend(self, r: Any, goal: float, maxiter: int) -> Any:
        """Conjugate gradients from zero: of every column the step with the least residual.

        Columns leave once their residual is at the goal, or rounding is all that is left.
        """
        xp, dtype = namespace(r), r.dtype
        out, columns = xp.zeros_like(r), np.arange(r.shape[1])
        x, best = xp.zeros_like(r), xp.zeros_like(r)
        least = xp.full(r.shape[1], np.inf)
        p, rho, *sizes = self._preconditioned(r)
        self._curvature(to_host(xp.stack([rho, *sizes])), "preconditioner")
        while columns.size and self.iterations < maxiter:
            self.iterations += 1
            w = self._times(p)
            products = self._inner((p, w), (p, p), (w, w))
            curved = products[0] > 4 * self._eps * (products[1] * products[2]) ** 0.5
            alpha = xp.where(curved, rho / products[0], 0.0).astype(dtype)
            x, r = x + alpha * p, r - alpha * w
            before = rho
            z, rho, *sizes = self._preconditioned(r)
            p = z + (rho / before).astype(dtype) * p
            best = xp.where(sizes[0] < least, x, best)
            least = xp.fmin(sizes[0], least)
            # all that is decided by comes to the host at once
            numbers = to_host(xp.stack([*products, rho, *sizes]))
            self._check(numbers, w, r, z)
            going = np.isfinite(numbers).all(axis=0) & (numbers[3] > 0)
            going &= np.sqrt(numbers[4]) > goal
            going &= numbers[0] > 4 * self._eps * np.sqrt(numbers[1] * numbers[2])
            if not going.all():
                out[:, xp.asarray(columns)] = best
                kept = xp.asarray(np.flatnonzero(going))
                columns = columns[going]
                x, best, r, p = (a.take(kept, axis=1) for a in (x, best, r, p))
                rho, least = rho.take(kept), least.take(kept)
        out[:, xp.asarray(columns)] = best
        return out

    def _times(self, v: Any) -> Any:
        self.products += v.shape[1]
        return self._product(v)

    @property
    def unit(self) -> float:
        """What the system is divided by."""
        return self._product.unit

    def _preconditioned(self, r: Any) -> tuple[Any, ...]:
        """z = P⁻¹ r, and r·z, r·r and z·z of every column."""
        if self._inverse is None:
            return r, *3 * (self._inner((r, r))[0],)
        z = self._inverse(r).astype(r.dtype, copy=False)
        return z, *self._inner((r, z), (r, r), (z, z))

    def _inner(self, *pairs: Any) -> Any:
        """a·b of columns for every pair (a, b), completed in one sum: (pairs, c), float64."""
        xp = namespace(*pairs[0])
        sums = [(a * b).sum(axis=0, dtype=np.float64) for a, b in pairs]
        return self.space.total(xp.stack(sums))

    def _sizes(self, r: Any) -> np.ndarray:
        return np.sqrt(to_host(self._inner((r, r)))[0])

    def _check(self, numbers: np.ndarray, w: Any, r: Any, z: Any) -> None:
        """Raise if the products or the preconditioner are not finite or not PSD."""
        if not np.isfinite(numbers).all():
            finite(w, "op", self.space)
            if np.isfinite(numbers[4]).all():
                finite(z, "preconditioner", self.space)
        self._curvature(numbers[:3], "op + shift")
        self._curvature(numbers[3:], "preconditioner")

    def _curvature(self, numbers: np.ndarray, name: str) -> None:
        """`numbers`: v·Av, v·v and (Av)·(Av) of every column."""
        curvature = numbers[0]
        if (curvature < -self._slack * np.sqrt(numbers[1] * numbers[2])).any():
            raise ValueError(
                f"{name} must be PSD, but some v·({name}) v is {float(curvature.min()):.4g}"
            )
