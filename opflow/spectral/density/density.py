r"""The density of a spectrum with its error bars: a quadrature, broadened to a curve.

Gaussians at the nodes of the rules make the density of the nonzero eigenvalues.  Eigenvalues that
rounding does not tell from zero are counted apart.  The cumulative density is not broadened.
All of it is arithmetic on the host: a grid costs no product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, Data, as_array, check_integer
from opflow.spectral.checks import Estimate, check_psd, symmetric_operator
from opflow.spectral.density.quadrature import choose_rule
from opflow.spectral.density.rule import Quadrature, settled_zeros
from opflow.spectral.traces.exact import rank_bound


class Density(Pictured):
    r"""A density of eigenvalues, with 95 % error bars.

    Parameters
    ----------
    rule : Quadrature
    rank : int, the largest that the structure of the operator allows
    psd : bool, whether no eigenvalue is negative
    log : bool, whether the density is one per unit of log₁₀ λ, rather than per unit of λ
    width : float, optional
        Standard deviation of the Gaussian that stands for an eigenvalue, in the same unit.
    steps : int, for the default width

    Attributes
    ----------
    null : Estimate
        How many eigenvalues are zero, to rounding.
    order : int, how many eigenvalues there are
    support : tuple of float
        The least and the largest eigenvalue seen that is not zero; (0, 0) if there is none.
    products : int, with one vector, that were spent
    how : str, ``"exact"`` or the name of the estimator

    See Also
    --------
    opflow.spectral.density : Computes it.
    opflow.plot.density : Draws it.
    opflow.spectral.Quadrature : The Gauss rules that it comes from.

    Notes
    -----
    The integral over the axis is the fraction of eigenvalues that are not zero, ``1 − null/n``.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rho = of.spectral.density(of.Gram(np.diag([0.0, 1.0, 2.0])))
    >>> rho.null, rho.cdf([-1.0, 0.0, 1.5, 4.0]).round(3)
    (1 (exact, 0 products), array([0.   , 0.333, 0.667, 1.   ]))
    """

    _picture = "density"

    def __init__(
        self, rule: Quadrature, *, rank: int, psd: bool, log: bool, width: float | None, steps: int
    ) -> None:
        zero = np.abs(rule.nodes) <= rule.level
        self.order = rule.order
        self.log = log
        self.products = rule.products
        self.how = "exact" if rule.exact else "Lanczos quadrature"
        self._rule = replace(rule, nodes=np.where(zero, 0.0, rule.nodes))
        self._psd = psd
        #: how many more zeros there may be than were taken for granted
        self._doubt = 0.0
        self.null = self._zeros(zero, float(self.order - rank))
        real = np.where(zero, 0.0, rule.weights) > 0
        self.support = (0.0, 0.0)
        if real.any():
            seen = rule.nodes[real]
            self.support = (float(seen.min()), float(seen.max()))
        self.width = width or self._default_width(real, steps)

    def __call__(self, grid: Data) -> Array:
        """The density at eigenvalues `grid` (any shape, positive on a log axis), same shape."""
        return self._on(grid, self._density)[0]

    def error(self, grid: Data) -> Array:
        """The half-width of the 95 % interval of the broadened density, pointwise."""
        return self._on(grid, self._density)[1]

    def band(self, grid: Data) -> tuple[Array, Array]:
        """The lower and the upper end of that interval; a density is not negative."""
        value, half = self._on(grid, self._density)
        return np.maximum(value - half, 0.0), value + half

    def cdf(self, grid: Data) -> Array:
        """The fraction of eigenvalues at or below `grid`, null ones included."""
        return self._on(grid, self._cumulative)[0]

    def cdf_band(self, grid: Data) -> tuple[Array, Array]:
        """The 95 % interval of the true, unbroadened cumulative density, pointwise."""
        _, low, high = self._on(grid, self._cumulative)
        return low, high

    def grid(self, points: int = 400) -> Array:
        """Eigenvalues (points,) that cover the support, evenly on this axis."""
        low, high = self.support
        if not self.log:
            return np.linspace(low - 4 * self.width, high + 4 * self.width, points)
        if high == 0.0:
            return np.ones(points)
        reach = 10.0 ** (4 * self.width)
        return np.geomspace(low / reach, high * reach, points)

    @np.errstate(under="ignore")  # far from a node its Gaussian is zero
    def _on(self, grid: Data, function: Callable[[Array], tuple[Array, ...]]) -> tuple[Array, ...]:
        grid = np.asarray(as_array(grid, "grid"), dtype=np.float64)
        if not np.isfinite(grid).all():
            raise ValueError("grid contains NaN or infinity")
        if self.log and function == self._density and grid.size and grid.min() <= 0:
            raise ValueError(f"grid must be positive on a log axis, not {grid.min():.4g}")
        return tuple(part.reshape(grid.shape) for part in function(grid.ravel()))

    def _density(self, grid: Array) -> tuple[Array, Array]:
        """Value and half-width."""
        rule = self._rule
        places = self._axis(grid)
        height = 1 / (self.width * (2 * np.pi) ** 0.5)

        def bumps(nodes: Array) -> Array:
            away = (self._axis(nodes)[..., None] - places) / self.width
            heights = np.where(np.abs(nodes) > rule.level, height, 0.0)
            return heights[..., None] * np.exp(-0.5 * away**2)

        mean, spread, bias = rule.integrate(bumps)
        bias = bias + height * self._unresolved(grid)
        bias = bias + mean * self._doubt / max(self.order - self.null, 1.0)
        half = (spread + bias) / self.order
        if not rule.exact:
            half = half + 1e-6 * height  # a millionth of all eigenvalues there
        return mean / self.order, half

    def _cumulative(self, grid: Array) -> tuple[Array, Array, Array]:
        """Value, low and high."""
        rule = self._rule
        n = self.order
        nodes = rule.nodes[..., None]
        mean, spread = rule.mean(nodes <= grid)
        # rounding may carry an eigenvalue across the point, but not a zero
        shift = np.where(nodes == 0, 0.0, rule.level)
        fewer = nodes + shift <= grid
        more = nodes - shift <= grid
        low = rule.mean(fewer)[0] - spread - rule.slack(fewer)[0]
        high = rule.mean(more)[0] + spread + rule.slack(more)[1] + self._doubt * (grid >= 0)
        return mean / n, np.clip(low / n, 0.0, 1.0), np.clip(high / n, 0.0, 1.0)

    def __repr__(self) -> str:
        axis = "log10 eigenvalue" if self.log else "eigenvalue"
        low, high = self.support
        return (
            f"<Density of {self.order} eigenvalues per unit {axis}, width {self.width:.3g}: "
            f"{low:.4g} to {high:.4g}, null {self.null}>"
        )

    def _zeros(self, zero: Array, least: float) -> Estimate:
        """Count zeros; those that structure demands are taken as all of them if they may be."""
        rule = self._rule
        value, spread = map(float, rule.mean(zero))
        if rule.exact:
            return Estimate(round(value), products=self.products)
        last, following = map(float, rule.slack(rule.nodes <= 0))
        low = value - spread - last
        high = value + spread + following
        if not self._psd:  # from below they may be uncertain as well
            last, following = map(float, rule.slack(rule.nodes < 0))
            low -= following
            high += last
        low = max(low, least)
        high = max(high, least)
        settled = settled_zeros(rule, zero, least)
        if low == least > 0 and settled is not None:
            self._rule = settled
            self._doubt = high - least
            value = least
        return Estimate(max(value, least), low, high, products=self.products, how=self.how)

    def _axis(self, nodes: Array) -> Array:
        if not self.log:
            return nodes
        return np.log10(np.maximum(nodes, np.finfo(np.float64).tiny))

    def _default_width(self, real: Array, steps: int) -> float:
        """Two nodes' worth of the range that holds all but 2 % of the nonzero eigenvalues."""
        if not real.any():
            return 1.0
        places = self._axis(self._rule.nodes[real])
        order = np.argsort(places)
        share = np.cumsum(self._rule.weights[real][order])
        low, high = np.interp([0.01, 0.99], share / share[-1], places[order])
        smallest = 0.05 if self.log else 1e-3 * max(abs(low), abs(high))
        return max(float(2 * (high - low) / steps), smallest)

    def _unresolved(self, grid: Array) -> Array:
        """What two neighbouring nodes that lie further apart than the width leave open."""
        rule = self._rule
        each, last, following = rule.neighbours(rule.nodes[..., None] <= grid)
        ends = ((0, 0), (-np.inf, np.inf))
        places = np.pad(self._axis(rule.nodes), ((0, 0), (1, 1)), constant_values=ends)
        gap = (places[each, following] - places[each, last]) / self.width
        loose = rule.loose()
        weight = loose[each, last] + loose[each, following]
        if self._psd and not self.log:  # below zero there is only the tail of what is above
            weight = weight * np.exp(-0.5 * (np.minimum(grid, 0.0) / self.width) ** 2)
        return (np.clip(gap / 2 - 1, 0.0, 1.0) * weight).mean(axis=0)


@keywords
def density(
    op: Data,
    *,
    probes: int = 10,
    steps: int = 100,
    rng: Seed = 0,
    seed: Seed = 0,
    log: bool = False,
    width: float | None = None,
    how: str | None = None,
    progress: bool = False,
) -> Density:
    r"""The density of the eigenvalues of a symmetric operator.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    probes, steps, rng, seed
        As in :func:`quadrature`; of no effect on an exact spectrum.
    log : bool, default False
        A density per unit of log₁₀ λ, with Gaussians in log₁₀ λ; for PSD operators.
    width : float, optional
        Standard deviation of the Gaussians: of λ, or in decades.  By default 2/steps of the range
        that holds all but 2 % of the nonzero eigenvalues, at least 1e-3 of where that ends or
        0.05 decades; more steps show more.
    how : {None, "exact", "estimate"}
        As in :func:`logdet`.
    progress : bool, default False
        Count the products on standard error.

    Returns
    -------
    Density
        A function of the eigenvalue, with its error bars.

    See Also
    --------
    opflow.spectral.quadrature : The Gauss rules of the estimate.
    opflow.spectral.eigsh : A few eigenvalues, exactly.
    opflow.plot.density : Draws the density.
    opflow.observe.Spectrum : The density along a run.

    Notes
    -----
    With rules :math:`(\theta_{ij}, w_{ij})` of squared norm n [1]_,

    .. math:: \rho(x) = \frac{1}{n\,k} \sum_{i=1}^{k} \sum_j w_{ij}\,
              \mathcal N(x;\, \theta_{ij}, \sigma^2),

    the sum over nodes that exceed √n·ε·λ_max, some rounding errors of a product, in absolute
    value (or twice what the negative ones of a PSD operator show rounding to be).  The others
    are the null mass.  Where structure demands as many null eigenvalues as the probes see
    (a Gram with fewer columns than rows), their number is taken for exact.

    The band of the density holds the broadened one: probes and finite steps.  That of the
    cumulative density holds the true one, by the inequalities of Chebyshev, Markov and
    Stieltjes.  Costs what :func:`quadrature` does.

    References
    ----------
    .. [1] L. Lin, Y. Saad, C. Yang, "Approximating spectral densities of large matrices", SIAM
       Review 58, 2016.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rho = of.spectral.density(of.Gram(np.ones((5, 2))))
    >>> rho.null, rho.support[1].__round__(9)
    (4 (exact, 0 products), 10.0)
    """
    op = symmetric_operator(op)
    check_integer(probes, "probes", 2)
    check_integer(steps, "steps", 1)
    if width is not None and not 0 < width < np.inf:
        raise ValueError(f"width must be positive and finite, not {width!r}")
    rule = choose_rule(op, how, probes, steps, rng)
    if log:
        check_psd(op, rule.nodes, "op on a log axis")
    return Density(rule, rank=rank_bound(op), psd=op.psd, log=log, width=width, steps=steps)
