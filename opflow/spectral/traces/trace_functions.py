r"""Numbers that are traces of a function of the operator: log-determinant, dimensions, rank.

Exact from LAPACK's eigenvalues where that is no dearer than Lanczos quadrature, which else gives an
estimate with a 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data
from opflow.operators.operator import Operator
from opflow.spectral.checks import Estimate, check_psd, check_shift, symmetric_operator
from opflow.spectral.density.quadrature import choose_rule, chosen_exact_rule
from opflow.spectral.density.rule import Quadrature
from opflow.spectral.traces.trace import trace


@keywords
def logdet(
    op: Data,
    shift: float,
    *,
    how: str | None = None,
    probes: int = 10,
    steps: int = 60,
    rng: Seed = 0,
    seed: Seed = 0,
    progress: bool = False,
) -> Estimate:
    r"""The log-determinant of ``op + shift·I``.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        PSD.
    shift : float
        Positive; 0 only where all eigenvalues are computed and none is zero to rounding.
    how : {None, "exact", "estimate"}
        By default exact by LAPACK where, by the cost model, the eigenvalues take no longer than the
        products of an estimate (always where the order, or the width of the factor of a Gram, is at
        most ``checks.DENSE``, 1024) and fit in half of the free memory.
    probes, steps, rng, seed, progress
        As in :func:`quadrature`, and :func:`density`, for the estimate.

    Returns
    -------
    Estimate
        Where all eigenvalues are known but their rounding, √n·ε·λ_max, is not small beside
        `shift`, ``how`` is ``"all eigenvalues"`` and the interval is what rounding leaves open.

    See Also
    --------
    opflow.spectral.quadrature : The estimator.
    opflow.spectral.effective_dimension : The degrees of freedom.
    opflow.spectral.posterior : The marginal likelihood of a Gaussian process.

    Notes
    -----
    :math:`\log\det(K + \lambda I) = \mathrm{tr}\,\log(K + \lambda I) = n \log\lambda +
    \mathrm{tr}\,\log(1 + K/\lambda)`, whose second part is estimated [1]_.  Costs `probes`·`steps`
    products, or min(n, p)³ flops.  Some √(λ_max/shift) steps are needed, and
    :meth:`Quadrature.trace` warns where there are too few.

    References
    ----------
    .. [1] S. Ubaru, J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
       quadrature", SIAM J. Matrix Anal. Appl. 38, 2017.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> value = of.spectral.logdet(of.Gram(np.diag([0.0, 1.0, 2.0])), 1.0)
    >>> round(float(np.exp(value)), 10), value.how
    (10.0, 'exact')
    """
    op = symmetric_operator(op)
    shift = check_shift(shift)
    if shift == 0:
        rule = chosen_exact_rule(op, how, probes, steps)
        if rule is None:
            raise ValueError(
                f"shift must be positive for an op of order {op.shape[0]}: an estimate cannot "
                "prove it nonsingular; how='exact' may"
            )
        check_psd(op, rule.nodes)
        least = float(rule.nodes.min())
        if least <= rule.level:
            raise ValueError(
                f"shift must be positive: op has an eigenvalue of {least:.3g}, zero to rounding"
            )
        return rule_trace(rule, np.log)
    rule = psd_rule(op, how, probes, steps, rng)
    part = rule_trace(rule, lambda x: np.log1p(x / shift))
    return part.mapped(lambda x: op.shape[0] * math.log(shift) + x)


@keywords
def effective_dimension(
    op: Data,
    shift: float,
    *,
    how: str | None = None,
    probes: int = 10,
    steps: int = 60,
    rng: Seed = 0,
    seed: Seed = 0,
    progress: bool = False,
) -> Estimate:
    r"""The effective dimension tr op (op + shift·I)⁻¹: the degrees of freedom of a regression.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        PSD.
    shift : float
        Positive.
    how, probes, steps, rng, seed, progress
        As in :func:`logdet`.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.logdet : The log-determinant.
    opflow.spectral.effective_rank : A rank without a shift.
    opflow.spectral.nystrom : A preconditioner of about twice this rank.

    Notes
    -----
    :math:`\sum_i \lambda_i/(\lambda_i + \lambda)`, from 0 to n.  Costs what :func:`logdet` does.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.effective_dimension(of.Gram(np.diag([0.0, 1.0, 1.0])), 1.0)
    1 (exact, 0 products)
    """
    op = symmetric_operator(op)
    shift = check_shift(shift)
    if shift == 0:
        raise ValueError("shift must be positive: at 0 it would be the rank, n - density(op).null")
    rule = psd_rule(op, how, probes, steps, rng)
    value = rule_trace(rule, lambda x: x / (x + shift))
    return value.mapped(lambda x: min(max(x, 0.0), float(op.shape[0])))


@keywords
def effective_rank(
    op: Data,
    *,
    how: str | None = None,
    probes: int = 10,
    steps: int = 60,
    rng: Seed = 0,
    seed: Seed = 0,
    progress: bool = False,
) -> Estimate:
    r"""The effective rank: the exponential of the entropy of the normalised spectrum.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        PSD, not zero.
    how, probes, steps, rng, seed, progress
        As in :func:`logdet`.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.participation_ratio : The same from second moments.
    opflow.spectral.effective_dimension : The degrees of freedom at a ridge.

    Notes
    -----
    :math:`\exp\bigl(-\sum_i p_i \log p_i\bigr)` with :math:`p_i = \lambda_i/\mathrm{tr}\,op`
    [1]_, from 1 to n.  With the trace from :func:`opflow.spectral.trace`,
    what is estimated is :math:`-\sum_i p_i \log(p_i/\bar p)` with p̄ the mean of p weighted by
    itself: the same up to a constant, and less noisy.  The interval combines the ends of both.
    Costs what :func:`logdet` does, and the trace.

    References
    ----------
    .. [1] O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", 2007.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.effective_rank(of.Gram(np.diag([0.0, 1.0, 1.0])))
    2 (exact, 0 products)
    """
    op = symmetric_operator(op)
    rule = psd_rule(op, how, probes, steps, rng)
    total = rule_trace(rule, lambda x: x) if rule.exact else trace(op, rng=rng)
    if not total > 0:
        raise ValueError(f"op must be PSD and not zero, but its trace is {total:.4g}")
    p = np.maximum(rule.nodes, 0.0) / total
    centre = float((rule.weights * p**2).sum() / (rule.weights * p).sum())

    def entropy(x: Array) -> Array:
        p = x / total
        return -p * np.log(np.where(p > 0, p, centre) / centre)

    def rank(h: float, size: float) -> float:
        q = total / size  # of the trace that p was made with
        return min(max(math.exp(min(q * h, 700.0)) / (q * centre), 1.0), float(op.shape[0]))

    part = rule_trace(rule, entropy, least=1.0)
    if rule.exact:
        return part.mapped(lambda h: rank(h, total))
    sizes = (max(total.low, float(rule.nodes.max())), total.high)  # no eigenvalue exceeds a trace
    ends = [rank(h, size) for h in (part.low, part.high) for size in sizes]
    spent = part.products + total.products
    return Estimate(rank(part, total), min(ends), max(ends), products=spent, how=part.how)


def psd_rule(op: Operator, how: str | None, probes: int, steps: int, rng: Seed) -> Quadrature:
    rule = choose_rule(op, how, probes, steps, rng)
    check_psd(op, rule.nodes)
    return rule


def rule_trace(rule: Quadrature, f: Callable[[Array], Array], least: float = 0.0) -> Estimate:
    """tr f, exact where the nodes are all eigenvalues and f does not tell them from rounding.

    No node is negative for f.  `least` is a value beside which what rounding does counts as small.
    """
    if not rule.exact:
        return rule.trace(lambda x: f(np.maximum(x, 0.0)))
    value, doubt, size, relative = rule.rounded(f)
    if doubt <= relative**0.5 * max(size, least):
        return Estimate(value, products=rule.products)
    low = value - doubt
    return Estimate(value, low, value + doubt, products=rule.products, how="all eigenvalues")
