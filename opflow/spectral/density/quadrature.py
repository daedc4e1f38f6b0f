r"""Stochastic Lanczos quadrature: tr f(op) for any f, from products with random vectors alone.

Lanczos on a random vector v of squared norm n gives a Gauss rule, ``v·f(op)v ≈ Σ wⱼ f(θⱼ)``,
whose mean over v is tr f(op).  All vectors go in lockstep, one block product a step.  What all
of them agree on, isolated eigenvalues, is counted exactly and leaves the statistics.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student

from opflow.interface.keywords import Seed, advance, keywords
from opflow.machine.arrays import check_integer
from opflow.operators.gram import Gram
from opflow.operators.operator import Cost, Operator
from opflow.spectral.checks import (
    ConvergenceWarning,
    Estimate,
    distribution_of,
    gaussian,
    symmetric_operator,
)
from opflow.spectral.density.probes import batched_lanczos, multiplicities, ritz
from opflow.spectral.traces.exact import dense_spectrum, factor, rounding_level, use_lapack


@dataclass(frozen=True)
class Quadrature:
    r"""A Gauss rule of the spectrum for each of several random vectors.

    Attributes
    ----------
    nodes : array (probes, m)
        Ritz values, ascending.
    weights : array (probes, m)
        Not negative; each row sums to n.
    products : int
        Products with one vector that it took.
    pinned : bool array (probes, m)
        Eigenvalues of known multiplicity: their weight is it, exactly.
    settled : bool array (probes, m)
        Nodes that are eigenvalues, of known weight in their probe's measure.
    level : float
        How far rounding moves an eigenvalue.

    Notes
    -----
    A simple or few-fold eigenvalue that has converged shows in every probe, with Ritz vectors
    that span a space of fewer dimensions than there are probes: its eigenspace, found for no
    further product.  It gets its multiplicity as weight, and the rest of each row is scaled to
    what is left: the exact law of a random vector on the complement.  That takes away the few
    large eigenvalues that would make the error bars of a kernel wide and skewed.
    """

    nodes: Any
    weights: Any
    products: int
    pinned: Any
    settled: Any
    level: float
    _plain: Any = field(repr=False)  # weights before anything was pinned
    _coarse: tuple[Any, Any] = field(repr=False)  # nodes and weights of the rule of fewer steps
    _radau: tuple[Any, Any] | None = field(default=None, repr=False)  # and with a node at zero

    def __repr__(self) -> str:
        probes, nodes = self.nodes.shape
        return f"<Quadrature of {probes} probes, {nodes} nodes each, {self.products:,} products>"

    @property
    def exact(self) -> bool:
        """Whether these are all eigenvalues, with their multiplicities."""
        return bool(self.pinned.all())

    @property
    def order(self) -> int:
        """The order n of the operator."""
        return round(float(self.weights[0].sum()))

    @np.errstate(under="ignore")
    def trace(self, f: Callable[[Any], Any], *, how: str = "Lanczos quadrature") -> Estimate:
        """tr f(op), with a 95 % confidence interval.

        Parameters
        ----------
        f : function
            Of an array of eigenvalues, elementwise.  Rounding may bring nodes of a PSD operator
            slightly below zero.
        how : str
            What the estimate calls itself.

        Returns
        -------
        Estimate
            ``how`` ends in ``"not converged"`` if more steps are needed rather than probes.

        Warns
        -----
        ConvergenceWarning
            If the error of the finite number of steps exceeds the statistical one, and one part
            in a thousand of the trace of abs(f).

        Notes
        -----
        Student's t for the number of probes times the standard error, the larger of what the
        probes show and what theory says of random vectors on a sphere in d dimensions,
        ``2d/(d+2)·(tr f² − (tr f)²/d)``.  The finite number of steps adds twice the difference
        to the rule of three quarters of them or, for a PSD operator, the difference to the
        Gauss–Radau rule with a node at zero if that is more: for log(x + λ), x/(x + λ) and the
        like the two rules bound the integral from both sides.  Rounding adds its own.

        Examples
        --------
        >>> import numpy as np, opflow as of
        >>> rule = of.spectral.quadrature(of.Gram(np.diag([1.0, 2.0, 3.0])))
        >>> round(rule.trace(np.sqrt), 10)
        6.0
        """
        mean, spread, bias = (float(part) for part in self.integrate(f))
        values = f(self.nodes)
        if self._radau is not None:
            bias = max(bias, self._from_zero(f, values))
        size = float((self.weights * np.abs(values)).sum(axis=1).mean())
        moved = float((self.weights * np.abs(f(self.nodes + self.level) - values)).sum(1).mean())
        rounding = moved + float(np.finfo(np.float64).eps) * self.nodes.shape[1] * size
        half = spread + bias + rounding
        if bias > max(spread + rounding, 1e-3 * size):
            how += ", not converged"
            warnings.warn(
                f"{how} after {self.nodes.shape[1]} steps: these leave an error of {bias:.2g}, "
                f"the random vectors one of {spread:.2g}; increase steps",
                ConvergenceWarning,
                stacklevel=2,
            )
        return Estimate(mean, mean - half, mean + half, products=self.products, how=how)

    def _from_zero(self, f: Callable[[Any], Any], values: Any) -> float:
        """The difference to the Gauss–Radau rules with a node at zero, where f allows them."""
        nodes, weights = self._radau or self._coarse
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(weights > 0, f(nodes), 0.0)
        if not np.isfinite(terms).all():
            return 0.0
        return abs(float((total(self._plain, values) - total(weights, terms)).mean()))

    @np.errstate(under="ignore")
    def rounded(self, f: Callable[[Any], Any]) -> tuple[float, float, float, float]:
        """tr f of eigenvalues that are all known, and what rounding of the operator leaves open.

        Also the trace of abs(f), and the rounding relative to the largest eigenvalue.  An error E
        of the operator, of norm ε‖op‖, moves the trace by tr f'(op) E, at most the product of both
        Frobenius norms; where f bends within the rounding of zero, by all that f changes there.
        Zeros of the structure are certain.
        """
        nodes = np.maximum(self.nodes, 0.0)
        order = self.order
        norm = float(total(self.weights, nodes**2).mean()) ** 0.5
        error = self.level / order**0.5 * norm / (np.abs(nodes).max() or 1.0)
        values = f(nodes)
        moved, most = (
            np.where(self.nodes == 0, 0.0, np.abs(f(nodes + by) - values))
            for by in (error, self.level)
        )
        bent = (nodes <= self.level) & (most * error < 0.5 * moved * self.level)
        value, square, bend, size = (
            float(total(self.weights, part).mean())
            for part in (values, moved**2, bent * most, abs(values))
        )
        relative = self.level / (np.abs(nodes).max() or 1.0)
        return value, square**0.5 + bend, size, relative

    @np.errstate(under="ignore")  # what weighs nothing, or f there, counts for nothing
    def integrate(self, f: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
        """tr f, the 95 % half-width that the random vectors leave it, and what the steps do.

        `f` maps eigenvalues (probes, m) to values (probes, m, …); the results have shape (…).
        """
        values = np.asarray(f(self.nodes), dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"f is not finite on all of {self.nodes.min()} to {self.nodes.max()}")
        probes = len(self.nodes)
        rows = total(self.weights, values)
        free = np.where(self.pinned, 0.0, self.weights)
        d = float(free[0].sum())
        first, second = total(free, values).mean(axis=0), total(free, values**2).mean(axis=0)
        theory = 2 * d / (d + 2) * np.maximum(second - first**2 / max(d, 1.0), 0.0)
        freedom = max(probes - 1, 1)
        variance = np.maximum(rows.var(axis=0) * (probes / freedom), theory) / probes
        spread = student.ppf(0.975, freedom) * np.sqrt(variance)
        nodes, weights = self._coarse
        coarse = total(weights, np.asarray(f(nodes), dtype=np.float64))
        bias = 2 * np.abs((total(self._plain, values) - coarse).mean(axis=0))
        return rows.mean(axis=0), spread, bias


def total(weights: Any, values: Any) -> Any:
    """Sums over nodes, (probes, …), of weights (probes, m) and values (probes, m, …)."""
    return np.einsum("km,km...->k...", weights, values)


@keywords
def quadrature(
    op: Any,
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
    reorthogonalise : bool, default True
        Hold all probes·steps·n numbers of the bases.  ``False`` holds three vectors a probe:
        converged eigenvalues then come several times, as ghosts that share the weight of one, so
        sums over the rule are right, but nothing can be pinned: intervals of functions that live
        on a few eigenvalues are wide and skewed.

    Returns
    -------
    Quadrature

    Notes
    -----
    A rule of m steps is exact for polynomials of degree 2m − 1 on its own vector, which is
    uniform on the sphere of squared radius n.  Costs `steps` products with blocks of `probes`
    vectors, 8·n·probes·steps²/2 flops for the bases and 2·n·(probes·steps)² to compare them.
    """
    op = symmetric_operator(op)
    check_integer(probes, "probes", 2)
    check_integer(steps, "steps", 1)
    n = op.shape[0]
    advance(0, "quadrature", probes * min(steps, n))
    alpha, beta, basis, products = batched_lanczos(
        op, gaussian(op, probes, rng), steps, reorthogonalise
    )
    eps = float(np.finfo(op.dtype).eps)
    nodes, vectors = ritz(alpha, beta, eps)
    plain = n * vectors[:, 0] ** 2
    m = alpha.shape[1]
    # a rule of fewer steps, for the error of this one; the same one if the space is invariant
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
    if basis is not None:
        count = multiplicities(nodes, vectors, residual, basis, op)
    free = np.where(count > 0, 0.0, plain)
    sums, left = free.sum(axis=1, keepdims=True), n - count[0].sum()
    weights = count + free * (left / np.maximum(sums, np.finfo(np.float64).tiny))
    return Quadrature(
        nodes,
        weights,
        products,
        count > 0,
        settled,
        level,
        plain,
        (coarse_nodes, n * coarse[:, 0] ** 2),
        radau,
    )


def quadrature_cost(op: Operator, probes: int, steps: int) -> Cost:
    """What :func:`quadrature` takes: its products, the bases, and comparing them."""
    vectors = float(probes) * min(steps, op.shape[0])
    work = 4.0 * op.shape[0] * vectors * (steps + vectors)
    return op.cost(probes).times(steps) + Cost(work, 0.0)


def exact_rule(op: Operator) -> Quadrature:
    """The whole spectrum by LAPACK as a rule of one row without error."""
    found = dense_spectrum(op)
    nodes, weights = found.values[None], np.ones((1, len(found.values)))
    certain, level = np.ones(nodes.shape, dtype=bool), rounding_level(op, found.values)
    rule = Quadrature(
        nodes, weights, found.products, certain, certain, level, weights, (nodes, weights)
    )
    return with_zeros(rule, found.zeros)


def with_zeros(rule: Quadrature, count: int) -> Quadrature:
    """The rule of a spectrum that has so many zeros more, known for certain."""
    if not count:
        return rule

    def padded(values: Any, fill: Any) -> Any:
        return np.pad(values, ((0, 0), (1, 0)), constant_values=fill)

    def both(nodes: Any, weights: Any) -> tuple[Any, Any]:
        return padded(nodes, 0.0), padded(weights, float(count))

    nodes, weights = both(rule.nodes, rule.weights)
    order = np.argsort(nodes, axis=1, kind="stable")  # rounding has made some negative

    def sort(values: Any) -> Any:
        return np.take_along_axis(values, order, axis=1)

    return Quadrature(
        sort(nodes),
        sort(weights),
        rule.products,
        sort(padded(rule.pinned, True)),
        sort(padded(rule.settled, True)),
        rule.level,
        sort(padded(rule._plain, float(count))),
        both(*rule._coarse),
        None if rule._radau is None else both(*rule._radau),
    )


def choose_rule(
    op: Operator,
    how: str | None,
    probes: int,
    steps: int,
    rng: Any,
    *,
    estimate: bool = True,
) -> Any:
    """The exact rule or the estimated one, as `how` says; by default exact where that is no dearer.

    Without `estimate`, ``None`` in the place of the latter.
    """
    if how not in (None, "exact", "estimate"):
        raise ValueError(f"how must be 'exact', 'estimate' or None, not {how!r}")
    price = quadrature_cost(op, probes, steps)
    if how != "estimate" and use_lapack(op, price, asked=how == "exact"):
        return exact_rule(op)
    if not estimate:
        return None
    # the zeros that the structure demands are left out of what is estimated
    F = factor(op)
    zeros = 0 if F is None else max(op.shape[0] - F.shape[1], 0)
    narrow, rng = op if F is None or not zeros else Gram(F.T), distribution_of(op).generator(rng)
    return with_zeros(quadrature(narrow, probes=probes, steps=steps, rng=rng), zeros)
