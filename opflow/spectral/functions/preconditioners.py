r"""Preconditioners for ``op + μ``: operators near its inverse that cost less than a product.

They are operators like any other: SciPy and PyLops solvers take them as they are.
"""

from __future__ import annotations

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, Index, check_integer, check_real, is_sparse
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.threads import by_rows, quiet
from opflow.operators.diagonal import Diagonal, entry_indices
from opflow.operators.entries import cheap_in_operands, entries_are_cheap
from opflow.operators.operator import Cost, Operator
from opflow.spectral.blocks import (
    Normalised,
    check_finite,
    divisor,
    eps_of,
    gaussian,
    gram_eigh,
    matching,
    on_host,
    rounding_of,
)
from opflow.spectral.checks import check_shift, not_psd, symmetric_operator
from opflow.spectral.traces.structure import exact_diagonal


class Nystrom(Operator):
    r"""The PSD operator ``I + U diag(w) Uᵀ``, with orthonormal columns U and w >= −1.

    Parameters
    ----------
    U : array (n, k)
        Orthonormal columns; a promise by the caller.  k may be 0.
    weights : array (k,)
        w, from −1.
    space : RowDistribution, optional
        ``op.space`` of the operator that it preconditions, if that is sharded: U is then the rows
        of this rank.
    symbol : str
        Its name in expressions.

    See Also
    --------
    opflow.spectral.nystrom : Builds it from an operator.

    Notes
    -----
    One product costs 4·n·k flops a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> P = of.spectral.Nystrom(np.eye(3, 1), np.array([-0.75]))
    >>> P @ np.ones(3), P.psd
    (array([0.25, 1.  , 1.  ]), True)
    """

    def __init__(
        self, U: Array, weights: Array, *, space: RowDistribution = LOCAL, symbol: str = "P⁻¹"
    ) -> None:
        U = check_real(U, "U")
        weights = check_real(weights, "weights", dtype=U.dtype, finite=True)
        if U.ndim != 2 or weights.shape != U.shape[1:]:
            raise ValueError(
                f"U must have shape (n, k) and weights (k,), not {U.shape} and {weights.shape}"
            )
        if weights.size and not float(weights.min()) >= -1:
            raise ValueError(f"weights must be at least -1, not {float(weights.min()):.4g}")
        self.data = U
        self.weights = weights
        super().__init__((int(space.total(len(U))),) * 2, U.dtype, psd=True, symbol=symbol)
        self.space = self.domain = space

    def cost(self, columns: int = 1) -> Cost:
        flops = 4.0 * self.data.size * columns
        return Cost(flops, 2.0 * self.data.nbytes + self._vector_bytes(columns))

    def _matmat(self, X: Array) -> Array:
        with quiet(self.data.size * X.shape[1]):
            inside = self.weights[:, None] * self.space.gram(self.data, X)
            return X + by_rows(self.data, inside)

    _rmatmat = _matmat

    def _block(self, rows: Index, cols: Index) -> Array:
        _check_entries(self)
        i, j = entry_indices(self, rows, cols)
        return (i == j) + (self.data[rows] * self.weights) @ self.data[cols].T

    def _diagonal(self) -> Array:
        return 1 + self.data**2 @ self.weights


class Jacobi(Diagonal):
    """A diagonal PSD matrix.

    Parameters
    ----------
    diagonal : array (n,)
        Not negative.
    space : RowDistribution, optional
        As for :class:`Nystrom`.
    symbol : str
        Its name in expressions.

    See Also
    --------
    opflow.spectral.jacobi : Builds it from an operator.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.Jacobi(np.array([1.0, 0.5])) @ np.ones(2)
    array([1. , 0.5])
    """

    def __init__(
        self, diagonal: Array, *, space: RowDistribution = LOCAL, symbol: str = "D⁻¹"
    ) -> None:
        diagonal = check_real(diagonal, "diagonal")
        size = int(space.total(diagonal.size))
        if is_sparse(diagonal) or diagonal.ndim != 1 or not size:
            raise ValueError(f"diagonal must be a vector, not of shape {diagonal.shape}")
        least = _least(check_finite(diagonal, "diagonal", space), space)
        if least < 0:
            raise ValueError(f"diagonal must not be negative, but has {least:.4g}")
        self.data = diagonal
        super().__init__((size,) * 2, diagonal.dtype, psd=True, symbol=symbol)
        self.space = self.domain = space

    def _matmat(self, X: Array) -> Array:
        return self.data[:, None] * X

    def _block(self, rows: Index, cols: Index) -> Array:
        _check_entries(self)
        return super()._block(rows, cols)

    def _diagonal(self) -> Array:
        return self.data.copy()


def _least(values: Array, space: RowDistribution) -> float:
    return -float(space.largest(-float(values.min()) if values.size else -np.inf))


def _check_entries(op: Operator) -> None:
    if op.space.sharded:
        raise ValueError("entries of a sharded preconditioner are not available: only products are")


@keywords
def nystrom(
    op: Data, shift: float = 0.0, rank: int = 100, *, rng: Seed = 0, seed: Seed = 0
) -> Nystrom:
    r"""The randomised Nyström preconditioner of op + μ.

    Parameters
    ----------
    op : operator or array (n, n)
        Symmetric PSD.
    shift : float, default 0
        μ, not negative.
    rank : int, default 100
        Vectors of the sketch, n at most: one block product, and rank·n numbers are held.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the sketch comes from.

    Returns
    -------
    Nystrom
        An operator of order n, in the dtype of `op`, near a multiple of (op + μ)⁻¹.

    See Also
    --------
    opflow.spectral.solve : Conjugate gradients, which use it.
    opflow.spectral.jacobi : The diagonal preconditioner.
    opflow.spectral.effective_dimension : About half the rank that is needed.

    Notes
    -----
    From a sketch Y = op Ω with orthonormal Ω, the Nyström approximation
    :math:`Y(\Omega^T Y)^{-1}Y^T = U\Lambda U^T` is computed with a shift of the size of rounding
    that is taken off again; then [1]_

    .. math:: P^{-1} = (\lambda_k + \mu)\, U(\Lambda + \mu)^{-1}U^T + (I - UU^T).

    Once the rank is some twice the effective dimension :math:`tr\, op(op + \mu)^{-1}`, the
    condition number of :math:`P^{-1}(op + \mu)` is a small constant, whatever that of op + μ.
    Eigenvalues at the rounding of the largest are dropped; if there are any and μ > 0, the sketch
    holds all of op, and μ stands for :math:`\lambda_k + \mu`.  Costs `rank` products, and
    10·n·rank² flops.

    References
    ----------
    .. [1] Z. Frangella, J. A. Tropp, M. Udell, "Randomized Nyström preconditioning", SIAM J. Matrix
       Anal. Appl. 44, 2023, arXiv:2110.02820.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag(0.5 ** np.arange(20.0)))
    >>> P = of.spectral.nystrom(op, 1e-6, rank=15)
    >>> eigenvalues = np.linalg.eigvals((P @ (op + 1e-6 * of.Identity(20))).todense()).real
    >>> bool(eigenvalues.max() / eigenvalues.min() < 2)
    True
    """
    op = symmetric_operator(op)
    shift = check_shift(shift)
    n = op.shape[0]
    space = op.space
    rank = min(check_integer(rank, "rank", 1), n)
    sketch = space.qr(gaussian(op, rank, rng))[0]
    product = Normalised(op)
    image = product.finite(sketch)
    shift /= product.unit
    jitter = rounding_of(op) * float(space.norm(image))
    # The small matrices are done in float64 on the host, whatever the data is.
    values, vectors = gram_eigh(sketch, image, space)
    if values[0] < -10 * jitter:
        raise not_psd("op", values[0] / np.abs(values).max())
    scale = (np.maximum(values, 0.0) + jitter) ** -0.5 if jitter else np.zeros(rank)
    half = (image + jitter * sketch) @ matching(vectors * scale, sketch)
    Q, R = space.qr(half)
    left, singular, _ = np.linalg.svd(on_host(R))
    eigenvalues = np.maximum(singular**2 - jitter, 0.0)
    nonzero = eigenvalues > n * eps_of(op) * eigenvalues[0]
    eigenvalues = eigenvalues[nonzero]
    # Beyond the sketch: nothing if it holds all of op, else what is as large as its last one.
    beyond = 0.0 if shift and not nonzero.all() else float(np.min(eigenvalues, initial=np.inf))
    weights = (beyond + shift) / (eigenvalues + shift) - 1
    U = Q @ matching(left[:, nonzero], sketch)
    return Nystrom(U, matching(weights, sketch), space=space)


def jacobi(op: Data, shift: float = 0.0) -> Jacobi:
    r"""The Jacobi preconditioner, the inverse of the exact diagonal of op + μ.

    Parameters
    ----------
    op : operator or array (n, n)
        Symmetric PSD.
    shift : float, default 0
        μ, not negative.

    Returns
    -------
    Jacobi

    See Also
    --------
    opflow.spectral.nystrom : A preconditioner of low rank.
    opflow.spectral.solve : Conjugate gradients, which use it.

    Notes
    -----
    :math:`1/(op_{\mu\mu} + \mu)`; 1 where that is 1/0, for there the row of a PSD operator is
    zero.  The diagonal of kernels costs as much as half a product.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.jacobi(of.Gram(np.diag([1.0, 2.0])), 1.0).diagonal()
    array([0.5, 0.2])
    """
    op = symmetric_operator(op)
    shift = check_shift(shift)
    diagonal = exact_diagonal(op)
    least = _least(diagonal, op.space)
    if least < 0:
        raise ValueError(f"op must be PSD, but has {least:.4g} on its diagonal")
    diagonal = diagonal + op.dtype.type(shift)
    inverse = 1 / divisor(diagonal)
    return Jacobi(inverse, space=op.space)


entries_are_cheap.register(Nystrom, cheap_in_operands)
