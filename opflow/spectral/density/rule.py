"""Gauss rules of a spectrum, one for each of several random vectors: traces with error bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import t as student

from opflow.machine.arrays import Array
from opflow.spectral.blocks import divisor
from opflow.spectral.checks import Estimate, not_converged


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

    See Also
    --------
    opflow.spectral.quadrature : Computes it.
    opflow.spectral.Density : The density that it gives.

    Notes
    -----
    A simple or few-fold eigenvalue that has converged shows in every probe, with Ritz vectors
    that span a space of fewer dimensions than there are probes: its eigenspace, found for no
    further product.  It gets its multiplicity as weight, and the rest of each row is scaled to
    what is left: the exact law of a random vector on the complement.  That takes away the few
    large eigenvalues that would make the error bars of a kernel wide and skewed.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rule = of.spectral.quadrature(of.Gram(np.diag([1.0, 2.0])), probes=2)
    >>> rule.nodes.shape, rule.weights.sum(axis=1).round(9)
    ((2, 2), array([2., 2.]))
    """

    nodes: Array
    weights: Array
    products: int
    pinned: Array
    settled: Array
    level: float
    #: weights before anything was pinned
    _plain: Array = field(repr=False)
    #: nodes and weights of the rule of fewer steps, for the error of this one
    _coarse: tuple[Array, Array] = field(repr=False)
    #: nodes and weights of the Gauss–Radau rule with a node at zero, of a PSD operator
    _radau: tuple[Array, Array] | None = field(default=None, repr=False)

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
    def trace(self, f: Callable[[Array], Array], *, how: str = "Lanczos quadrature") -> Estimate:
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
            not_converged(
                f"{how} after {self.nodes.shape[1]} steps: these leave an error of {bias:.2g}, "
                f"the random vectors one of {spread:.2g}; increase steps",
                stacklevel=2,
            )
        return Estimate(mean, mean - half, mean + half, products=self.products, how=how)

    def _from_zero(self, f: Callable[[Array], Array], values: Array) -> float:
        """The difference to the Gauss–Radau rules with a node at zero, where f allows them."""
        nodes, weights = self._radau or self._coarse
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(weights > 0, f(nodes), 0.0)
        if not np.isfinite(terms).all():
            return 0.0
        return abs(float((total(self._plain, values) - total(weights, terms)).mean()))

    @np.errstate(under="ignore")
    def rounded(self, f: Callable[[Array], Array]) -> tuple[float, float, float, float]:
        """tr f of eigenvalues that are all known, and what rounding of the operator leaves open.

        Also the trace of abs(f), and the rounding relative to the largest eigenvalue.  An error E
        of the operator, of norm ε‖op‖, moves the trace by tr f'(op) E, at most the product of both
        Frobenius norms; where f bends within the rounding of zero, by all that f changes there.
        Zeros of the structure are certain.
        """
        nodes = np.maximum(self.nodes, 0.0)
        top = np.abs(nodes).max() or 1.0
        values = f(nodes)

        def trace(terms: Array) -> float:
            return float(total(self.weights, terms).mean())

        def moved_by(shift: float) -> Array:
            return np.where(self.nodes == 0, 0.0, np.abs(f(nodes + shift) - values))

        error = self.level / self.order**0.5 * trace(nodes**2) ** 0.5 / top
        moved = moved_by(error)
        most = moved_by(self.level)
        bent = (nodes <= self.level) & (most * error < 0.5 * moved * self.level)
        doubt = trace(moved**2) ** 0.5 + trace(bent * most)
        return trace(values), doubt, trace(abs(values)), self.level / top

    @np.errstate(under="ignore")  # what weighs nothing, or f there, counts for nothing
    def integrate(self, f: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        """tr f, the 95 % half-width that the random vectors leave it, and what the steps do.

        `f` maps eigenvalues (probes, m) to values (probes, m, …); the results have shape (…).
        """
        values = np.asarray(f(self.nodes), dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"f is not finite on all of {self.nodes.min()} to {self.nodes.max()}")
        nodes, weights = self._coarse
        coarse = total(weights, np.asarray(f(nodes), dtype=np.float64))
        bias = 2 * np.abs((total(self._plain, values) - coarse).mean(axis=0))
        return *self.mean(values), bias

    def mean(self, values: Array) -> tuple[Array, Array]:
        """The mean over the probes of sums of values (probes, m, …), and its 95 % half-width."""
        values = np.asarray(values, dtype=np.float64)
        probes = len(self.nodes)
        rows = total(self.weights, values)
        free = np.where(self.pinned, 0.0, self.weights)
        d = float(free[0].sum())
        first = total(free, values).mean(axis=0)
        second = total(free, values**2).mean(axis=0)
        theory = 2 * d / (d + 2) * np.maximum(second - first**2 / max(d, 1.0), 0.0)
        freedom = max(probes - 1, 1)
        variance = np.maximum(rows.var(axis=0) * (probes / freedom), theory) / probes
        return rows.mean(axis=0), student.ppf(0.975, freedom) * np.sqrt(variance)

    def slack(self, below: Array) -> tuple[Array, Array]:
        """The weights of the last node `below` and the first that is not, where they are unsure.

        Chebyshev, Markov and Stieltjes: of its measure up to a point, a Gauss rule knows all but
        the weights of the nodes next to it; those that have settled are known too.
        """
        each, last, following = self.neighbours(below)
        loose = self.loose()
        return loose[each, last].mean(axis=0), loose[each, following].mean(axis=0)

    def loose(self) -> Array:
        """Weights of the nodes that have not settled, with a zero at either end."""
        return np.pad(np.where(self.settled, 0.0, self.weights), ((0, 0), (1, 1)))

    def neighbours(self, below: Array) -> tuple[Array, Array, Array]:
        """Probes, their last nodes `below`, the first that are not: counted from 1, 0 for none."""
        m = below.shape[1]
        index = np.arange(1, m + 1)
        real = self.weights > 0  # copies have no weight: pass over them
        before = np.maximum.accumulate(np.where(real, index, 0), axis=1)
        after = np.minimum.accumulate(np.where(real, index, m + 1)[:, ::-1], axis=1)[:, ::-1]
        before = np.pad(before, ((0, 0), (1, 0)))  # of the first c nodes
        after = np.pad(after, ((0, 0), (0, 1)), constant_values=m + 1)  # of those from the c-th on
        count = below.sum(axis=1)
        each = np.arange(len(real)).reshape(-1, *(1,) * (count.ndim - 1))
        return each, before[each, count], after[each, count]


def total(weights: Array, values: Array) -> Array:
    """Sums over nodes, (probes, …), of weights (probes, m) and values (probes, m, …)."""
    return np.einsum("km,km...->k...", weights, values)


def with_zeros(rule: Quadrature, count: int) -> Quadrature:
    """The rule of a spectrum that has so many zeros more, known for certain."""
    if not count:
        return rule

    def padded(values: Array, fill: float) -> Array:
        return np.pad(values, ((0, 0), (1, 0)), constant_values=fill)

    def both(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        return padded(pair[0], 0.0), padded(pair[1], count)

    # rounding has made some negative
    order = np.argsort(padded(rule.nodes, 0.0), axis=1, kind="stable")

    def with_zero(values: Array, fill: float) -> Array:
        return np.take_along_axis(padded(values, fill), order, axis=1)

    return replace(
        rule,
        nodes=with_zero(rule.nodes, 0.0),
        weights=with_zero(rule.weights, count),
        pinned=with_zero(rule.pinned, True),
        settled=with_zero(rule.settled, True),
        _plain=with_zero(rule._plain, count),
        _coarse=both(rule._coarse),
        _radau=rule._radau and both(rule._radau),
    )


def settled_zeros(rule: Quadrature, zero: Array, count: float) -> Quadrature | None:
    """The rule whose nodes that are `zero` have the weight `count` in all, if there is one."""

    def weight(part: Array) -> Array:
        return np.where(part, rule.weights, 0.0).sum(axis=1, keepdims=True)

    own = weight(zero)
    free = weight(~zero & ~rule.pinned)
    left = rule.order - count - weight(~zero & rule.pinned)
    if own.min() <= 0 or left.min() < 0 or (free <= 0).any() != (left <= 0).any():
        return None
    scale = np.where(rule.pinned, 1.0, left / divisor(free))
    weights = rule.weights * np.where(zero, count / own, scale)
    return replace(rule, weights=weights, pinned=rule.pinned | zero)
