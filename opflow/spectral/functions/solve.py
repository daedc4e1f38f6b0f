"""Systems ``(op + μ) X = B`` for one or many right-hand sides.

By conjugate gradients, until they have cost what factorising the matrix would: then it is
factorised.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from opflow.evaluation.dense import dense_plan
from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, check_integer, check_real, is_sparse
from opflow.machine.workspace import operator_module, parse_memory
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import as_operator
from opflow.spectral.blocks import (
    as_columns,
    check_finite,
    column_units,
    distribution_of,
    divisor,
    matching,
)
from opflow.spectral.checks import check_shift, not_converged, symmetric_operator
from opflow.spectral.functions.conjugate_gradients import System
from opflow.spectral.functions.preconditioners import jacobi, nystrom
from opflow.spectral.traces.structure import NOMINAL

#: iterations at least before the matrix is factorised
ITERATIONS_BEFORE_FACTORISING = 20
#: bytes an entry of the factorisation takes besides the matrix: a copy in float64, and LAPACK's
FACTORISATION_BYTES = 16.0
#: relative residuals that are asked for by default
TOLERANCES = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-5}


class Solution(NamedTuple):
    """The solution of (op + μ) x = b, with its measured residuals.

    Attributes
    ----------
    x : array of the shape of b
    residuals : array (c,), or float for a vector b
        ‖b − (op + μ)x‖/‖b‖ of each column, recomputed from x.
    converged : bool
        Whether all are within the tolerance.
    iterations, products : int
        What was spent; a product is with one vector.

    See Also
    --------
    opflow.spectral.solve : Computes it.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.solve(of.Gram(np.diag([1.0, 2.0])), np.ones(2))
    >>> found.x.round(12), found.converged
    (array([1.  , 0.25]), True)
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
    op: Data,
    b: Data,
    shift: float = 0.0,
    *,
    preconditioner: Data = None,
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
        Of the operator's dtype, or converted to it, with a warning if that rounds.
    shift : float, default 0
        μ, not negative.
    preconditioner : {None, "nystrom", "jacobi"} or operator, optional
        An operator near the inverse of op + μ, symmetric positive definite; built by
        :func:`nystrom` or :func:`jacobi` if named.
    tol : float, optional
        ‖b − (op + μ)x‖ is at most `tol`·‖b‖ in every column; 1e-8 by default, 1e-5 in float32.
    maxiter : int, optional
        Iterations at most: 10·n by default, and no more than 10,000.
    rank : int, default 100
        Of the Nyström preconditioner.
    rng, seed : int, numpy.random.Generator or None, default 0
        Of that preconditioner's sketch.
    how : {None, "iterative", "direct"}
        Conjugate gradients alone, or the dense matrix and LAPACK alone.  By default conjugate
        gradients until, by the cost model, they have taken as long as the direct solution would;
        then that, if the matrix fits in half of the free memory and no preconditioner is given.
    progress : bool, default False
        Count the products on standard error.

    Returns
    -------
    Solution
        Its `x` has the shape of b.

    Warns
    -----
    ConvergenceWarning
        If a residual is above the tolerance in the end; the best iterate is returned.

    See Also
    --------
    opflow.spectral.nystrom : The Nyström preconditioner.
    opflow.spectral.jacobi : The diagonal preconditioner.
    opflow.spectral.kernel_regression : Regression with a kernel.

    Notes
    -----
    Some :math:`\frac12\sqrt{\kappa}\log(2/tol)` iterations [1]_, κ the condition number of the
    preconditioned op + μ, fewer if its spectrum is clustered; each is one block product with op
    and one with the preconditioner.  Memory: ten blocks like b.  Columns that are solved take no
    more products.  A residual that rounding has kept above the tolerance is computed afresh and
    reduced further, while that helps.  Beside its products, an iteration completes two sums over
    the rows, of three numbers a column, and brings them to the host together.

    The direct solution takes the entries and 2/3·n³ flops, in float64.  For op singular and μ = 0 a
    solution exists only if b has no null part; else it is not converged.

    References
    ----------
    .. [1] M. R. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems",
       J. Res. Natl. Bur. Stand. 49, 1952.

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
    op = symmetric_operator(op)
    shift = check_shift(shift)
    b = check_real(b, "b", dtype=op.dtype)
    n = op.shape[0]
    if is_sparse(b) or b.ndim not in (1, 2) or len(b) != op.domain.here(n) or 0 in b.shape[1:]:
        raise ValueError(f"b has shape {b.shape} but op has shape {op.shape}")
    b = check_finite(b, "b", op.space)
    if tol is None:
        tol = TOLERANCES[b.dtype]
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, not {tol!r}")
    if maxiter is None:
        maxiter = min(10 * n, 10_000)
    check_integer(maxiter, "maxiter", 1)
    inverse, spent = _preconditioner(op, shift, preconditioner, rank, rng)
    block = as_columns(b)
    units = matching(column_units(block, op.space), b)
    sizes = divisor(op.space.norm(block / units, axis=0)) * units
    system = System(op, shift, inverse)
    iterations = break_even(op, how, block.shape[1], preconditioner)
    with np.errstate(all="ignore"):
        block = block / sizes
        x, residuals = system.iterate(block, tol, int(min(maxiter, iterations)))
        unsolved = np.max(residuals, initial=0.0) > tol
        if unsolved and max(system.iterations, iterations) < maxiter:
            x, residuals = system.factorise(block, x, residuals)
    converged = bool((residuals <= tol).all())
    if not converged:
        not_converged(
            f"solve: after {system.iterations} iterations the relative residual is "
            f"{residuals.max():.1e}, not {tol:.1e}; give a preconditioner, a larger shift or "
            "maxiter",
        )
    return Solution(
        (x * (sizes / system.unit)).reshape(b.shape),
        residuals if b.ndim == 2 else float(residuals[0]),
        converged,
        system.iterations,
        spent + system.products,
    )


def _preconditioner(
    op: Operator, shift: float, given: Data, rank: int, rng: Seed
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


def break_even(op: Operator, how: str | None, columns: int, preconditioner: Data) -> float:
    """Iterations that take as long as the direct solution; ∞ where there is no such solution."""
    if how not in (None, "iterative", "direct"):
        raise ValueError(f"how must be 'iterative', 'direct' or None, not {how!r}")
    sharded = distribution_of(op).sharded
    if how == "direct":
        if preconditioner is not None:
            raise ValueError("how='direct' needs no preconditioner: give one or the other")
        if sharded:
            raise ValueError("entries of a sharded op are not available: how must not be 'direct'")
        return 0
    if how == "iterative" or sharded or preconditioner is not None:
        return math.inf
    n = op.shape[0]
    if n * n * (op.dtype.itemsize + FACTORISATION_BYTES) > parse_memory(None, operator_module(op)):
        return math.inf
    forming = NOMINAL.seconds(dense_plan(op).cost, op.dtype)
    factorising = NOMINAL.seconds(Cost(2 / 3 * float(n) ** 3, 0.0), np.float64)
    iteration = NOMINAL.seconds(op.cost(columns), op.dtype)
    return max(ITERATIONS_BEFORE_FACTORISING, math.ceil((forming + factorising) / iteration))


class Inverse(Operator):
    """(op + shift)⁻¹ of a PSD `op`, by :func:`solve` and its `options`."""

    def __init__(self, op: Operator, **options: Any) -> None:
        self.op = op
        self.options = options
        super().__init__(op.shape, op.dtype, psd=True, symbol=f"({op.symbol} + μ)⁻¹")

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.op,)

    def _matmat(self, X: Array) -> Array:
        return solve(self.op.astype(X.dtype), X, **self.options).x

    _rmatmat = _matmat
