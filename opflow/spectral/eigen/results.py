"""What eigensolvers return: eigenpairs and singular triplets, with measured residuals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, namespace


@dataclass(frozen=True, eq=False)
class Eigenpairs(Pictured):
    """Eigenpairs of an operator, with their measured residuals.

    Attributes
    ----------
    eigenvalues : array (k,), float64, on the host
        Descending.
    eigenvectors : array (n, k)
        Orthonormal columns, of the operator's dtype, where its data are.
    residuals : array (k,), on the host
        ‖op u − λ u‖, measured: an eigenvalue lies within that of λ.
    converged : bool
        Whether every residual is within the tolerance, or the rounding of the products.
    products : int
        Products with the operator, counted by vectors, also where they formed a matrix of an
        operator that gives its entries in no other way.
    how : str
        ``"lanczos, dense"``: the method, and how the operator was evaluated.
    guard : array (n, 1), optional
        The vector that came next in the search.
    start : array (n, k + 1)
        Where the search of a nearby operator may begin: the eigenvectors and what came next.

    See Also
    --------
    opflow.spectral.eigsh : Computes a few.
    opflow.spectral.eigh : Computes all.
    opflow.plot.eigenvalues : Draws the eigenvalues.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> values, vectors = of.spectral.eigsh(of.Gram(np.diag([3.0, 2.0, 1.0])), 2)
    >>> values.round(12), vectors.shape
    (array([9., 4.]), (3, 2))
    """

    eigenvalues: Array
    eigenvectors: Array
    residuals: Array
    converged: bool
    products: int
    how: str
    #: what came next, (n, 1)
    guard: Array | None = field(default=None, repr=False)
    _picture = "eigenvalues"

    @property
    def start(self) -> Array:
        if self.guard is None:
            return self.eigenvectors
        return namespace(self.guard).concatenate([self.eigenvectors, self.guard], axis=1)

    def __iter__(self) -> Iterator[Array]:
        """Unpack as SciPy's ``eigsh`` result: values, vectors."""
        return iter((self.eigenvalues, self.eigenvectors))

    def __repr__(self) -> str:
        values = self.eigenvalues
        state = "converged" if self.converged else "not converged"
        return (
            f"<{len(values)} eigenpairs from {values[0]:.4g} to {values[-1]:.4g}, residuals up to "
            f"{self.residuals.max():.1e} ({state}, {self.how}, {self.products:,} products)>"
        )


@dataclass(frozen=True, eq=False)
class SingularTriplets(Pictured):
    """Singular triplets of an operator, with their measured residuals.

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

    See Also
    --------
    opflow.spectral.svds : Computes them.
    opflow.spectral.Eigenpairs : Eigenpairs of a symmetric operator.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.svds(np.diag([3.0, 2.0, 1.0]), 2)
    >>> found.singular_values.round(12), found.kernel.eigenvalues.round(12)
    (array([3., 2.]), array([9., 4.]))
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

    def __iter__(self) -> Iterator[Array]:
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

    def _pairs(self, vectors: Array) -> Eigenpairs:
        sigma = self.singular_values
        # op (opᵀ u − σ v) + σ (op v − σ u), where one of the two is zero
        residuals = np.max(sigma, initial=0.0) * self.residuals
        return Eigenpairs(sigma**2, vectors, residuals, self.converged, self.products, self.how)
