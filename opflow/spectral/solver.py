r"""Systems ``(op + μ) X = B`` for one or many right-hand sides, by conjugate gradients.

The iteration is SciPy's (CuPy's for data there), run once for all columns as the block-diagonal
system of their flattened block, so that an iteration is one block product.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any, NamedTuple

import numpy as np

from opflow.arrays import check_integer, check_real, is_sparse, namespace, to_host
from opflow.operators.algebra import as_operator
from opflow.operators.operator import Operator
from opflow.spectral.checks import ConvergenceWarning, check_shift, finite, symmetric_operator
from opflow.spectral.preconditioners import jacobi, nystrom
from opflow.spectral.recursion import working

#: part of the tolerance the recursive residual is driven to, so that the true one meets it
MARGIN = 0.9


class Solution(NamedTuple):
    """The solution of (op + μ) x = b and how good it is.

    `x` has the shape of b, `residuals` (c,) are ‖b − (op + μ)x‖/‖b‖ of each column, recomputed
    from x (a float for a vector b), `converged` says whether all are within the tolerance,
    `iterations` and `products` what was spent; a product is with one vector.
    """

    x: Any
    residuals: Any
    converged: bool
    iterations: int
    products: int


def solve(
    op: Any,
    b: Any,
    shift: float = 0.0,
    *,
    preconditioner: Any = None,
    tol: float | None = None,
    maxiter: int | None = None,
    rank: int = 100,
    rng: int | np.random.Generator | None = 0,
) -> Solution:
    r"""Solve (op + μ) x = b by conjugate gradients.

    Parameters
    ----------
    op : operator or array (n, n)
        Symmetric PSD.
    b : array (n,) or (n, c)
        Of the operator's dtype; float32 is cast to that of a float64 operator.
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
    rng : int or numpy.random.Generator, default 0
        Of the Nyström preconditioner.

    Returns
    -------
    Solution
        ``(x, residuals, converged, iterations, products)``.

    Raises
    ------
    ValueError, TypeError
        For shapes, dtypes, shifts or tolerances that do not fit, or once op + μ or the
        preconditioner is seen not to be PSD.

    Warns
    -----
    ConvergenceWarning
        If a residual is above the tolerance in the end; the best iterate is returned.

    Notes
    -----
    Some :math:`\frac12\sqrt{\kappa}\log(2/tol)` iterations, κ the condition number of the
    preconditioned op + μ, fewer if its spectrum is clustered; each is one block product with op
    and one with the preconditioner.  Memory: seven blocks like b.  Columns are scaled to one
    norm, and share their steps: the slowest decides.  A residual that rounding has kept above the
    tolerance is computed afresh and reduced further, while that helps.

    For op singular and μ = 0 a solution exists only if b has no null part; else it is not
    converged.

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
    op, shift, b = symmetric_operator(op), check_shift(shift), check_real(b, "b", finite=True)
    n = op.shape[0]
    if is_sparse(b) or b.ndim not in (1, 2) or len(b) != n or not b.size:
        raise ValueError(f"b has shape {b.shape} but op has shape {op.shape}")
    b = working(op, b, "b")
    if tol is None:
        tol = 1e-8 if b.dtype == np.float64 else 1e-5
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, not {tol!r}")
    left = min(10 * n, 10_000) if maxiter is None else check_integer(maxiter, "maxiter", 1)
    inverse, spent = _preconditioner(op, shift, preconditioner, rank, rng)
    block = b.reshape(n, -1)
    xp = namespace(block)
    norms = xp.linalg.norm(block, axis=0)
    scale = xp.where(norms > 0, norms, xp.ones_like(norms))
    system = _System(op, shift, inverse, block / scale)
    before = np.inf
    while tol < system.worst < 0.5 * before and left > 0:
        before = system.worst
        left -= system.iterate(tol, left)
    residuals, converged = to_host(system.residuals).astype(np.float64), system.worst <= tol
    if not converged:
        warnings.warn(
            f"solve: after {system.iterations} iterations the relative residual is "
            f"{system.worst:.1e}, not {tol:.1e}; give a preconditioner, a larger shift or maxiter",
            ConvergenceWarning,
            stacklevel=2,
        )
    x = (system.x * scale).reshape(b.shape)
    return Solution(
        x,
        residuals if b.ndim == 2 else float(residuals[0]),
        bool(converged),
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
    return inverse, 0


class _Stop(Exception):
    """Rounding is all that is left of the iteration."""


class _System:
    """The flattened system, the best iterate so far and what it took."""

    def __init__(self, op: Operator, shift: float, inverse: Operator | None, b: Any) -> None:
        self.op, self.shift, self.inverse, self.b = op, shift, inverse, b
        self.iterations = self.products = 0
        self._eps = float(np.finfo(b.dtype).eps)
        self.x = namespace(b).zeros_like(b)
        self._judge(b)

    def _judge(self, residual: Any) -> None:
        self._residual = residual
        self.residuals = namespace(residual).linalg.norm(residual, axis=0)
        self.worst = float(self.residuals.max())

    def iterate(self, tol: float, maxiter: int) -> int:
        """Conjugate gradients from the iterate that is held; the iterations they took.

        They solve for the correction, whose residual is recomputed from the sum.
        """
        xp, size, dtype = namespace(self.b), self.b.size, self.b.dtype
        linalg = importlib.import_module(
            "scipy.sparse.linalg" if xp is np else "cupyx.scipy.sparse.linalg"
        )
        self._step, self._count = None, 0
        self._best, self._least = xp.zeros_like(self.b), np.inf
        A = linalg.LinearOperator((size, size), matvec=self._product, dtype=dtype)
        M = linalg.LinearOperator((size, size), matvec=self._precondition, dtype=dtype)
        relative = "rtol" if "rtol" in inspect.signature(linalg.cg).parameters else "tol"
        try:
            with np.errstate(all="ignore"):
                step, _ = linalg.cg(
                    A,
                    self._residual.reshape(-1),
                    maxiter=maxiter,
                    M=M,
                    callback=self._moved,
                    atol=MARGIN * tol,
                    **{relative: 0.0},
                )
            step = step.reshape(self.b.shape)
        except _Stop:
            step = self._best
        self.iterations += self._count
        start = self.x
        self._accept(start + step)
        if self.worst > tol and step is not self._best:
            self._accept(start + self._best)
        return max(self._count, 1)

    def _accept(self, x: Any) -> None:
        """Take `x` if its true residual is smaller than that of what is held."""
        residual = self.b - self.op.matmat(x) - self.shift * x
        self.products += x.shape[1]
        if float(namespace(x).linalg.norm(residual, axis=0).max()) < self.worst:
            self.x = x
            self._judge(residual)

    def _moved(self, step: Any) -> None:
        self._step, self._count = step, self._count + 1

    def _product(self, flat: Any) -> Any:
        v = flat.reshape(self.b.shape)
        xp = namespace(v)
        length = float(xp.linalg.norm(v))
        if not np.isfinite(length):
            raise _Stop
        if length == 0:  # CuPy asks for the residual of x = 0
            return flat
        image = finite(self.op.matmat(v)) + self.shift * v
        self.products += v.shape[1]
        self._curvature(v, image, "op + shift")
        rounding = 4 * self._eps * length * float(xp.linalg.norm(image))
        if not abs(float((v * image).sum())) > rounding:
            raise _Stop
        return image.reshape(-1)

    def _curvature(self, v: Any, image: Any, name: str) -> None:
        xp = namespace(v)
        curvature = (v * image).sum(axis=0)
        rounding = xp.linalg.norm(v, axis=0) * xp.linalg.norm(image, axis=0)
        rounding = 10 * len(v) ** 0.5 * self._eps * rounding
        if bool((curvature < -rounding).any()):
            raise ValueError(
                f"{name} must be PSD, but some v·({name}) v is {float(curvature.min()):.4g}"
            )

    def _precondition(self, flat: Any) -> Any:
        """The preconditioned residual; here the iteration shows it, so the best is kept."""
        residual = flat.reshape(self.b.shape)
        worst = float(namespace(flat).linalg.norm(residual, axis=0).max())
        if not np.isfinite(worst):
            raise _Stop
        if worst < self._least:
            self._least = worst
            if self._step is not None:
                self._best = self._step.reshape(self.b.shape).copy()
        if self.inverse is None:
            return flat
        image = self.inverse.matmat(residual)
        self._curvature(residual, image, "preconditioner")
        return image.reshape(-1).astype(flat.dtype, copy=False)
