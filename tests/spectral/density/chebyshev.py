r"""The density of a spectrum by the kernel polynomial method: a second opinion.

Chebyshev moments tr T_k(op) from random vectors, damped by the Jackson kernel so that the series
is a positive density, of resolution π/degree of the half range.  Shares nothing with Lanczos
quadrature but the products and the bounds of the spectrum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t as student

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import check_integer, to_host
from opflow.operators.operator import Operator
from opflow.spectral.blocks import distribution_of, finite, gaussian
from opflow.spectral.checks import Estimate, check_psd, symmetric_operator
from opflow.spectral.density.density import Density
from opflow.spectral.krylov.lanczos import lanczos
from opflow.spectral.traces.exact import rank_bound, rounding_level


class ChebyshevDensity(Density):
    """A density from damped Chebyshev moments (probes, degree + 1) on `bounds`."""

    how = "kernel polynomial"

    def __init__(
        self,
        moments: Any,
        bounds: tuple[float, float],
        support: tuple[float, float],
        *,
        rank: int,
        psd: bool,
        log: bool,
        products: int,
    ) -> None:
        degree = moments.shape[1] - 1
        self.order, self.log, self.products = round(float(moments[0, 0])), log, products
        self._centre, self._half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
        self.support = support
        angle = np.pi / (degree + 2)
        k = np.arange(degree + 1)
        self._jackson = (
            (degree + 2 - k) * np.cos(k * angle) + np.sin(k * angle) / np.tan(angle)
        ) / (degree + 2)
        self._resolution = np.pi / degree
        self._moments = moments * self._jackson
        known = self.order - rank  # zeros of the structure: taken out of the density, exactly
        at = np.arccos(np.clip(-self._centre / self._half, -1.0, 1.0))
        self._known = known * np.cos(k * at) * self._jackson
        self.width = self._half * self._resolution
        if log:
            top = max(abs(support[0]), abs(support[1])) or 1.0
            self.width = float(np.log10(1 + self.width / top))
        low, high = (float(end[0]) for end in self._cumulative(np.zeros(1))[1:])
        most = self.order * (high if psd else high - low)
        self.null = Estimate(known, known, max(most, known), products=products, how=self.how)

    def _interval(self, rows: Any, count: bool = False) -> tuple[Any, Any]:
        """Mean and 95 % half-width; of a `count`, at least what a random projection has."""
        probes, n, mean = len(rows), self.order, rows.mean(axis=0)
        variance = rows.var(axis=0, ddof=1)
        if count:
            variance = np.maximum(variance, 2 / (n + 2) * np.maximum(mean * (n - mean), 0.0))
        return mean, student.ppf(0.975, probes - 1) * (variance / probes) ** 0.5

    def _angles(self, grid: Any) -> Any:
        return np.arccos(np.clip((grid - self._centre) / self._half, -1.0, 1.0))

    def _density(self, grid: Any) -> tuple[Any, Any]:
        angles = self._angles(grid)
        k = np.arange(self._moments.shape[1])
        series = np.cos(k[:, None] * angles) * np.where(k, 2.0, 1.0)[:, None]
        inside = np.abs(grid - self._centre) < self._half
        scale = np.where(inside, 1 / (np.pi * self._half * np.where(inside, np.sin(angles), 1)), 0)
        if self.log:
            scale = scale * grid * np.log(10)
        value, half = self._interval((self._moments - self._known) @ series * scale)
        return value / self.order, half / self.order

    def _counts(self, grid: Any) -> Any:
        """Eigenvalues at or below, (probes, points)."""
        angles = self._angles(grid)
        k = np.arange(1, self._moments.shape[1])[:, None]
        waves = np.sin(k * angles) / k
        return (
            self._moments[:, :1] * (np.pi - angles) - 2 * self._moments[:, 1:] @ waves
        ) / np.pi  # fmt: skip

    def _cumulative(self, grid: Any) -> tuple[Any, Any, Any]:
        # the damped step is 1 only some resolutions away, where they are finest at the ends
        angles = self._angles(grid)
        reach = 4 * self._half * self._resolution * (np.sin(angles) + self._resolution)
        value, _ = self._interval(self._counts(grid))
        below, error = self._interval(self._counts(grid - reach), count=True)
        above, other = self._interval(self._counts(grid + reach), count=True)
        n, tail = self.order, 1e-3  # of the Jackson kernel, beyond four resolutions
        low, high = (below - error) / n - tail, (above + other) / n + tail
        return value / n, np.clip(low, 0, 1), np.clip(high, 0, 1)


@keywords
def kernel_polynomial(
    op: Any,
    *,
    degree: int = 200,
    probes: int = 10,
    rng: Seed = 0,
    seed: Seed = 0,
    log: bool = False,
) -> Density:
    r"""The density of the eigenvalues by Chebyshev moments and the Jackson kernel.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    degree : int, default 200
        The resolution is about π/degree of half the range of the spectrum (at its ends finer).
    probes : int, default 10
        Random vectors, 2 at least.
    rng, seed : int, numpy.random.Generator or None, default 0
    log : bool, default False
        A density per unit of log₁₀ λ, for PSD operators; the resolution stays that of λ.

    Returns
    -------
    Density
        Its band has the random vectors in it, not the resolution; that of its cumulative density
        has both.  ``null`` has what structure demands as value and low end, and all that lies
        within the resolution of zero as high end: polynomials cannot tell them apart.

    Raises
    ------
    ValueError, TypeError
        As for :func:`density`.

    Notes
    -----
    On the spectrum mapped to [−1, 1], with moments :math:`\mu_k = \mathrm{tr}\, T_k(op)` and
    Jackson's :math:`g_k`,

    .. math:: \rho(x) = \frac{1}{n\pi\sqrt{1-x^2}}
              \Bigl(g_0\mu_0 + 2\sum_{k=1}^{degree} g_k\mu_k T_k(x)\Bigr).

    Two moments a product, for ``T_{2k} = 2T_k² − 1``: 1 + degree/2 products with blocks of `probes`
    vectors, three blocks held, and up to 30 products for the bounds, which get a margin of 1 %.
    """
    op = symmetric_operator(op)
    check_integer(degree, "degree", 2)
    check_integer(probes, "probes", 2)
    generator = distribution_of(op).generator(rng)
    alpha, beta, _ = lanczos(op, 30, rng=generator)
    ritz, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
    if log:
        check_psd(op, ritz, "op on a log axis")
    low, high = (float(ritz[i] + s * abs(beta[-1] * vectors[-1, i])) for i, s in ((0, -1), (-1, 1)))
    low = 0.0 if op.psd else low
    start = gaussian(op, probes, generator)
    start = start * (op.shape[0] ** 0.5 / op.space.norm(start, axis=0))
    products, margin = len(alpha), 0.01
    moments = None
    while moments is None:
        wide = margin * (high - low or abs(high) or 1.0)
        bounds = (low - wide, high + wide)
        moments = _moments(op, start, degree, bounds)
        products += probes * (1 + degree // 2)  # at most
        margin *= 4
    seen = ritz[(ritz if log else abs(ritz)) > rounding_level(op, ritz)]
    support = (float(seen[0]), float(seen[-1])) if seen.size else (0.0, 0.0)
    return ChebyshevDensity(
        moments, bounds, support, rank=rank_bound(op), psd=op.psd, log=log, products=products
    )


def _moments(op: Operator, start: Any, degree: int, bounds: tuple[float, float]) -> Any:
    """``v·T_k v`` for each column v of `start`, (probes, degree + 1).

    ``None`` if one outgrows the first: |T_k| ≤ 1 on the bounds, so the spectrum reaches beyond.
    """
    centre, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2

    def mapped(t: Any) -> Any:
        return (op.matmat(t) - centre * t) / half

    def inner(a: Any, b: Any) -> Any:
        return to_host(op.space.total((a * b).sum(axis=0, dtype=np.float64)))

    before, now = start, finite(mapped(start), space=op.space)
    first, second = inner(before, before), inner(before, now)
    moments = [first, second]
    while len(moments) <= degree:
        moments.append(2 * inner(now, now) - first)
        before, now = now, 2 * mapped(now) - before
        moments.append(2 * inner(before, now) - second)
        if np.abs(moments[-2:]).max() > 1.01 * first.max():
            return None
    return finite(np.array(moments[: degree + 1]).T)
