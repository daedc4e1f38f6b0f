"""Singular triplets of a rectangular operator: for a Jacobian, eigenpairs of K and JᵀJ at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, check_integer, namespace, to_host
from opflow.operators.algebra import as_operator, scale
from opflow.operators.gram import Gram
from opflow.spectral.checks import ConvergenceWarning, Normalised, distribution_of, finite, gaussian
from opflow.spectral.eigen.eigsh import Eigenpairs, Tolerance, eigsh


@dataclass(frozen=True, eq=False)
class SingularTriplets(Pictured):
    """Singular triplets and how good they are.

    Attributes
    ----------
    singular_values : array (k,), float64, on the host
        Descending.
    left, right : arrays (m, k), (n, k)
        Orthonormal columns: ``op @ right ≈ left * singular_values``.  Of a sharded operator, the
        rows of this rank where they are sharded: the left ones, for a Jacobian.
    residuals : array (k,)
        ‖op v − σ u‖ or ‖opᵀ u − σ v‖, the one that is not zero to rounding.
    converged : bool
    products : int
        Products with the operator or its adjoint, counted by vectors.
    how : str
    """

    singular_values: Array
    left: Array
    right: Array
    residuals: Array
    converged: bool
    products: int
    how: str
    _picture = "eigenvalues"

    def __repr__(self) -> str:
        return repr(self.kernel).replace("eigenpairs", "singular triplets, their squares", 1)

    def __iter__(self) -> Any:
        """Unpack as u, s, vᵀ, as SciPy's ``svds``."""
        return iter((self.left, self.singular_values, self.right.T))

    @property
    def kernel(self) -> Eigenpairs:
        """Eigenpairs of ``op @ op.T``: of K, for a Jacobian."""
        return self._pairs(self.left)

    @property
    def gauss_newton(self) -> Eigenpairs:
        """Eigenpairs of ``op.T @ op``: of the Gauss–Newton matrix, for a Jacobian."""
        return self._pairs(self.right)

    def _pairs(self, vectors: Any) -> Eigenpairs:
        sigma = self.singular_values
        # op (opᵀ u − σ v) + σ (op v − σ u), where one of the two is zero
        residuals = np.max(sigma, initial=0.0) * self.residuals
        return Eigenpairs(sigma**2, vectors, residuals, self.converged, self.products, self.how)


@keywords
def svds(
    op: Any,
    k: int = 6,
    *,
    tol: float = 0.0,
    memory: float | str | None = None,
    rng: Seed = 0,
    seed: Seed = 0,
    **options: Any,
) -> SingularTriplets:
    r"""The largest singular triplets of an operator.

    Parameters
    ----------
    op : operator, array (m, n) or sparse matrix
    k : int, default 6
        Triplets, 1 to min(m, n).
    tol : float, default 0
        Residual relative to the largest singular value; 0 asks for what the dtype can give.
    memory, rng, seed, **options
        As in :func:`eigsh`.

    Returns
    -------
    SingularTriplets
        Unpacks as ``u, s, vt``; `kernel` and `gauss_newton` give the eigenpairs of both Grams.

    Warns
    -----
    ConvergenceWarning
        If a triplet did not converge.

    Notes
    -----
    Eigenvectors of the smaller Gram span the space in which the operator itself is then
    decomposed, so that singular values are as exact as their residuals say, and not only to
    √ε·‖op‖ as their squares would be.  Triplets below √ε·‖op‖ that have others of their size
    outside the space may not converge, and say so.  Costs :func:`eigsh` of that Gram,
    3·k + 1 products, and holds (m + n)·k numbers.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 50], seed=0).fields(np.eye(3))
    >>> J = of.jacobian(fields)
    >>> found = of.spectral.svds(J, 2)
    >>> bool(np.allclose(J @ found.right, found.left * found.singular_values))
    True
    >>> found.kernel.eigenvectors.shape, found.gauss_newton.eigenvectors.shape
    ((3, 2), (150, 2))
    """
    op = as_operator(op)
    if op.dtype.kind != "f":
        raise TypeError(f"op must be real, not {op.dtype}")
    if 0 in op.shape:
        raise ValueError(f"op must not be empty, but has shape {op.shape}")
    check_integer(k, "k", 1, min(op.shape))
    wide = op.shape[0] <= op.shape[1]
    sized = Normalised(op.matmat, op.space)
    sized(gaussian(op, 1, np.random.default_rng(0x5EED)))
    if sized.unit != 1:  # the Gram of op would leave the range of the dtype
        op = scale(1 / sized.unit, op)
    gram, rng = Gram(op if wide else op.T), distribution_of(op).generator(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the triplets, below, it is told
        pairs = eigsh(gram, k, which="LA", tol=tol, memory=memory, rng=rng, **options)
    near, A = pairs.eigenvectors, op if wide else op.T
    xp, here, beyond = namespace(near), A.space, A.domain
    # Aᵀ sheds what the Gram could not tell from its null space, and A then shows σ itself
    far = beyond.qr(finite(A.rmatmat(near), space=beyond))[0]
    near, R = here.qr(A.matmat(far))
    head, sigma, turn = xp.linalg.svd(R)
    near, far = near @ head, far @ turn.T
    gaps = A.rmatmat(near) - far * sigma
    residuals = to_host(beyond.norm(gaps, axis=0)).astype(np.float64)
    sigma = to_host(sigma).astype(np.float64)
    tolerance = Tolerance.of(op, tol)
    # three products and two factorisations stand between the vectors and their residuals
    met = residuals <= max(tolerance.relative, 2 * tolerance.rounding) * (sigma.max() or 1.0)
    if not met.all():
        warnings.warn(
            f"{k - int(met.sum())} of {k} singular triplets did not converge: the largest "
            f"residual is {sized.unit * residuals.max():.2g} of a norm of "
            f"{sized.unit * sigma.max():.2g}",
            ConvergenceWarning,
            stacklevel=3,
        )
    left, right = (near, far) if wide else (far, near)
    return SingularTriplets(
        sized.unit * sigma,
        left,
        right,
        sized.unit * residuals,
        bool(met.all()),
        2 * pairs.products + 3 * k + 1,
        pairs.how,
    )
