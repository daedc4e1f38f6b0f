"""Lanczos from many random vectors at once, and the eigenvalues that all of them find.

The start vectors stay independent, as random probes have to, so this is not block Lanczos.
"""

from __future__ import annotations

import numpy as np

from opflow.machine.arrays import Array
from opflow.operators.operator import Operator
from opflow.spectral.blocks import divisor, eps_of, on_host
from opflow.spectral.krylov.recursion import Recursion, tridiagonal_eigh


def batched_lanczos(
    op: Operator, start: Array, steps: int, keep: bool = True
) -> tuple[Array, Array, Array, int]:
    """Lanczos from each of several vectors at once, a block product a step.

    Diagonals and off-diagonals (probes, m), the last of which is the norm of the next residual; the
    bases (probes, m, n), or their last vectors (probes, 1, n) if not to `keep`; and products.  A
    probe whose space is invariant takes no more and goes on with β = 0 and its first α: nodes
    without weight in the spectrum.
    """
    space = Recursion(op, start, steps, keep=keep)
    space.reserve(space.size)
    while space.open.any():
        space.grow()
    return *space.tridiagonal(), space.basis, space.products


def ritz(alpha: Array, beta: Array, eps: float) -> tuple[Array, Array]:
    """Eigenvalues (probes, m) and vectors (probes, m, m) of the tridiagonal matrices.

    Rounding makes copies of converged eigenvalues, which `eigh` mixes.  The first copy gets the
    whole component of the start vector, the others get none.
    """
    values, vectors = tridiagonal_eigh(alpha, beta)
    index = np.arange(alpha.shape[1])
    apart = np.diff(values) > 16 * eps * np.abs(values).max()
    first = np.maximum.accumulate(np.pad(apart, ((0, 0), (1, 0))) * index, axis=1)
    belongs = (first[:, :, None] == index) * vectors[:, 0, :, None]
    merged = np.matmul(vectors, belongs)
    norms = np.linalg.norm(merged, axis=1, keepdims=True)
    return values, merged / divisor(norms)


def multiplicities(
    nodes: Array, vectors: Array, residual: Array, basis: Array, op: Operator
) -> Array:
    """Multiplicities (probes, m) of the eigenvalues that all probes have found; 0 elsewhere.

    The j-th nodes from either end of the spectrum belong together.  Their Ritz vectors, one a
    probe, have a Gram matrix whose rank is the multiplicity, if that is below the number of
    probes.
    """
    probes, m = nodes.shape
    n = op.shape[0]
    flat = basis.reshape(probes * m, basis.shape[2])
    gram = on_host(op.space.total(flat @ flat.T)).reshape(probes, m, probes * m)
    eps = eps_of(op)
    # nodes without weight are not of this probe's space, or rounding's copies of others
    real = [np.nonzero(row**2 > eps**1.5)[0] for row in vectors[:, 0]]
    shortest = min(map(len, real))
    top = np.abs(nodes).max()
    each = np.arange(probes)
    count = np.zeros((probes, m))
    for positions in (range(-1, -shortest - 1, -1), range(shortest)):
        for j in positions:
            place = np.array([index[j] for index in real])
            if count[each, place].any():
                break
            own = vectors[each, :, place]
            if n * (own[:, 0] ** 2).mean() < 1e-3:
                continue  # no eigenvector weighs so little in all probes: a copy
            shared = np.matmul(own[:, None], gram).reshape(probes, probes, m)
            spread = np.linalg.eigvalsh(np.einsum("ijm,jm->ij", shared, own))
            found = int((spread > 1e-2).sum())
            if found < probes and spread[-found - 1] < 1e-5:
                count[each, place] = found
            elif residual[each, place].max() > 1e-6 * top:
                break  # what lies further inside has converged even less
    left = n - count[0].sum()
    rest = np.where(count > 0, 0.0, vectors[:, 0] ** 2).sum(axis=1)
    if left == 0 or (left > 0 and rest.min() > eps):
        return count
    return np.zeros_like(count)
