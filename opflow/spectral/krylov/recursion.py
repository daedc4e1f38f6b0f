r"""The Lanczos recursion: Krylov spaces that grow on demand, one for each column of a block.

``op V = V T + β_m v_{m+1} e_mᵀ`` is kept for every column by itself; the columns share nothing but
the products, and the reorthogonalisations, which are done for all of them at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from opflow.machine.arrays import check_integer, namespace, to_host
from opflow.operators.operator import Operator
from opflow.spectral.checks import Normalised, peaks, unit_of


class Ritz(NamedTuple):
    """Of every column (c): the spectrum of its T and how it is seen from both ends of the space.

    `values` (c, m), `vectors` (c, m, m) with eigenvectors as columns, `first` and `last` (c, m)
    their components along the first and the last Lanczos vector, `beta` (c,) the next residual.
    Spaces of fewer than m vectors are filled up with values `first` does not see.
    """

    values: np.ndarray
    vectors: np.ndarray
    first: np.ndarray
    last: np.ndarray
    beta: np.ndarray


class Recursion:
    r"""The Lanczos recursion of every column of a block, with full reorthogonalisation.

    Parameters
    ----------
    op : Operator
        Symmetric, of order n.
    r : array (n, c)
        Starts, of the operator's dtype; zero columns have empty spaces.
    size : int
        Vectors of a basis at most.
    keep : bool, default True
        Hold the bases, size·n·c numbers, and reorthogonalise against them.  Without them there
        are three vectors a column, and eigenvalues that have converged come again, as ghosts.

    Attributes
    ----------
    norms, counts : array (c,)
        Norms of the starts, and vectors in the space of each column so far.
    open : array (c,) of bool
        Whether a space can grow: it is not invariant yet, nor of full size.
    products : int
        Products spent so far, each with one vector.

    Notes
    -----
    A vector costs one product and, for the reorthogonalisation (done twice), 8·n·m flops.
    """

    def __init__(self, op: Operator, r: Any, size: int, *, keep: bool = True) -> None:
        n, columns = op.shape[0], r.shape[1]
        if op.shape != (n, n) or r.shape[0] != op.domain.here(n):
            raise ValueError(f"op has shape {op.shape} but r has shape {r.shape}")
        if r.dtype != op.dtype:
            raise TypeError(f"op is {op.dtype} but r is {r.dtype}")
        check_integer(size, "size", 1)
        xp = namespace(r)
        self.op, self.size, self.keep, self.products = op, min(size, n), keep, 0
        units = unit_of(peaks(r, op.space), r.dtype)
        if (units != 1).any():
            r = r / xp.asarray(units, dtype=r.dtype)
        norms = op.space.norm(r, axis=0)
        self.norms = to_host(norms).astype(np.float64) * units
        if not np.isfinite(self.norms).all():
            raise ValueError("r contains NaN or infinity")
        self._product = Normalised(op.matmat, op.space)
        self.counts = np.zeros(columns, dtype=int)
        self.open = self.norms > 0
        held = min(self.size, 8)
        self._basis = xp.zeros((columns, held if keep else 1, len(r)), dtype=r.dtype)
        self._alpha, self._beta = np.zeros((2, columns, held))
        self._next = (r / xp.where(norms > 0, norms, 1)).T.copy()
        self._before = xp.zeros(columns, dtype=r.dtype)
        self._ritz: Ritz | None = None
        self._eps = float(np.finfo(r.dtype).eps)

    def grow(self, wanted: Any = None) -> None:
        """Add a vector to the spaces that are `wanted` (c,) and open; all by default."""
        grown = np.flatnonzero(self.open if wanted is None else self.open & wanted)
        if not grown.size:
            return
        xp, n, space = namespace(self._next), self.op.shape[0], self.op.space
        at = self.counts[grown]
        self.reserve(int(at.max()) + 1)
        self.counts[grown] += 1
        span = slice(int(grown[0]), int(grown[-1]) + 1)
        # Numbers go to the device only where columns part ways.
        where = span if grown.size == span.stop - span.start else xp.asarray(grown)
        v = self._next[where]
        w = self._product(v.T).T
        self.products += grown.size
        alpha = space.total((v * w).sum(axis=1))
        scale = space.norm(w, axis=1)
        if self.keep:
            level = (at == at[0]).all()
            place = (where, int(at[0])) if level else (xp.asarray(grown), xp.asarray(at))
            self._basis[place] = v
            w = self._orthogonal(w, grown, where)
        else:
            w = w - alpha[:, None] * v - self._before[where][:, None] * self._basis[where, 0]
            self._basis[where, 0] = v
        length = space.norm(w, axis=1)
        numbers = to_host(xp.stack([alpha, scale, length])).astype(np.float64)
        if not np.isfinite(numbers[1]).all():
            raise ValueError("products with op contain NaN or infinity")
        alphas, scales, beta = numbers
        invariant = (at + 1 == n) | (beta <= 10 * n**0.5 * self._eps * scales)
        unit = self._product.unit
        self._alpha[grown, at] = alphas * unit
        self._beta[grown, at] = np.where(invariant, 0.0, beta * unit)
        self.open[grown] = ~invariant & (at + 1 < self.size)
        self._before[where] = length
        # what comes after an invariant space is not used
        self._next[where] = w / xp.maximum(length, xp.finfo(w.dtype).tiny)[:, None]
        self._ritz = None

    def _orthogonal(self, w: Any, grown: np.ndarray, where: Any) -> Any:
        """`w` (k, n) without its parts in the spaces of the columns `grown`."""
        span = slice(int(grown[0]), int(grown[-1]) + 1)  # a view: a basis is never copied
        basis = self._basis[span, : int(self.counts[grown].max())]
        gaps = grown.size < len(basis)
        full = w
        if gaps:
            full = namespace(w).zeros((len(basis), w.shape[1]), dtype=w.dtype)
            full[where - span.start] = w
        for _ in range(2):  # once is not enough in floating point
            inside = self.op.space.total(basis @ full[:, :, None]).transpose(0, 2, 1)
            full = full - (inside @ basis)[:, 0]
        return full[where - span.start] if gaps else full

    def reserve(self, count: int) -> None:
        """Make room for `count` vectors a column, or for twice as many as there are."""
        held = self._alpha.shape[1]
        if count <= held:
            return
        more = min(max(held, count - held), self.size - held)
        columns = len(self._alpha)
        if self.keep:
            xp, n = namespace(self._basis), self._basis.shape[2]
            grown = xp.zeros((columns, held + more, n), dtype=self._basis.dtype)
            grown[:, :held] = self._basis
            self._basis = grown
        self._alpha, self._beta = (
            np.concatenate([x, np.zeros((columns, more))], axis=1)
            for x in (self._alpha, self._beta)
        )

    @property
    def basis(self) -> Any:
        """The Lanczos vectors, (c, m, n); those beyond the end of a space are zero."""
        return self._basis[:, : int(self.counts.max())]

    @property
    def residuals(self) -> np.ndarray:
        """β_m of every column, the norm of what comes next; 0 for an invariant space."""
        return self._beta[np.arange(len(self._beta)), np.maximum(self.counts - 1, 0)]

    def tridiagonal(self) -> tuple[np.ndarray, np.ndarray]:
        """The diagonals (c, m) and off-diagonals (c, m − 1), filled up by decoupled values."""
        m = int(self.counts.max())
        # a Rayleigh quotient: a value between those of the space itself, where f is defined
        fill = np.where(self.counts > 0, self._alpha[:, 0], self._alpha[:, 0].max())
        beyond = np.arange(m) >= self.counts[:, None]
        alpha = np.where(beyond, fill[:, None], self._alpha[:, :m])
        return alpha, np.where(beyond[:, 1:], 0.0, self._beta[:, : m - 1])

    def ritz(self) -> Ritz:
        """The Ritz values of every column; at least one must have grown."""
        if self._ritz is None:
            values, vectors = eigh_tridiagonals(*self.tridiagonal())
            each, end = np.arange(len(values)), np.maximum(self.counts - 1, 0)
            self._ritz = Ritz(values, vectors, vectors[:, 0], vectors[each, end], self.residuals)
        return self._ritz

    def combine(self, coefficients: np.ndarray) -> Any:
        """``‖r‖ V y`` for coefficients y (…, c, m): array (…, n, c)."""
        xp, (columns, _, n) = namespace(self._basis), self._basis.shape
        m = coefficients.shape[-1]
        weights = (self.norms[:, None] * coefficients).reshape(-1, columns, m).transpose(1, 0, 2)
        out = xp.asarray(weights, dtype=self._basis.dtype) @ self._basis[:, :m]
        return out.transpose(1, 2, 0).reshape(*coefficients.shape[:-2], n, columns)


def eigh_tridiagonals(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (c, m) and vectors (c, m, m) of tridiagonal matrices (c, m), (c, m − 1)."""
    columns, m = alpha.shape
    T = np.zeros((columns, m, m))
    index = np.arange(m)
    T[:, index, index] = alpha
    T[:, index[1:], index[:-1]] = beta  # LAPACK reads the lower triangle
    values, vectors = np.linalg.eigh(T)
    return values, vectors
