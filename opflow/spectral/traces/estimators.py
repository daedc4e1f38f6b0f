r"""Traces from block products alone, with intervals that cover: XTrace and XNysTrace.

Each takes a block product ``X -> A X`` of a symmetric A, or of any function of an operator, and
Gaussian vectors.  A sketch of the range gives most of the trace exactly, and the samples the rest.

The samples of both estimators share their sketches, so the spread between them
understates the error, up to threefold where the number of large eigenvalues is just above that of
the samples.  Here the error comes from a jackknife instead: with :math:`\theta_j` the estimator
without sample j, :math:`E \sum_j (\theta_j - \bar\theta)^2` is never below the variance of
:math:`\theta_j` (Efron and Stein 1981), and needs no further product.

Nor is the error normal.  Where one eigenvalue stands out of all that the sketch has left, samples
are as skew as :math:`\chi^2` with one degree of freedom, and Student's t covers 80 %.  So
intervals are as wide as such samples need (:func:`skew_quantile`) at both ends, but for the upper
one of a PSD trace, where the jackknife has enough to spare: they are wide for other spectra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import chi2
from scipy.stats import t as student

from opflow.machine.arrays import Array
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.spectral.blocks import (
    column_products,
    divisor,
    eps_of,
    finite,
    gram_eigh,
    matching,
    on_host,
)
from opflow.spectral.checks import Estimate, not_psd

Product = Callable[[Array], Array]


def xtrace(
    apply: Product, omega: Array, *, psd: bool = False, space: RowDistribution = LOCAL
) -> Estimate:
    r"""XTrace (Epperly, Tropp and Webber 2024) of a symmetric A.

    `apply` is ``X -> A X`` for blocks (n, columns), `omega` (n, m) standard normal, `space` how the
    rows of vectors are held.  Of a PSD matrix the trace of the sketch is a lower bound.

    With :math:`Q_i` an orthonormal basis of :math:`A\Omega` without column i and
    :math:`P_i = I - Q_i Q_i^T`, the mean over i of

    .. math:: \mathrm{tr}\, Q_i^T A Q_i
              + (n - m + 1) \frac{\omega_i^T P_i A P_i \omega_i}{\|P_i \omega_i\|^2}.

    2m products, 16·n·m² flops and six blocks (n, m).
    """
    n = int(space.total(len(omega)))
    m = omega.shape[1]
    relative = n**0.5 * eps_of(omega)  # rounding of a product
    Y = finite(apply(omega), space=space)
    Q, R = space.qr(Y)
    U, sizes, Vt = np.linalg.svd(on_host(R))
    rank = int((sizes > 4 * relative * sizes[0]).sum())
    if rank == 0:
        return Estimate(0.0, products=m, how="XTrace")
    Q = Q @ matching(U[:, :rank], Q)
    Z = finite(apply(Q), space=space)
    H = on_host(space.gram(Q, Z))
    W = on_host(space.gram(Q, omega))
    full = rank == m
    # Below full rank, no column alone adds to the range: leaving it out takes nothing away.
    S = _unit(Vt / sizes[:, None]) if full else np.zeros((rank, m))
    V = matching(W - S * (S * W).sum(axis=0), Q)
    E = omega - Q @ V
    F = Y - Z @ V
    quad, square = on_host(column_products(space, (E, F), (E, E)))
    C = on_host(space.gram(Z, E))
    dim = n - min(rank, m - 1)
    total = float(np.trace(H))
    rest = dim * quad / square
    samples = total - _forms(H, S) + rest
    without = None
    if full:
        without = np.zeros((m, m))
        for i, D in _second_directions(S):
            w = W[:, i] @ D
            h = _forms(H, D)
            both = (quad[i] + 2 * w * (C[:, i] @ D) + w**2 * h) / (square[i] + w**2)
            without[i] = total - S[:, i] @ H @ S[:, i] - h + (dim + 1) * both
    rounding = relative * float(np.abs(np.diag(H)).sum() + np.abs(rest).mean())
    sketch = total if psd else None
    return _estimate(samples, without, rounding, sketch, m + rank, "XTrace")


def xnystrace(apply: Product, omega: Array, *, space: RowDistribution = LOCAL) -> Estimate:
    r"""XNysTrace (Epperly, Tropp and Webber 2024) of a PSD A.

    With :math:`A_i` the Nyström approximation from all columns of :math:`\Omega` but i, and
    :math:`\hat\omega_i` the part of :math:`\omega_i` off the others, the mean over i of

    .. math:: \mathrm{tr}\, A_i
              + (n - m + 1) \frac{\omega_i^T (A - A_i)\, \omega_i}{\|\hat\omega_i\|^2}.

    A is shifted by a multiple of the rounding of its products, which is taken off again.  m
    products, 10·n·m² flops and five blocks (n, m).
    """
    n = int(space.total(len(omega)))
    m = omega.shape[1]
    eps = eps_of(omega)
    Q, R = space.qr(omega)
    Y = finite(apply(Q), space=space)
    size = float(space.norm(Y))
    if size == 0:
        return Estimate(0.0, products=m, how="XNysTrace")
    values, vectors = gram_eigh(Q, Y, space)
    if values[0] < -10 * n**0.5 * eps * size:
        raise not_psd("op", values[0] / size)
    shift = 2 * eps * size
    roots = np.sqrt(np.maximum(values, 0.0) + shift)
    F = (Y + shift * Q) @ matching(vectors / roots, Y)
    G = on_host(space.gram(F, F))
    R = on_host(R)
    inverse = np.linalg.inv(R).T
    along = roots[:, None] * (vectors.T @ R)  # Fᵀω
    S = _unit((vectors.T @ inverse) / roots[:, None])
    off = _unit(inverse)  # the same for Ω itself
    angle = off.T @ off
    np.fill_diagonal(angle, 0.0)
    total = float(np.trace(G)) - shift * n
    first = (S * along).sum(axis=0)
    height = (off * R).sum(axis=0)
    samples = total - _forms(G, S) + (n - m + 1) * (first / height) ** 2
    without = np.zeros((m, m))
    for i, D in _second_directions(S):
        rest = first[i] ** 2 + (along[:, i] @ D) ** 2
        square = height[i] ** 2 / (1 - angle[i] ** 2)
        without[i] = total - S[:, i] @ G @ S[:, i] - _forms(G, D) + (n - m + 2) * rest / square
    rounding = n**0.5 * eps * (total + shift * n)
    return _estimate(samples, without, rounding, total, m, "XNysTrace")


def _unit(S: Array) -> Array:
    return S / np.linalg.norm(S, axis=0)


def _forms(H: Array, S: Array) -> Array:
    """sᵀ H s for every column s."""
    return ((H @ S) * S).sum(axis=0)


def _second_directions(S: Array) -> Iterator[tuple[int, Array]]:
    """For each column i of unit vectors, those orthogonal to it in its span with each other one.

    They may be all but parallel: a difference of vectors keeps digits that 1 − cos² would lose.
    """
    for i in range(S.shape[1]):
        D = S - np.outer(S[:, i], S[:, i] @ S)
        D[:, i] = 0
        size = np.linalg.norm(D, axis=0)
        yield i, D / divisor(size)


def _error(samples: Array, without: Array | None) -> float:
    """The standard error where entry (i, j) of `without` is sample i without sample j."""
    m = len(samples)
    error = float(samples.std(ddof=1) / np.sqrt(m))
    if without is None:
        return error
    np.fill_diagonal(without, 0.0)
    means = without.sum(axis=0) / (m - 1)
    return max(error, float(np.sqrt(((means - means.mean()) ** 2).sum())))


def _normal(m: int) -> float:
    """Standard errors to an end of the interval for m normal samples."""
    return float(student.ppf(0.975, m - 1))


def skew_quantile(m: int) -> float:
    """The same for m samples of χ² with one degree of freedom."""
    return max(_normal(m), float((m / chi2.ppf(0.025, m) - 1) * (m / 2) ** 0.5))


def half_width(samples: Array) -> Array:
    """Half of the 95 % interval of the mean of every row of samples."""
    k = samples.shape[1]
    return samples.std(axis=1, ddof=1) * (_normal(k) / k**0.5)


def _estimate(
    samples: Array,
    without: Array | None,
    rounding: float,
    sketch: float | None,
    products: int,
    how: str,
) -> Estimate:
    """The mean of samples; the trace of the `sketch` of a PSD matrix bounds it from below."""
    m = len(samples)
    value = samples.mean()
    error = _error(samples, without)
    above = skew_quantile(m) * error + rounding
    low = value - above
    if sketch is not None:
        low = max(low, sketch - rounding)
        above = _normal(m) * error + rounding
    return Estimate(value, min(low, value), value + above, products=products, how=how)
