r"""Stochastic Lanczos quadrature: tr f(op) for any f, from products with random vectors alone.

Lanczos on a random vector v of squared norm n gives a Gauss rule, ``v·f(op)v ≈ Σ wⱼ f(θⱼ)``,
whose mean over v is tr f(op).  All vectors advance together, one block product per step.  Isolated
eigenvalues that every vector finds are counted exactly and removed before averaging.
"""

from __future__ import annotations

import numpy as np

from opflow.interface.keywords import Seed, advance, keywords
from opflow.machine.arrays import Data, check_integer
from opflow.operators.gram import Gram
from opflow.operators.operator import Cost, Operator
from opflow.spectral.blocks import distribution_of, eps_of, gaussian
from opflow.spectral.checks import symmetric_operator
from opflow.spectral.density.probes import batched_lanczos, multiplicities, ritz
from opflow.spectral.density.rule import Quadrature, with_zeros
from opflow.spectral.traces.exact import dense_spectrum, factor, rounding_level, use_lapack


@keywords
def quadrature(
    op: Data,
    *,
    probes: int = 10,
    steps: int = 60,
    rng: Seed = 0,
    seed: Seed = 0,
    reorthogonalise: bool = True,
) -> Quadrature:
    r"""Gauss rules of the spectrum of a symmetric operator, by Lanczos on random vectors.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    probes : int, default 10
        Random vectors, 2 at least; the error falls as 1/√probes.
    steps : int, default 60
        Block products at most; fewer if all Krylov spaces are invariant earlier.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the probes come from.
    reorthogonalise : bool, default True
        Hold all probes·steps·n numbers of the bases.  ``False`` holds three vectors a probe:
        converged eigenvalues then come several times, as ghosts that share the weight of one, so
        sums over the rule are right, but nothing can be pinned: intervals of functions that live
        on a few eigenvalues are wide and skewed.

    Returns
    -------
    Quadrature
        Nodes and weights; its method `trace` integrates a function.

    See Also
    --------
    opflow.spectral.density : The density of the eigenvalues.
    opflow.spectral.logdet : The log-determinant, by the same rules.
    opflow.spectral.trace : The trace of the operator itself.

    Notes
    -----
    Stochastic Lanczos quadrature [1]_.  A rule of m steps is exact for polynomials of degree 2m − 1
    on its own vector, which is uniform on the sphere of squared radius n.  Costs `steps` products
    with blocks of `probes` vectors, 8·n·probes·steps²/2 flops for the bases and 2·n·(probes·steps)²
    to compare them.

    References
    ----------
    .. [1] S. Ubaru, J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
       quadrature", SIAM J. Matrix Anal. Appl. 38, 2017.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rule = of.spectral.quadrature(of.Gram(np.diag([1.0, 2.0, 3.0])))
    >>> rule.order, rule.exact, round(rule.trace(lambda x: x), 10)
    (3, True, 14.0)
    """
    op = symmetric_operator(op)
    check_integer(probes, "probes", 2)
    check_integer(steps, "steps", 1)
    n = op.shape[0]
    advance(0, "quadrature", probes * min(steps, n))
    alpha, beta, basis, products = batched_lanczos(
        op, gaussian(op, probes, rng), steps, reorthogonalise
    )
    eps = eps_of(op)
    nodes, vectors = ritz(alpha, beta, eps)
    plain = n * vectors[:, 0] ** 2
    m = alpha.shape[1]
    # the same rule if the space is invariant
    fewer = m - m // 4 if beta[:, -1].any() else m
    coarse_nodes, coarse = ritz(alpha[:, :fewer], beta[:, :fewer], eps)
    level = rounding_level(op, nodes)
    residual = np.abs(beta[:, -1:] * vectors[:, -1])
    gaps = np.pad(np.diff(nodes), ((0, 0), (1, 1)), constant_values=np.inf)
    settled = residual <= np.maximum(1e-3 * np.minimum(gaps[:, 1:], gaps[:, :-1]), level)
    radau = None
    if op.psd:
        # the last diagonal entry that makes 0 an eigenvalue of the extended matrix
        corner = (residual**2 / np.maximum(nodes, level or 1.0)).sum(axis=1, keepdims=True)
        padded = np.pad(beta, ((0, 0), (0, 1)))
        radau_nodes, radau_vectors = ritz(np.hstack([alpha, corner]), padded, eps)
        radau = (np.maximum(radau_nodes, 0.0), n * radau_vectors[:, 0] ** 2)
    count = np.zeros_like(plain)
    if reorthogonalise:
        count = multiplicities(nodes, vectors, residual, basis, op)
    free = np.where(count > 0, 0.0, plain)
    left = n - count[0].sum()
    sums = np.maximum(free.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return Quadrature(
        nodes=nodes,
        weights=count + free * (left / sums),
        products=products,
        pinned=count > 0,
        settled=settled,
        level=level,
        _plain=plain,
        _coarse=(coarse_nodes, n * coarse[:, 0] ** 2),
        _radau=radau,
    )


def quadrature_cost(op: Operator, probes: int, steps: int) -> Cost:
    """What :func:`quadrature` takes: its products, the bases, and comparing them."""
    vectors = float(probes) * min(steps, op.shape[0])
    work = 4.0 * op.shape[0] * vectors * (steps + vectors)
    return op.cost(probes).times(steps) + Cost(work, 0.0)


def exact_rule(op: Operator) -> Quadrature:
    """The whole spectrum by LAPACK as a rule of one row without error."""
    found = dense_spectrum(op)
    nodes = found.values[None]
    ones = np.ones(nodes.shape)
    known = ones > 0
    level = rounding_level(op, found.values)
    rule = Quadrature(nodes, ones, found.products, known, known, level, ones, (nodes, ones))
    return with_zeros(rule, found.zeros)


def chosen_exact_rule(op: Operator, how: str | None, probes: int, steps: int) -> Quadrature | None:
    """The exact rule if `how` asks for it or, by default, if it is not slower than an estimate."""
    if how not in (None, "exact", "estimate"):
        raise ValueError(f"how must be 'exact', 'estimate' or None, not {how!r}")
    price = quadrature_cost(op, probes, steps)
    if how != "estimate" and use_lapack(op, price, asked=how == "exact"):
        return exact_rule(op)
    return None


def choose_rule(op: Operator, how: str | None, probes: int, steps: int, rng: Seed) -> Quadrature:
    """The exact rule or an estimated one, as `how` says."""
    rule = chosen_exact_rule(op, how, probes, steps)
    if rule is not None:
        return rule
    # the zeros that the structure demands are left out of what is estimated
    rng = distribution_of(op).generator(rng)
    F = factor(op)
    zeros = 0
    if F is not None and F.shape[1] < F.shape[0]:
        zeros = F.shape[0] - F.shape[1]
        op = Gram(F.T)
    return with_zeros(quadrature(op, probes=probes, steps=steps, rng=rng), zeros)
