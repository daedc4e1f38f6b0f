r"""A Krylov space grown in blocks, ``span(V, op V, op² V, …)``, with full reorthogonalisation.

The basis Q is kept orthonormal to rounding, ``Qᵀ op Q = T`` is known exactly on the host, and all
that is left out of it is the residual of the last block: ``op Q = Q T + V R Eᵀ``.
"""

from __future__ import annotations

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, check_integer, check_real, module_name, namespace
from opflow.machine.threads import by_rows, quiet
from opflow.machine.workspace import row_slices
from opflow.operators.operator import Operator
from opflow.spectral.blocks import (
    Normalised,
    column_units,
    distribution_of,
    eps_of,
    finite,
    gaussian,
    gram_eigh,
    matching,
    on_host,
    rounding_of,
)
from opflow.spectral.checks import symmetric_operator


class BlockKrylov:
    """The space, one block product a step; directions that are exhausted are replaced.

    The `start` (n, b) need not be of full rank: random directions replace what is missing.
    The basis has `size` columns at most; b more are held.

    A step costs one product with b columns and, for two passes of block Gram–Schmidt, 8·n·m·b
    flops.  Where the new block loses rank (an invariant subspace, the zero operator, a small n),
    the coupling R is zero there and random directions, orthogonal to the basis, go on: so every
    copy of a repeated eigenvalue is found in the end, which a single start vector cannot do.
    """

    def __init__(self, op: Operator, start: Array, size: int, rng: np.random.Generator) -> None:
        n = op.shape[0]
        self.op = op
        self.rng = rng
        self.size = min(size, n)
        #: T = Qᵀ op Q, on the host, in units of `unit`
        self.matrix = np.zeros((self.size, self.size))
        #: columns multiplied so far
        self.products = 0
        #: columns of the basis in use
        self.filled = 0
        #: ‖op‖ as far as it has been seen, from below
        self.scale = 0.0
        #: Q, and room for the next block
        columns = min(self.size + start.shape[1], n)
        self._basis = namespace(start).empty((len(start), columns), dtype=op.dtype)
        self._product = Normalised(op)
        #: the block V that is multiplied next, and R of the residual V R Eᵀ
        self._next, self.coupling = self._orthonormal(start, float(op.space.norm(start)))

    @property
    def basis(self) -> Array:
        """Q, (n, filled)."""
        return self._basis[:, : self.filled]

    @property
    def width(self) -> int:
        """Columns of the next block."""
        return self._next.shape[1]

    @property
    def unit(self) -> float:
        """What `matrix`, `coupling` and `scale` have to be multiplied by."""
        return self._product.unit

    @property
    def full(self) -> bool:
        """Whether the basis spans everything, or must be restarted before it can grow."""
        return self.filled + self.width > self.size or self.complete

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space: T has the spectrum of the operator."""
        return self.filled == self.op.shape[0]

    def expand(self) -> None:
        """Take the next block into the basis and multiply it."""
        m = self.filled
        stop = m + self.width
        self._basis[:, m:stop] = self._next
        self.filled = stop
        space = self.op.space
        W = self._product.finite(self._basis[:, m:stop])
        self.products += stop - m
        self.scale = max(self.scale, float(space.norm(W, axis=0).max()))
        W, H = self._projected(W)
        H = on_host(H)
        H[m:] = (H[m:] + H[m:].T) / 2
        self.matrix[:stop, m:stop] = H
        self.matrix[m:stop, :stop] = H.T
        self._next, self.coupling = self._orthonormal(W, self.scale)

    @quiet()
    def _projected(self, V: Array) -> tuple[Array, Array]:
        """V without its part in the span of the basis, and the coordinates of that part."""
        Q = self.basis
        H = self.op.space.gram(Q, V)
        return V - by_rows(Q, H), H

    @quiet()
    def _orthonormal(self, W: Array, scale: float) -> tuple[Array, Array]:
        """An orthonormal block V orthogonal to the basis, and R with W = V R to rounding."""
        b = W.shape[1]
        keep = min(b, self.op.shape[0] - self.filled)
        space = self.op.space
        if keep == 0:
            return W[:, :0], np.zeros((0, b))
        least = 10 * rounding_of(self.op) * scale
        values, left = gram_eigh(W, W, space)
        if values[0] > max(least**2, eps_of(self.op) ** 0.25 * values[-1]) and keep == b:
            rank = b
            V = W @ matching(left / np.sqrt(values), W)
        else:  # what is small in W drowns in the rounding of its Gram matrix
            V, R = space.qr(W)
            left, values, _ = np.linalg.svd(on_host(R))
            rank = min(int((values > least).sum()), keep)
            V = V @ matching(left[:, :keep], W)
        if rank < keep:
            V[:, rank:] = gaussian(self.op, keep - rank, self.rng)
            V = space.qr(self._projected(V)[0])[0]
        # What was small beside W has picked up the basis again in rounding.
        V = self._projected(V)[0]
        # V is orthonormal but for that, so Cholesky is as stable here as QR, and faster
        turn = np.linalg.inv(np.linalg.cholesky(on_host(space.gram(V, V)))).T
        V = V @ matching(turn, W)
        R = np.zeros((keep, b))
        R[:rank] = on_host(space.gram(V[:, :rank], W))
        return V, R

    @quiet()
    def ritz(self) -> tuple[Array, Array, Array]:
        """Ritz values (m,) ascending, their coordinates (m, m), and residual norms (m,)."""
        m = self.filled
        values, vectors = np.linalg.eigh(self.matrix[:m, :m])
        if self.complete:
            return values, vectors, np.zeros(m)
        last = vectors[m - self.coupling.shape[1] :]
        return values, vectors, np.linalg.norm(self.coupling @ last, axis=0)

    @quiet()
    def combine(self, coordinates: Array) -> Array:
        """Q times coordinates (m, c): (n, c)."""
        return by_rows(self.basis, matching(coordinates, self._basis))

    @quiet()
    def restart(self, values: Array, coordinates: Array, fresh: int = 0) -> None:
        """Shrink to the Ritz vectors of `values`: a thick restart, in place by row blocks.

        With `fresh` the next block is that many random vectors, not the residual.
        """
        m = self.filled
        kept = len(values)
        Q = self._basis
        S = matching(coordinates, Q)
        for s in row_slices(len(Q), m * Q.dtype.itemsize, where=module_name(Q)):
            Q[s, :kept] = by_rows(Q[s, :m], S)
        self.matrix[:] = 0.0
        self.matrix[range(kept), range(kept)] = values
        self.filled = kept
        if fresh:
            V = self._projected(gaussian(self.op, fresh, self.rng))[0]
            self._next, _ = self._orthonormal(V, float(self.op.space.norm(V)))


@keywords
def block_lanczos(
    op: Data, steps: int, V: Array | None = None, *, block: int = 8, rng: Seed = 0, seed: Seed = 0
) -> tuple[Array, Array, Array]:
    r"""Block-tridiagonalise a symmetric operator on a block Krylov space.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    steps : int
        Block products to spend at most; fewer once the basis spans everything.
    V : array (n, b), optional
        Start; `block` Gaussian vectors by default.
    block : int, default 8
        b, where `V` is not given.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random start comes from.

    Returns
    -------
    T : array (m, m)
        ``basis.T @ op @ basis``, symmetric and block tridiagonal to rounding, on the host, float64.
    basis : array (n, m)
        Orthonormal to rounding.
    coupling : array (c, b)
        R of the residual: ``op @ basis - basis @ T`` is zero but in the last b columns, where it
        is a matrix with orthonormal columns times R.

    See Also
    --------
    opflow.spectral.lanczos : The same for one vector.
    opflow.spectral.eigsh : Eigenpairs, by restarted block Lanczos.

    Notes
    -----
    See [1]_.  m is a multiple of b, or n.  Costs b products and 8·n·m·b flops a step.  An
    eigenvalue repeated up to b times shows all its copies at once.

    References
    ----------
    .. [1] G. H. Golub, R. Underwood, "The block Lanczos method for computing eigenvalues", 1977.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> T, Q, R = of.spectral.block_lanczos(of.Identity(5), 2, block=2)
    >>> T.shape, bool(np.allclose(T, np.eye(4))), bool(np.allclose(R, 0))
    ((4, 4), True, True)
    """
    op = symmetric_operator(op)
    check_integer(steps, "steps", 1)
    rng = distribution_of(op).generator(rng)
    if V is None:
        V = gaussian(op, min(check_integer(block, "block", 1), op.shape[0]), rng)
    V = check_start(op, V, "V")
    space = BlockKrylov(op, V, steps * V.shape[1], rng)
    while not space.full:
        space.expand()
    T = space.matrix[: space.filled, : space.filled]
    return space.unit * T, space.basis, space.unit * space.coupling


def check_start(op: Operator, V: Array, name: str) -> Array:
    """`V` as a block (n, b) with 1 <= b <= n, finite and of the operator's dtype."""
    n = op.domain.here(op.shape[0])
    V = check_real(V, name, dtype=op.dtype)
    if V.ndim == 1:
        V = V[:, None]
    if V.ndim != 2 or len(V) != n or not 1 <= V.shape[1] <= op.shape[0]:
        raise ValueError(
            f"{name} has shape {V.shape} but op of order {n} needs ({n}, b), 1 <= b <= {n}"
        )
    V = finite(V, name, op.space)
    return V / matching(column_units(V, op.space), V)  # only directions count
