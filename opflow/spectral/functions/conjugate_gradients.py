"""Conjugate gradients for many right-hand sides, and the dense solution they can end in.

Every column has its own iteration; they share the products, so that an iteration is one block
product with the columns that are not solved yet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opflow.interface.keywords import advance
from opflow.machine.arrays import Array, namespace
from opflow.operators.operator import Operator
from opflow.spectral.blocks import Normalised, column_products, eps_of, finite, on_host, rounding_of
from opflow.spectral.traces.structure import forming_products, matrix_of

#: where the recursive residual stops, relative to the tolerance, so that the true one meets it
RECURSIVE_TOLERANCE = 0.9


class Form(NamedTuple):
    """Inner products of v and Av, of every column: they show whether A is positive on v."""

    v_Av: Array
    v_v: Array
    Av_Av: Array

    def positive(self, rounding: float) -> Array:
        """Whether v·Av is more than rounding of A v can make of zero."""
        return self.v_Av > rounding * (self.v_v * self.Av_Av) ** 0.5


class System:
    """``(op + μ) x = b``, the preconditioner, and the iterations and products spent so far."""

    def __init__(self, op: Operator, shift: float, inverse: Operator | None) -> None:
        self.space = op.space
        self._op = op
        self._shift = shift
        self._product = Normalised(op, lambda v: op.matmat(v) + shift * v)
        self._inverse = None if inverse is None else Normalised(inverse)
        self.iterations = 0
        self.products = 0
        #: rounding of v·Av over |v||Av|: of zero, and of a PSD operator that sums n terms
        self._rounding = 4 * eps_of(op)
        self._slack = 10 * rounding_of(op)

    @property
    def unit(self) -> float:
        """What the system is divided by."""
        return self._product.unit

    def iterate(self, b: Array, tol: float, maxiter: int) -> tuple[Array, np.ndarray]:
        """Iterates and their true residuals for columns b of norm 1 (or 0).

        A column is solved for again, with its true residual on the right, while it is above the
        tolerance and that at least halves it.
        """
        xp = namespace(b)
        x = xp.zeros_like(b)
        residual = b.copy()
        sizes = self._sizes(b)
        unsolved = np.flatnonzero(sizes > tol)
        while unsolved.size and self.iterations < maxiter:
            which = xp.asarray(unsolved)
            step = self._conjugate_gradients(
                residual.take(which, axis=1), RECURSIVE_TOLERANCE * tol, maxiter
            )
            x_new = x.take(which, axis=1) + step
            residual_new = b.take(which, axis=1) - self._times(x_new)
            before = sizes[unsolved]
            after = self._sizes(residual_new)
            better = np.flatnonzero(after < before)
            new = xp.asarray(better)
            which = xp.asarray(unsolved[better])
            x[:, which] = x_new.take(new, axis=1)
            residual[:, which] = residual_new.take(new, axis=1)
            sizes[unsolved] = np.minimum(after, before)
            unsolved = unsolved[(after > tol) & (after < 0.5 * before)]
        return x, sizes

    def factorise(self, b: Array, x: Array, sizes: np.ndarray) -> tuple[Array, np.ndarray]:
        """The direct solution in float64, of columns where it is better than x."""
        xp = namespace(b)
        self.products += forming_products(self._op)
        advance(0, f"LAPACK, order {self._op.shape[0]}")
        A = matrix_of(self._op).astype(np.float64) / self.unit
        diagonal = xp.arange(len(A))
        A[diagonal, diagonal] += self._shift / self.unit
        try:
            direct = xp.linalg.solve(A, b).astype(b.dtype)
        except np.linalg.LinAlgError:  # singular: what the iterations gave is all there is
            return x, sizes
        after = self._sizes(b - self._times(direct))
        return xp.where(xp.asarray(after < sizes), direct, x), np.minimum(after, sizes)

    def _conjugate_gradients(self, r: Array, goal: float, maxiter: int) -> Array:
        """The iterate with the least residual, of every column, from zero.

        Columns leave once their residual is at the goal, or rounding is all that is left.
        """
        xp = namespace(r)
        out = xp.zeros_like(r)
        x = xp.zeros_like(r)
        best = xp.zeros_like(r)
        best_rr = xp.full(r.shape[1], np.inf)
        columns = np.arange(r.shape[1])
        z, rz = self._precondition(r)
        self._check_positive(Form(*on_host(xp.stack([*rz]))), "preconditioner")
        p = z
        while columns.size and self.iterations < maxiter:
            self.iterations += 1
            w = self._times(p)
            pw = self._forms(p, w)
            alpha = xp.where(pw.positive(self._rounding), rz.v_Av / pw.v_Av, 0.0).astype(r.dtype)
            x = x + alpha * p
            r = r - alpha * w
            rz_before = rz
            z, rz = self._precondition(r)
            beta = (rz.v_Av / rz_before.v_Av).astype(r.dtype)
            p = z + beta * p
            best = xp.where(rz.v_v < best_rr, x, best)
            best_rr = xp.fmin(rz.v_v, best_rr)
            # One transfer to the host brings all that the iteration is judged by.
            numbers = on_host(xp.stack([*pw, *rz]))
            product = Form(*numbers[:3])
            inverse = Form(*numbers[3:])
            self._check(product, inverse, w, z)
            going = np.isfinite(numbers).all(axis=0) & product.positive(self._rounding)
            going &= (inverse.v_Av > 0) & (np.sqrt(inverse.v_v) > goal)
            if not going.all():
                out[:, xp.asarray(columns)] = best
                columns = columns[going]
                left = xp.asarray(np.flatnonzero(going))
                x, best, r, p = (block.take(left, axis=1) for block in (x, best, r, p))
                best_rr = best_rr.take(left)
                rz = Form(*(row.take(left) for row in rz))
        out[:, xp.asarray(columns)] = best
        return out

    def _times(self, v: Array) -> Array:
        self.products += v.shape[1]
        return self._product(v)

    def _precondition(self, r: Array) -> tuple[Array, Form]:
        """z = P⁻¹ r, and the inner products of r and z."""
        if self._inverse is None:
            rr = column_products(self.space, (r, r))[0]
            return r, Form(rr, rr, rr)
        z = self._inverse(r).astype(r.dtype, copy=False)
        return z, self._forms(r, z)

    def _forms(self, v: Array, Av: Array) -> Form:
        return Form(*column_products(self.space, (v, Av), (v, v), (Av, Av)))

    def _sizes(self, r: Array) -> np.ndarray:
        return np.sqrt(on_host(column_products(self.space, (r, r)))[0])

    def _check(self, product: Form, inverse: Form, w: Array, z: Array) -> None:
        """Raise if the products or the preconditioner are not finite or not PSD."""
        if not np.isfinite([product, inverse]).all():
            finite(w, "op", self.space)
            if np.isfinite(inverse.v_v).all():
                finite(z, "preconditioner", self.space)
        self._check_positive(product, "op + shift")
        self._check_positive(inverse, "preconditioner")

    def _check_positive(self, form: Form, name: str) -> None:
        if (form.v_Av < -self._slack * np.sqrt(form.v_v * form.Av_Av)).any():
            raise ValueError(
                f"{name} must be PSD, but some v·({name}) v is {float(form.v_Av.min()):.4g}"
            )
