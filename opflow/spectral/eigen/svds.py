"""Singular triplets of a rectangular operator: for a Jacobian, eigenpairs of K and JᵀJ at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Data, check_integer, namespace
from opflow.operators.gram import Gram
from opflow.operators.rules import as_operator, scale
from opflow.spectral.blocks import Normalised, distribution_of, finite, gaussian, on_host
from opflow.spectral.checks import ConvergenceWarning, not_converged
from opflow.spectral.eigen.eigsh import eigsh
from opflow.spectral.eigen.results import SingularTriplets
from opflow.spectral.eigen.selection import Tolerance


@keywords
def svds(
    op: Data,
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
        As in :func:`eigsh`, and so is the warning if a triplet did not converge.

    Returns
    -------
    SingularTriplets
        Unpacks as ``u, s, vt``; `kernel` and `gauss_newton` give the eigenpairs of both Grams.

    See Also
    --------
    opflow.spectral.eigsh : Eigenpairs of a symmetric operator.
    opflow.jacobian : An operator to decompose.

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
    sized = Normalised(op)
    sized(gaussian(op, 1, np.random.default_rng(0x5EED)))
    if sized.unit != 1:  # the Gram of op would leave the range of the dtype
        op = scale(1 / sized.unit, op)
    A = op if wide else op.T
    rng = distribution_of(op).generator(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the triplets, below, it is told
        pairs = eigsh(Gram(A), k, which="LA", tol=tol, memory=memory, rng=rng, **options)
    # Aᵀ sheds what the Gram could not tell from its null space, and A then shows σ itself
    far = A.domain.qr(finite(A.rmatmat(pairs.eigenvectors), space=A.domain))[0]
    near, R = A.space.qr(A.matmat(far))
    head, sigma, turn = namespace(R).linalg.svd(R)
    near = near @ head
    far = far @ turn.T
    gaps = A.rmatmat(near) - far * sigma
    residuals = on_host(A.domain.norm(gaps, axis=0))
    sigma = on_host(sigma)
    tolerance = Tolerance.of(op, tol)
    # three products and two factorisations stand between the vectors and their residuals
    met = residuals <= max(tolerance.relative, 2 * tolerance.rounding) * (sigma.max() or 1.0)
    if not met.all():
        not_converged(
            f"{k - int(met.sum())} of {k} singular triplets did not converge: the largest "
            f"residual is {sized.unit * residuals.max():.2g} of a norm of "
            f"{sized.unit * sigma.max():.2g}"
        )
    left, right = (near, far) if wide else (far, near)
    spent = 2 * pairs.products + 3 * k + 1
    values = sized.unit * sigma
    residuals = sized.unit * residuals
    return SingularTriplets(values, left, right, residuals, bool(met.all()), spent, pairs.how)
