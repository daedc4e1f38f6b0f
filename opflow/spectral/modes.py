"""Eigenvectors: residuals on them, their decay, layer shares, angles between spaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, as_array, check_real, namespace
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.spectral.blocks import check_finite, eps_of, finite, largest_entry, matching, on_host
from opflow.spectral.checks import symmetric_operator
from opflow.spectral.traces.trace import trace


def projections(eigenvectors: Array, r: Array, *, space: RowDistribution = LOCAL) -> Array:
    r"""The coefficients of residuals on eigenvectors, :math:`U^T r`.

    Parameters
    ----------
    eigenvectors : array (n, k)
    r : array (n,), (N, outputs) with N·outputs = n, or (n, c)
        Residuals of N samples are one vector, flattened sample-major; c > 1 columns are as many.
    space : RowDistribution, optional
        ``op.space`` of the operator, if it is sharded: arrays are then the rows of this rank.

    Returns
    -------
    array (k,) or (k, c)

    See Also
    --------
    opflow.spectral.decay : Their decay, for a constant kernel.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.projections(np.eye(3)[:, :2], np.array([1.0, 2.0, 3.0]))
    array([1., 2.])
    """
    U = _vectors(eigenvectors)
    r = check_real(r, "r")
    n, size = space.total(np.array([len(U), r.size]))
    if size == n:
        r = r.reshape(-1)
    if r.ndim not in (1, 2) or len(r) != len(U):
        raise ValueError(f"r has shape {r.shape} but the eigenvectors {U.shape}")
    return space.gram(U, r)


def decay(
    eigenvalues: Data, eigenvectors: Array, r: Array, times: Data, *, space: RowDistribution = LOCAL
) -> Array:
    r"""The decay of a residual's coefficients on eigenvectors, for a constant kernel.

    Parameters
    ----------
    eigenvalues, eigenvectors : arrays (k,) and (n, k)
    r : array (n,) or (N, outputs), the residual at time 0
    times : array (t,)
    space : RowDistribution, optional, as in :func:`projections`

    Returns
    -------
    array (t, k)

    See Also
    --------
    opflow.plot.decay : Draws it beside the true residuals.

    Notes
    -----
    Eigenvalues below 10·ε times the largest count as zero.
    :math:`u_i^T r(t) = e^{-\lambda_i t}\, u_i^T r(0)`, as ``dr/dt = −K r`` gives for a constant
    K; where :func:`projections` of the true residuals leave it, the kernel has moved.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.decay(np.array([0.0, np.log(2)]), np.eye(2), np.ones(2), [0.0, 1.0]).tolist()
    [[1.0, 1.0], [1.0, 0.5]]
    """
    start = projections(eigenvectors, r, space=space)
    xp = namespace(start)
    if start.ndim != 1:
        n = len(eigenvectors)
        raise ValueError(f"r must be one vector of {n} entries, not of shape {(n, len(start.T))}")
    values = matching(as_array(eigenvalues, "eigenvalues"), start)
    values = check_real(values, "eigenvalues", finite=True)
    times = check_real(matching(as_array(times, "times"), start), "times", finite=True)
    if values.shape != start.shape:
        raise ValueError(
            f"eigenvalues has shape {values.shape} but there are {start.size} eigenvectors"
        )
    if times.ndim != 1:
        raise ValueError(f"times must be one-dimensional, not of shape {times.shape}")
    null = abs(values) <= 10 * eps_of(values) * largest_entry(values)  # rounding of zero is no rate
    with np.errstate(under="ignore"):
        return xp.exp(-times[:, None] * xp.where(null, 0, values)) * start


@keywords
def layer_shares(kernels: Sequence[Data], *, rng: Seed = 0, seed: Seed = 0) -> Array:
    r"""The share of each layer in the trace of the kernel.

    Parameters
    ----------
    kernels : sequence of operators (n, n)
        ``layer_kernels(fields)``.
    rng, seed : as in :func:`trace`, for layers whose trace is estimated

    Returns
    -------
    array (layers,) that sums to 1; zero if the trace is

    See Also
    --------
    opflow.spectral.spectrum_shares : The same for each eigenvalue.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.layer_shares([np.eye(2), 3 * np.eye(2)])
    array([0.25, 0.75])
    """
    if not kernels:
        raise ValueError("kernels must not be empty")
    traces = np.array([float(trace(kernel, rng=rng)) for kernel in kernels])
    total = traces.sum()
    return traces / (total or 1.0)


def spectrum_shares(kernels: Sequence[Data], eigenvectors: Array) -> Array:
    r"""The share of each layer in each eigenvalue of the kernel.

    Parameters
    ----------
    kernels : sequence of L operators (n, n) that sum to the kernel: ``layer_kernels(fields)``
    eigenvectors : array (n, k), of their sum

    Returns
    -------
    array (L, k), float64, on the host
        Columns sum to 1; those of eigenvalues that are zero to rounding are zero.

    See Also
    --------
    opflow.spectral.layer_shares : The same for the trace.
    opflow.plot.mode_shares : Draws them.

    Notes
    -----
    :math:`u_i^T K_\ell u_i / \lambda_i` with :math:`\lambda_i = \sum_\ell u_i^T K_\ell u_i`, by
    perturbation theory also the part that a change of the layer's rate has in the eigenvalue's.
    k products with each layer.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.spectrum_shares([np.diag([1.0, 0.0]), np.diag([3.0, 2.0])], np.eye(2)).tolist()
    [[0.25, 0.0], [0.75, 1.0]]
    """
    if not kernels:
        raise ValueError("kernels must not be empty")
    U = _vectors(eigenvectors)
    parts = []
    for i, kernel in enumerate(kernels):
        op = symmetric_operator(kernel, f"kernels[{i}]")
        if op.domain.here(op.shape[0]) != len(U):
            raise ValueError(f"kernels[{i}] has shape {op.shape} but the eigenvectors {U.shape}")
        images = finite(op.matmat(U), f"kernels[{i}]", op.space)
        parts.append(on_host(op.space.total((U * images).sum(axis=0))))
    shares = np.array(parts)
    total = shares.sum(axis=0)
    size = np.abs(shares).sum(axis=0).max(initial=0.0)
    known = np.abs(total) > op.shape[0] * eps_of(U) * size
    return np.where(known, shares / np.where(known, total, 1.0), 0.0)


def principal_angles(U: Array, V: Array, *, space: RowDistribution = LOCAL) -> Array:
    r"""The principal angles between the spaces that two sets of columns span.

    Parameters
    ----------
    U, V : arrays (n, p) and (n, q)
        Linearly independent columns: eigenvectors at two times, say.
    space : RowDistribution, optional, as in :func:`projections`

    Returns
    -------
    array (min(p, q),), float64, on the host: radians from 0 to π/2, ascending

    See Also
    --------
    opflow.observe.TopEigenpairs : Such angles along a run.

    Notes
    -----
    Cosines are singular values of :math:`Q_U^T Q_V`, sines those of
    :math:`(I - Q_U Q_U^T) Q_V` (Björck and Golub 1973): each where it keeps its digits, so that
    angles far below :math:`\sqrt\epsilon` are right.  4·n·(p + q)² flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> U, V = np.eye(3)[:, :1], np.array([[1.0, 0.0], [1e-12, 0.0], [0.0, 1.0]])
    >>> of.spectral.principal_angles(U, V)
    array([1.e-12])
    """
    U = _orthonormal(U, "U", space)
    V = _orthonormal(V, "V", space)
    if len(U) != len(V):
        raise ValueError(f"V has shape {V.shape} but U has shape {U.shape}")
    if U.shape[1] < V.shape[1]:
        U, V = V, U
    xp = namespace(U, V)
    both = space.gram(U, V)
    rest = V - U @ both
    if space.sharded:
        rest = space.qr(rest)[1]
    cosines = on_host(xp.linalg.svd(both, compute_uv=False))
    sines = on_host(xp.linalg.svd(rest, compute_uv=False))[::-1]
    near = np.arcsin(np.minimum(sines, 1.0))
    return np.where(cosines**2 > 0.5, near, np.arccos(np.minimum(cosines, 1.0)))


def _orthonormal(U: Array, name: str, space: RowDistribution) -> Array:
    U = check_real(U, name)
    n = int(space.total(len(U))) if U.ndim == 2 else 0
    if not n or not 0 < U.shape[1] <= n:
        raise ValueError(f"{name} must be an array (n, k) with 1 <= k <= n, not of shape {U.shape}")
    Q, R = space.qr(check_finite(U, name, space))
    sizes = np.abs(np.diag(on_host(R)))
    if not sizes.min() > n * eps_of(U) * sizes.max():
        raise ValueError(f"{name} must have linearly independent columns")
    return Q


def _vectors(U: Array) -> Array:
    U = check_real(U, "eigenvectors")
    if U.ndim != 2:
        raise ValueError(f"eigenvectors must be an array (n, k), not of shape {U.shape}")
    return U
