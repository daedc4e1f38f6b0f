"""Norms and other numbers of a symmetric operator: exact where that is cheap, else with bounds."""

from __future__ import annotations

import math

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Data, check_integer
from opflow.operators.operator import Operator
from opflow.spectral.blocks import Normalised, distribution_of, gaussian, rounding_of
from opflow.spectral.checks import Estimate, check_shift, not_converged, symmetric_operator
from opflow.spectral.density.quadrature import quadrature_cost
from opflow.spectral.krylov.lanczos import extremes
from opflow.spectral.traces.estimators import xnystrace
from opflow.spectral.traces.exact import Spectrum, dense_spectrum, rank_bound, use_lapack
from opflow.spectral.traces.structure import entries_norm, use_diagonal
from opflow.spectral.traces.trace import MIN_PRODUCTS, PRODUCTS, trace

#: Widest interval of a converged Lanczos estimate, relative to its upper end.
INTERVAL_WIDTH = 0.1


@keywords
def frobenius_norm(
    op: Data, *, products: int = PRODUCTS, rng: Seed = 0, seed: Seed = 0
) -> Estimate:
    r"""The Frobenius norm of a symmetric operator.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
    products : int, default 60
        To spend on an estimate, from 30.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random vectors come from.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.norm : The spectral norm.
    opflow.spectral.participation_ratio : The participation ratio, from this norm.

    Notes
    -----
    Exact for n <= 1024; for sparse matrices; for Grams of a dense factor F of width p < n, as
    :math:`\|F^T F\|_F`, 2·n·p² flops; and from all entries, formed tile by tile, where by the
    cost model that takes no longer than the products: for a kernel A∘D of widths p and q, whose
    entries cost n²·(p + q) flops and whose products 4·n·p·q, up to some
    ``n = 4·products·p·q / (p + q)``.  Else
    :func:`opflow.spectral.traces.estimators.xnystrace` of op², two products a sample; the square
    decays fast, and so does its error.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.frobenius_norm(of.Gram(np.array([[1.0, 0.0], [0.0, 2.0]])))
    4.12311 (exact, 0 products)
    """
    op = symmetric_operator(op)
    check_integer(products, "products", 2 * MIN_PRODUCTS)
    exact = entries_norm(op, products)
    if exact is not None:
        return Estimate(exact[0], products=exact[1])
    omega = gaussian(op, products // 2, rng)
    once = Normalised(op)
    square = xnystrace(lambda X: once(once(X)), omega, space=op.space)
    square.products *= 2
    return square.mapped(lambda x: once.unit * math.sqrt(max(x, 0.0)))


@keywords
def norm(op: Data, *, products: int = 40, rng: Seed = 0, seed: Seed = 0) -> Estimate:
    r"""The spectral norm, the largest absolute value of an eigenvalue, between two bounds.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
    products : int, default 40
        Steps of Lanczos, from 2; n numbers are held for each.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random start comes from.

    Returns
    -------
    Estimate
        `low` holds for certain, to rounding; `high` with a probability of 95 %.

    Warns
    -----
    ConvergenceWarning
        If the interval is wider than a tenth of its upper end; ``how`` then ends in ``"not
        converged"``.

    See Also
    --------
    opflow.spectral.largest_eigenvalue : The largest eigenvalue, roughly.
    opflow.spectral.frobenius_norm : The Frobenius norm.
    opflow.spectral.condition_number : The condition number.

    Notes
    -----
    Exact by LAPACK where that takes no longer, for n <= 1024 at least.  Else the value and `low`
    are the largest Ritz value θ.  That an eigenvalue lies within the residual of θ bounds nothing
    from above: it may be another one.  What does is that the next Lanczos vector is
    :math:`p(A) v` with the monic characteristic polynomial of T over :math:`\prod \beta`, and has
    norm 1: so :math:`|p(\lambda_{max})| \le 1 / |u^T v|`, and for a random start v the component
    along the eigenvector u is below :math:`\delta` with probability 5 % only,
    :math:`\delta^2` being that quantile of Beta(1/2, (n−1)/2) [1]_.  Beyond θ, p grows without
    bound, and the bound is where it reaches :math:`1/\delta`.  For PSD operators it is capped by
    the trace, and always by the Frobenius norm, where these are exact for less than the products.

    References
    ----------
    .. [1] J. L. M. van Dorsselaer, M. E. Hochstenbach, H. A. van der Vorst, "Computing
       probabilistic bounds for extreme eigenvalues of symmetric matrices with the Lanczos method",
       SIAM J. Matrix Anal. Appl. 22, 2000.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.norm(of.Gram(np.diag([1.0, 3.0])))
    9 (exact, 0 products)
    """
    op = symmetric_operator(op)
    check_integer(products, "products", 2)
    spectrum = spectrum_by_lapack(op, products)
    if spectrum is not None:
        return Estimate(float(np.abs(spectrum.all()).max()), products=spectrum.products)
    ends = extremes(op, products, rng, both=not op.psd)
    spent = ends.products
    low = max(ends.top, -ends.bottom)
    high = max(ends.ceiling, -ends.floor)
    if op.psd and use_diagonal(op, products):
        total = trace(op, how="exact")
        high = min(high, float(total))
        spent += total.products
    frobenius = entries_norm(op, products)
    if frobenius is not None:
        high = min(high, frobenius[0])
        spent += frobenius[1]
    return lanczos_estimate(low, low, max(low, high), spent)


@keywords
def condition_number(
    op: Data, shift: float = 0.0, *, products: int = 100, rng: Seed = 0, seed: Seed = 0
) -> Estimate:
    r"""The condition number of ``op + shift·I``.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Known to be PSD if the number is estimated.
    shift : float, default 0
    products, rng, seed
        As for :func:`norm`, which says when it warns.

    Returns
    -------
    Estimate
        `low` holds to rounding; `high` is certain if all eigenvalues were computed, else holds with
        a probability of 95 %, and is ∞ where nothing keeps the smallest eigenvalue off zero.  The
        value is `low`, but `high` if the smallest eigenvalue is zero to rounding, below ``√n·ε``
        times the largest.  That is exact only where structure proves it zero.

    See Also
    --------
    opflow.spectral.norm : The largest absolute value of an eigenvalue.
    opflow.spectral.solve : Linear systems, whose cost depends on it.

    Notes
    -----
    :math:`(\lambda_{max} + \lambda) / (\lambda_{min} + \lambda)`, or the extreme absolute values
    of an indefinite op.  Exact by LAPACK as :func:`norm`; else by its bounds at both ends, and
    with :math:`\lambda_{min} = 0` where a Gram is narrower than n.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> G = of.Gram(np.diag([1.0, 3.0]))
    >>> float(of.spectral.condition_number(G)), float(of.spectral.condition_number(G, 1.0))
    (9.0, 5.0)
    """
    op = symmetric_operator(op)
    shift = check_shift(shift)
    check_integer(products, "products", 2)
    singular = rank_bound(op) < op.shape[0]  # known without a product
    if singular and shift == 0:
        return Estimate(math.inf)
    spectrum = spectrum_by_lapack(op, products)
    floor = 0.0
    if spectrum is not None:
        values = spectrum.all()
        if op.psd:
            values = np.maximum(values, 0.0)
            floor = shift
        sizes = np.abs(values + shift)
        bottom = float(sizes.min())
        top = ceiling = float(sizes.max())
        spent = spectrum.products
    elif op.psd:
        ends = extremes(op, products, rng, both=True)
        bottom, floor, top, ceiling = (max(x, 0.0) + shift for x in ends[:4])
        spent = ends.products
    else:
        raise ValueError(
            f"op of order {op.shape[0]} must be known to be PSD for an estimate from {products} "
            "products; with more of them all eigenvalues may be computed"
        )
    rounding = rounding_of(op) * top
    if singular and op.psd:
        bottom = floor = shift
        rounding = 0.0
    if top == 0:
        return Estimate(math.inf, products=spent)
    known = bottom > rounding
    if known and spectrum is not None:
        return Estimate(top / bottom, products=spent)
    low = top / max(bottom, rounding)
    high = math.inf
    if floor > 0:
        high = max(low, ceiling / floor)
    if spectrum is not None:
        return Estimate(high, low, high, products=spent, how="LAPACK")
    return lanczos_estimate(low if known else high, low, high, spent)


@keywords
def participation_ratio(
    op: Data, *, products: int = PRODUCTS, rng: Seed = 0, seed: Seed = 0
) -> Estimate:
    r"""The participation ratio of the eigenvalues: n if all are equal, 1 if one dominates.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
    products : int, default 60
        To spend on an estimate of either factor, from 30.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random vectors come from.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.effective_rank : The entropy of the spectrum instead.
    opflow.spectral.effective_dimension : The degrees of freedom at a ridge.

    Notes
    -----
    :math:`(\mathrm{tr}\, A)^2 / \|A\|_F^2`, 0 for the zero operator, from :func:`trace` and
    :func:`frobenius_norm`; the interval combines the ends of both.

    Examples
    --------
    >>> import opflow as of
    >>> round(float(of.spectral.participation_ratio(of.Identity(7))), 9)
    7.0
    """
    op = symmetric_operator(op)
    rng = distribution_of(op).generator(rng)
    size = frobenius_norm(op, products=products, rng=rng)
    total = trace(op, products=products, rng=rng)
    spent = size.products + total.products
    if size == 0:
        return Estimate(0.0, products=spent)
    least = max(total.low, -total.high, 0.0)
    most = max(-total.low, total.high)
    low = (least / size.high) ** 2
    high = math.inf
    if size.low > 0:
        high = (most / size.low) ** 2
    how = size.how if total.exact else total.how
    return Estimate((total / size) ** 2, low, high, products=spent, how=how)


def spectrum_by_lapack(op: Operator, products: int) -> Spectrum | None:
    """The whole spectrum, where it takes no longer than `products` steps of Lanczos."""
    if op.space.sharded or not use_lapack(op, quadrature_cost(op, 1, products)):
        return None
    return dense_spectrum(op)


def lanczos_estimate(
    value: float, low: float, high: float, products: int, size: float = 0.0
) -> Estimate:
    """An estimate, with a warning if its interval is too wide for `size` (`high` by default)."""
    how = "Lanczos"
    if not high - low <= INTERVAL_WIDTH * (size or high) < math.inf:
        how += ", not converged"
        not_converged(
            f"{how} after {products} products: the value is between {low:.4g} and {high:.4g}; "
            "increase products",
            stacklevel=4,
        )
    return Estimate(value, low, high, products=products, how=how)
