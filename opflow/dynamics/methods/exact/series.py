"""Taylor series of an exact run between gate events; sliding pre-activations are held at zero.

Inside an activation region the weights obey a polynomial equation, so every order of their series
follows from those before by Cauchy products; with one hidden layer the equation is linear, and
the series is that of the exponential.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy import linalg, sparse

from opflow.dynamics.methods.exact.distinct import Distinct
from opflow.machine.arrays import Array

#: gates: closed, open, or in between, so that the pre-activation stays at zero
CLOSED, OPEN, SLIDES = 0, 1, 2
#: inputs of a layer below this part of the largest count as zero
DEAD = 1e-13
#: orders of a series at most
ORDERS = 32
#: a term, relative to the first, beyond which no further one is needed
HUGE = 1e100


class Series:
    r"""Taylor coefficients of weights, pre-activations and forces at a point in time.

    Parameters
    ----------
    run : Distinct
    weights : list of arrays (n_ℓ, n_{ℓ-1} or one more)
        Of all layers, the readout last.
    gates : int array (N, Σn_ℓ)
        `CLOSED`, `OPEN` or `SLIDES`.
    unit : float
        The time that counts as 1: of the order of a step, so that no coefficient overflows.

    Notes
    -----
    With p^ℓ = s ∘ g^ℓ the force on h^ℓ, ``dW^ℓ/dt = −η_ℓ p^{ℓT} a^{ℓ-1}``.  On a sliding pair p is
    not s ∘ g but what keeps dh/dt = 0.  With B the derivatives of the sliding h by the weights,
    blocked at lower sliding pairs, these forces u solve ``B η Bᵀ u = B Ẇ``, Ẇ the velocity for
    u = 0: it is projected onto the weights for which they stay zero.  With one hidden layer that is
    the Schur complement ``G_AA − G_AS G_SS⁻¹ G_SA`` in the kernel of a unit.
    """

    #: what drives each unit at the start: its force where its gate is open
    drives: Array

    def __init__(self, run: Distinct, weights: Sequence[Array], gates: Array, unit: float) -> None:
        self.run = run
        self.rates = [unit * rate for rate in run.rates]
        closed = np.where(gates == CLOSED, run.slopes, 0.0)
        #: s of each gate
        self.slopes = np.where(gates == OPEN, 1.0, closed)
        #: samples and columns of the sliding pairs
        self.sliding = np.nonzero(gates == SLIDES)
        n = len(gates)
        #: the order first: inputs and weights that stay have order 0 alone
        self.weights: list[Array] = [
            np.stack([W] * (3 if rate else 1)) for W, rate in zip(weights, run.rates, strict=True)
        ]
        self.inputs: list[Array] = [run.inputs[None]]
        self.inputs += [np.empty((3, n, W.shape[1])) for W in weights[1:]]
        self.forces: list[Array] = [np.empty((3, n, len(W))) for W in weights]
        self.hidden: Array = np.empty((3, *gates.shape))
        self.residuals: list[Array] = []
        #: by order, the forces on sliding pairs, and what they would be with open gates
        self.held: list[Array] = []
        self.driven: list[Array] = []
        #: that of weights and pre-activations; forces and residuals have one less
        self.order = 0
        self._forward(0)

    @cached_property
    def _bound(self) -> _Bound:
        return _Bound(self)

    def _forward(self, order: int) -> None:
        """Pre-activations and activations of all layers at an order, from the weights."""
        for i, cut in enumerate(self.run.cuts):
            h = cauchy(self.inputs[i], self.weights[i], order, (1, 1))
            self.hidden[order, :, cut] = h
            a = self.inputs[i + 1][order]
            width = h.shape[1]
            a[:, width:] = order == 0
            np.multiply(self.slopes[:, cut], h, out=a[:, :width])

    def grow(self) -> None:
        """One order more."""
        order = self.order
        if order + 2 > len(self.hidden):
            self.hidden = _doubled(self.hidden)
            for known in (self.weights, self.inputs, self.forces):
                known[:] = map(_doubled, known)
        f = cauchy(self.inputs[-1], self.weights[-1], order, (1, 1))
        self.residuals.append(self.run.residual(f, order == 0))
        self.forces[-1][order] = self.run.force(self.residuals[-1])
        drives = np.empty_like(self.slopes)
        for i, cut in reversed(list(enumerate(self.run.cuts))):
            force = self.forces[i][order]
            above = self.weights[i + 1][:, :, : force.shape[1]]
            drives[:, cut] = cauchy(self.forces[i + 1], above, order, (1, 0))
            np.multiply(self.slopes[:, cut], drives[:, cut], out=force)
        for i, rate in enumerate(self.rates):
            if rate:
                step = cauchy(self.forces[i], self.inputs[i], order, (0, 0))
                np.multiply(-rate / (order + 1), step, out=self.weights[i][order + 1])
        if self.sliding[0].size:
            self._hold(drives)
        if not order:
            self.drives = drives
        self._forward(order + 1)
        self.order += 1

    def _hold(self, drives: Array) -> None:
        """Add the forces that keep sliding pairs at zero, at this order."""
        order = self.order
        bound = self._bound
        ahead = [W[order + 1 : order + 2] for W in self.weights]  # none of weights that stay
        u = (order + 1) * bound.remove(self._ahead(order + 1), ahead)
        pull = bound.spread @ (bound.conjugates * u[:, None])
        for force, cut in zip(self.forces, self.run.cuts, strict=False):
            force[order] += pull[:, cut]
        if len(self.run.cuts) > 1:  # lower layers
            drives += bound.spread @ (bound.drives * u[:, None])
        self.held.append(u)
        self.driven.append(drives[self.sliding])

    def _ahead(self, order: int) -> Array:
        """The sliding pre-activations at an order, from weights that do not hold them yet."""
        samples, columns = self.sliding
        if len(self.run.cuts) == 1:  # those of no other pair are needed
            W = self.weights[0][order]
            return np.einsum("sd,sd->s", self.run.inputs[samples], W[columns])
        self._forward(order)
        return self.hidden[order][self.sliding]

    @cached_property
    def dead(self) -> Array:
        """By layer and sample, whether all that the layer reads is zero and stays so."""
        dead = (self.run.inputs == 0).all(axis=1)
        found = [dead]
        for i, cut in enumerate(self.run.cuts[:-1]):
            stays = self.slopes[:, cut] == 0
            if not self.run.biased[i]:
                stays |= dead[:, None]
            a = abs(self.inputs[i + 1][0][:, : stays.shape[1]])
            dead = (stays & (a <= DEAD * a.max())).all(axis=1)
            found.append(dead)
        return np.array(found)

    @cached_property
    def tied(self) -> Array:
        """The number of the first pair, by sample, that has the same pre-activation at any time.

        All samples on which a layer is dead are one from there on.
        """
        own = np.arange(self.slopes.size).reshape(self.slopes.shape)
        tied = own.copy()
        for dead, cut in zip(self.dead[1:], self.run.cuts[1:], strict=True):
            tied[dead, cut.start :] = own[dead.argmax(), cut.start :]
        return tied

    def margins(self) -> Array:
        """Series of how far the gates of sliding pairs are from open and closed, (2, orders, S).

        They are times what drives the pairs, and summed over those that are one.
        """
        found = np.zeros((2, self.order + 1, len(self.sliding[0])))
        one = np.unique(self.tied[self.sliding], return_inverse=True)[1]
        slope = self.run.slopes[self.sliding[1]]
        for order, (u, g) in enumerate(zip(self.held, self.driven, strict=True)):
            for end, margin in enumerate((g - u, u - slope * g)):
                found[end, order] = np.bincount(one, margin)[one]
        return found

    def reach(self, size: float, allowed: float) -> float:
        """Grow for a step of this size, or of what all orders allow; the size.

        `allowed` are the last two terms at the end of the step, relative to the first two.
        """

        def neglected() -> float:
            return max(self.size(order, size) for order in (self.order - 1, self.order))

        while self.order < 2 or (allowed < neglected() < HUGE and self.order < ORDERS):
            self.grow()
        excess = max(neglected() / allowed, 1e-300)
        return size * min(1.0, excess ** (-1 / self.order))

    def size(self, order: int, t: float) -> float:
        """The largest term of an order at t, relative to the first two, over weights and layers."""
        terms = [self.hidden[:, :, cut] for cut in self.run.cuts]
        terms += [W for W in self.weights if len(W) > 1]
        sizes = [[abs(c[j]).max() * t**j for j in (0, 1, order)] for c in terms]
        return max((float(c / max(first)) for *first, c in sizes if any(first)), default=0.0)

    def speed(self) -> float:
        """How fast the terms change, in the unit of time; 1 if nothing moves."""
        while self.order < 2:
            self.grow()
        one = self.size(1, 1.0)
        return max(one, self.size(2, 1.0) / (one or 1.0)) or 1.0

    def moved(self, t: float) -> list[Array]:
        """The weights at a time after the start, without what sliding pairs were off zero there."""
        weights = [polynomial(W[: self.order + 1], t) for W in self.weights]
        if self.sliding[0].size:
            self._bound.remove(self.hidden[0][self.sliding], weights)
        return weights


class _Bound:
    """The derivatives B of the sliding pre-activations by the weights, as factors.

    Row s of B is ``φ_s ⊗ a_s`` in each layer up to its own.
    """

    def __init__(self, series: Series) -> None:
        samples, columns = series.sliding
        count = len(samples)
        self.cuts = series.run.cuts
        self.rates = series.rates
        #: by layer, the inputs of the sliding pairs
        self.inputs = [a[0][samples] for a in series.inputs[:-1]]
        #: their conjugate fields φ (S, Σn_ℓ), and what these drive in the units below
        self.conjugates = np.zeros((count, series.slopes.shape[1]))
        self.conjugates[np.arange(count), columns] = 1.0
        self.drives = np.zeros_like(self.conjugates)
        slopes = series.slopes[samples]
        for i in reversed(range(1, len(self.cuts))):
            below = self.cuts[i - 1]
            phi = self.conjugates[:, self.cuts[i]]
            self.drives[:, below] = phi @ series.weights[i][0][:, : below.stop - below.start]
            self.conjugates[:, below] += self.drives[:, below] * slopes[:, below]
        #: from sliding pairs to samples
        place = (np.ones(count), (samples, np.arange(count)))
        self.spread = sparse.csr_array(place, shape=(len(series.slopes), count))
        self.gram = np.zeros((count, count))
        for rate, cut, a in zip(self.rates, self.cuts, self.inputs, strict=False):
            phi = self.conjugates[:, cut]
            self.gram += rate * (phi @ phi.T) * (a @ a.T)
        # dependent rows ask for one thing, and rows of zeros for nothing: any forces will do
        size = self.gram.diagonal()
        small = 1e-12 * np.where(size > 0, size, 1.0)
        self._factor = linalg.cho_factor(self.gram + np.diag(small), lower=True)

    def remove(self, off: Array, weights: Sequence[Array]) -> Array:
        """Move weights by −η Bᵀu so that the sliding pre-activations move by −`off`; u."""
        u = linalg.cho_solve(self._factor, off)
        u += linalg.cho_solve(self._factor, off - self.gram @ u)
        for rate, W, cut, a in zip(self.rates, weights, self.cuts, self.inputs, strict=False):
            W -= rate * ((self.conjugates[:, cut] * u[:, None]).T @ a)
        return u


def _doubled(c: Array) -> Array:
    """Coefficients with room for twice as many orders above the first."""
    return np.concatenate([c, np.empty_like(c[1:])])


def cauchy(one: Array, two: Array, order: int, axes: tuple[int, int]) -> Array:
    """The coefficient of an order of the product of two series, summed over these axes."""
    low = max(0, order - len(two) + 1)
    high = min(order, len(one) - 1)
    mirrored = two[order - high : order - low + 1][::-1]
    if low == high:
        return np.tensordot(one[low], mirrored[0], (axes[:1], axes[1:]))
    return np.tensordot(one[low : high + 1], mirrored, ((0, axes[0] + 1), (0, axes[1] + 1)))


def polynomial(coefficients: Array, t: float) -> Array:
    """The value of a series at t."""
    total = coefficients[-1].copy()
    for c in coefficients[-2::-1]:
        total *= t
        total += c
    return total
