r"""The Lanczos recurrence: Krylov spaces of many columns, and eigenpairs of T.

``op V = V T + β_m v_{m+1} e_mᵀ`` holds for every column of its own.  Columns share only the block
products and the reorthogonalisations.
"""

from __future__ import annotations

from functools import reduce
from operator import iadd
from typing import NamedTuple

import numpy as np

from opflow.machine.arrays import Array, Index, namespace
from opflow.machine.threads import PER_BYTE, over_rows, quiet
from opflow.operators.operator import Operator
from opflow.spectral.blocks import Normalised, column_units, divisor, matching, on_host, rounding_of


def tridiagonal_eigh(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """Eigenvalues (…, m), ascending, and vectors (…, m, m) of T; the last β is not part of it."""
    m = alpha.shape[-1]
    T = np.zeros((*alpha.shape, m))
    index = np.arange(m)
    T[..., index, index] = alpha
    T[..., index[1:], index[:-1]] = beta[..., :-1]  # LAPACK reads the lower triangle
    values, vectors = np.linalg.eigh(T)
    return values, vectors


class Ritz(NamedTuple):
    """The spectrum of T of every column (c), and how it is seen from both ends of the space.

    Spaces of fewer than m vectors are filled up with values that `first` does not see.
    """

    values: Array  #: Ritz values, (c, m), ascending
    vectors: Array  #: eigenvectors of T as columns, (c, m, m)
    first: Array  #: their components along the first Lanczos vector, (c, m)
    last: Array  #: their components along the last one, (c, m)
    beta: Array  #: the norm of the next residual, (c,): 0 for an invariant space


class Recursion:
    r"""Krylov spaces of the columns of a block, with full reorthogonalisation.

    Starts r (n, c) are of the operator's dtype; zero columns have empty spaces.  `keep` holds the
    bases, size·n·c numbers, and reorthogonalises against them.  Without them there are three
    vectors a column, and eigenvalues that have converged come again, as ghosts.
    A vector costs one product and, for the reorthogonalisation (done twice), 8·n·m flops.
    """

    def __init__(self, op: Operator, r: Array, size: int, *, keep: bool = True) -> None:
        n = op.shape[0]
        if op.shape != (n, n) or r.shape[0] != op.domain.here(n):
            raise ValueError(f"op has shape {op.shape} but r has shape {r.shape}")
        xp = namespace(r)
        units = column_units(r, op.space)
        if (units != 1).any():
            r = r / matching(units, r)
        norms = op.space.norm(r, axis=0)
        self.op = op
        self.size = min(size, n)
        self.keep = keep
        #: spent so far, each with one vector
        self.products = 0
        #: of the starts, (c,)
        self.norms = on_host(norms) * units
        if not np.isfinite(self.norms).all():
            raise ValueError("r contains NaN or infinity")
        columns = r.shape[1]
        #: vectors in the space of each column so far, (c,)
        self.counts = np.zeros(columns, dtype=int)
        #: whether a space can grow, (c,): it is not invariant yet, nor of full size
        self.open = self.norms > 0
        self._product = Normalised(op)
        #: diagonal and off-diagonal of T, β_m included
        self._alpha = np.zeros((columns, 0))
        self._beta = np.zeros((columns, 0))
        #: the Lanczos vectors, or the last one only
        self._basis = xp.zeros((columns, int(not keep), len(r)), dtype=r.dtype)
        #: the vectors that are multiplied next
        self._next = (r / divisor(norms)).T.copy()
        #: the last β, where the operator's data are and in its units
        self._before = xp.zeros(columns, dtype=r.dtype)
        #: what :meth:`ritz` gave, until a space grows
        self._ritz: Ritz | None = None

    def grow(self, wanted: Array | None = None) -> None:
        """Add a vector to the spaces that are `wanted` (c,) and open; all by default."""
        grown = np.flatnonzero(self.open if wanted is None else self.open & wanted)
        if not grown.size:
            return
        xp = namespace(self._next)
        space = self.op.space
        at = self.counts[grown]
        self.reserve(int(at.max()) + 1)
        self.counts[grown] += 1
        # Numbers go to the device only where columns part ways.
        where = slice(int(grown[0]), int(grown[-1]) + 1)
        if grown.size < where.stop - where.start:
            where = xp.asarray(grown)
        v = self._next[where]
        w = self._product(v.T).T
        self.products += grown.size
        alpha = space.total((v * w).sum(axis=1))
        if not self.keep:
            before = self._before[where][:, None] * self._basis[where, 0]
            rest = w - alpha[:, None] * v - before
            self._basis[where, 0] = v
        else:
            place = (where, int(at[0]))
            if (at != at[0]).any():
                place = (xp.asarray(grown), xp.asarray(at))
            self._basis[place] = v
            rest = self._orthogonal(w, grown, where)
        beta = space.norm(rest, axis=1)
        # what comes after an invariant space is not used
        self._next[where] = rest / xp.maximum(beta, np.finfo(w.dtype).tiny)[:, None]
        self._before[where] = beta
        alphas, betas, sizes = on_host(xp.stack([alpha, beta, space.norm(w, axis=1)]))
        if not np.isfinite(sizes).all():
            raise ValueError("products with op contain NaN or infinity")
        # what is left of w is rounding, or nothing can be left
        invariant = (at + 1 == self.op.shape[0]) | (betas <= 10 * rounding_of(self.op) * sizes)
        self._alpha[grown, at] = alphas * self._product.unit
        self._beta[grown, at] = np.where(invariant, 0.0, betas * self._product.unit)
        self.open[grown] = ~invariant & (at + 1 < self.size)
        self._ritz = None

    def _orthogonal(self, w: Array, grown: Array, where: Index) -> Array:
        """`w` (k, n) without its parts in the spaces of the columns `grown`."""
        first = int(grown[0])
        # a view: a basis is never copied
        basis = self._basis[first : int(grown[-1]) + 1, : int(self.counts[grown].max())]
        rows: Index = slice(None)
        if grown.size < len(basis):
            rows = where - first
            full = namespace(w).zeros((len(basis), w.shape[1]), dtype=w.dtype)
            full[rows] = w
        else:
            full = w.copy()
        n = basis.shape[2]
        reading = PER_BYTE * basis.nbytes
        with quiet(basis.size):
            for _ in range(2):  # once is not enough in floating point
                parts = over_rows(n, lambda s: basis[:, :, s] @ full[:, s, None], reading, basis)
                inside = self.op.space.total(reduce(iadd, parts)).transpose(0, 2, 1)

                def subtract(s: slice, inside: Array = inside) -> None:
                    full[:, s] -= (inside @ basis[:, :, s])[:, 0]

                over_rows(n, subtract, reading, basis)
        return full[rows]

    def reserve(self, count: int) -> None:
        """Make room for `count` vectors a column, 8 or twice as many as there are."""
        columns, held = self._alpha.shape
        if count <= held:
            return
        more = np.zeros((columns, min(max(held, count - held, 8), self.size - held)))
        self._alpha = np.hstack([self._alpha, more])
        self._beta = np.hstack([self._beta, more])
        if self.keep:
            shape = (*self._alpha.shape, self._basis.shape[2])
            grown = namespace(self._basis).zeros(shape, dtype=self._basis.dtype)
            grown[:, :held] = self._basis
            self._basis = grown

    @property
    def basis(self) -> Array:
        """The Lanczos vectors, (c, m, n); those beyond the end of a space are zero."""
        return self._basis[:, : int(self.counts.max())]

    def tridiagonal(self) -> tuple[Array, Array]:
        """The diagonals and off-diagonals (c, m), the last of which is the norm of what comes next.

        Those of spaces of fewer vectors are filled up by decoupled values.
        """
        m = int(self.counts.max())
        counts = self.counts[:, None]
        # a Rayleigh quotient: a value between those of the space itself, where f is defined
        fill = np.where(self.counts > 0, self._alpha[:, 0], self._alpha[:, 0].max())
        index = np.arange(m)
        alpha = np.where(index >= counts, fill[:, None], self._alpha[:, :m])
        return alpha, np.where((index + 1 >= counts) & (counts < m), 0.0, self._beta[:, :m])

    def ritz(self) -> Ritz:
        """The Ritz values of every column; at least one must have grown."""
        if self._ritz is None:
            values, vectors = tridiagonal_eigh(*self.tridiagonal())
            last = np.arange(len(values)), np.maximum(self.counts - 1, 0)
            self._ritz = Ritz(values, vectors, vectors[:, 0], vectors[last], self._beta[last])
        return self._ritz

    def combine(self, values: Array) -> Array:
        """``‖r‖ V f(T) e₁`` from values (…, c, m) of f at the Ritz values: array (…, n, c)."""
        ritz = self.ritz()
        along = (values * ritz.first)[..., None, :]
        coefficients = (along @ ritz.vectors.transpose(0, 2, 1))[..., 0, :]
        columns, _, n = self._basis.shape
        m = values.shape[-1]
        weights = (self.norms[:, None] * coefficients).reshape(-1, columns, m).transpose(1, 0, 2)
        out = matching(weights, self._basis) @ self._basis[:, :m]
        return out.transpose(1, 2, 0).reshape(*values.shape[:-2], n, columns)
