"""Taylor series in time of a network that descends its loss, while no gate changes.

Inside an activation region the weights obey a polynomial equation, so every order of their series
follows from those before by Cauchy products; with one hidden layer the equation is linear, and
the series is that of the exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse

from opflow.machine.arrays import Array

#: gates: closed, open, or in between, so that the pre-activation stays at zero
CLOSED, OPEN, SLIDES = 0, 1, 2
#: inputs of a layer below this part of the largest count as zero
DEAD = 1e-13
#: orders of a series at most
ORDERS = 32
#: a term, relative to the first, beyond which no further one is needed
HUGE = 1e100


class Flowing(NamedTuple):
    """What does not change along a run: the inputs, and how outputs become forces on them.

    A layer multiplies ``[a, 1]`` where it has a bias, which is the last column of its weights.
    """

    #: (N, d), distinct, with a column of ones where the first layer has a bias
    inputs: Array
    #: α of each hidden layer
    slopes: tuple[float, ...]
    #: η of each layer times the share of the loss; 0 for a readout that is fixed
    rates: tuple[float, ...]
    #: whether each layer has a bias
    biased: tuple[bool, ...]
    #: the residual of outputs at the inputs, (N, k); its part that is linear in them if not `whole`
    residual: Callable[[Array, bool], Array]
    #: the force on the outputs at the inputs, of a residual
    force: Callable[[Array], Array]


class Pairs(NamedTuple):
    """Pre-activations of one layer each, by sample and unit."""

    layer: int
    samples: Array
    units: Array


class Series:
    r"""Taylor coefficients of weights, pre-activations and forces at a point in time.

    Parameters
    ----------
    flowing : Flowing
    weights : list of arrays (n_ℓ, n_{ℓ-1} or one more)
        Of all layers, the readout last.
    gates : list of int arrays (N, n_ℓ)
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

    def __init__(
        self, flowing: Flowing, weights: Sequence[Array], gates: Sequence[Array], unit: float
    ) -> None:
        self.flowing = flowing
        self.rates = [unit * rate for rate in flowing.rates]
        self.slopes = [
            np.array([slope, 1.0, 0.0])[gate]
            for gate, slope in zip(gates, flowing.slopes, strict=True)
        ]
        samples = len(flowing.inputs)
        trained = [rate > 0 for rate in flowing.rates]
        #: by layer, the order first: inputs and a readout that is fixed have order 0 alone
        self.weights = [_orders(W.shape, moves) for W, moves in zip(weights, trained, strict=True)]
        self.inputs = [flowing.inputs[None]]
        self.hidden = [_orders(s.shape) for s in self.slopes]
        for s, biased in zip(self.slopes, flowing.biased[1:], strict=True):
            self.inputs.append(_orders((samples, s.shape[1] + biased)))
        self.forces = [_orders((samples, len(W))) for W in weights]
        self.residuals: list[Array] = []
        for known, W in zip(self.weights, weights, strict=True):
            known[0] = W
        #: that of weights and pre-activations; forces and residuals have one less
        self.order = 0
        self._forward(0)
        places = [np.nonzero(gate == SLIDES) for gate in gates]
        #: those of each layer that has any
        self.sliding = [Pairs(i, *place) for i, place in enumerate(places) if len(place[0])]
        #: by order, the forces on sliding pairs, and what they would be with open gates
        self.held: list[Array] = []
        self.driven: list[Array] = []
        #: by layer, what drives each unit at the start, (N, n_ℓ): its force where its gate is open
        self.drives: list[Array] = []

    @cached_property
    def _bound(self) -> _Bound | None:
        return _Bound(self) if self.sliding else None

    def _forward(self, order: int) -> None:
        """Pre-activations and activations of all layers at an order, from the weights."""
        for i, s in enumerate(self.slopes):
            h = cauchy(self.inputs[i], self.weights[i], order, (1, 1))
            self.hidden[i][order] = h
            a = self.inputs[i + 1][order]
            a[:, s.shape[1] :] = order == 0
            np.multiply(s, h, out=a[:, : s.shape[1]])

    def grow(self) -> None:
        """One order more."""
        order = self.order
        if order + 2 > len(self.hidden[0]):
            self._double()
        f = cauchy(self.inputs[-1], self.weights[-1], order, (1, 1))
        self.residuals.append(self.flowing.residual(f, order == 0))
        self.forces[-1][order] = self.flowing.force(self.residuals[-1])
        drives: list[Array] = []
        for i in reversed(range(len(self.slopes))):
            s = self.slopes[i]
            above = self.weights[i + 1][:, :, : s.shape[1]]
            drives.insert(0, cauchy(self.forces[i + 1], above, order, (1, 0)))
            np.multiply(s, drives[0], out=self.forces[i][order])
        for i, rate in enumerate(self.rates):
            if rate:
                step = cauchy(self.forces[i], self.inputs[i], order, (0, 0))
                np.multiply(-rate / (order + 1), step, out=self.weights[i][order + 1])
        if self._bound is not None:
            self._hold(self._bound, drives)
        if not order:
            self.drives = drives
        self._forward(order + 1)
        self.order += 1

    def _double(self) -> None:
        """Room for twice as many orders above the first."""
        for known in (self.weights, self.inputs, self.hidden, self.forces):
            for i, c in enumerate(known):
                if len(c) > 1:
                    known[i] = np.concatenate([c, np.empty_like(c[1:])])

    def _hold(self, bound: _Bound, drives: list[Array]) -> None:
        """Add the forces that keep sliding pairs at zero, at this order."""
        order = self.order
        u = bound.solve((order + 1) * self._ahead(order + 1))
        for i, (phi, a) in enumerate(zip(bound.conjugates, bound.inputs, strict=True)):
            pull = phi * u[:, None]
            if i < len(bound.conjugates) - 1:
                drives[i] += bound.spread @ (bound.drives[i] * u[:, None])
            self.forces[i][order] += bound.spread @ pull
            if self.rates[i]:
                self.weights[i][order + 1] -= self.rates[i] / (order + 1) * (pull.T @ a)
        self.held.append(u)
        self.driven.append(self._of_sliding(drives))

    def _ahead(self, order: int) -> Array:
        """The sliding pre-activations at an order, from weights that do not hold them yet."""
        if len(self.slopes) == 1:  # those of no other pair are needed
            pairs = self.sliding[0]
            W = self.weights[0][order]
            return np.einsum("sd,sd->s", self.flowing.inputs[pairs.samples], W[pairs.units])
        self._forward(order)
        return self._of_sliding([h[order] for h in self.hidden])

    def _of_sliding(self, fields: Sequence[Array]) -> Array:
        return np.concatenate([fields[p.layer][p.samples, p.units] for p in self.sliding])

    def dead(self, layer: int) -> Array:
        """The samples, (N,) of bool, on which all that a layer reads is zero and stays so."""
        if not layer:
            return ~self.inputs[0][0].any(axis=1)
        s = self.slopes[layer - 1]
        a = abs(self.inputs[layer][0][:, : s.shape[1]])
        stays = s == 0
        if not self.flowing.biased[layer - 1]:
            stays |= self.dead(layer - 1)[:, None]
        return (stays & (a <= DEAD * a.max())).all(axis=1)

    def tied(self, layer: int) -> Array:
        """The first sample, by index, that has the same pre-activations in a layer at any time.

        All samples on which a layer below is dead are one from there on.
        """
        first = np.arange(len(self.flowing.inputs))
        for i in range(1, layer + 1):
            dead = self.dead(i)
            first[dead] = dead.argmax()
        return first

    def together(self) -> Array:
        """Which sliding pairs are one, (S, S) of 0 and 1."""
        keys = [
            np.stack([np.full(len(p.units), p.layer), p.units, self.tied(p.layer)[p.samples]])
            for p in self.sliding
        ]
        key = np.hstack(keys)
        return 1.0 * (key[:, :, None] == key[:, None, :]).all(axis=0)

    def reach(self, size: float, allowed: float) -> float:
        """Grow for a step of this size, or of what all orders allow; the size.

        `allowed` are the last two terms at the end of the step, relative to the first two.
        """

        def neglected() -> float:
            return max(self.size(order, size) for order in (self.order - 1, self.order))

        while self.order < 2 or (allowed < neglected() < HUGE and self.order < ORDERS):
            self.grow()
        excess = neglected() / allowed
        return size * min(1.0, excess ** (-1 / self.order)) if excess else size

    def size(self, order: int, t: float) -> float:
        """The largest term of an order at t, relative to the first two, over weights and layers."""
        moving = [W for W in self.weights if len(W) > 1]
        sizes = [[abs(c[j]).max() * t**j for j in (0, 1, order)] for c in (*self.hidden, *moving)]
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
        if self._bound is not None:
            off = self._bound.solve(self._of_sliding([h[0] for h in self.hidden]))
            for i, (phi, a) in enumerate(
                zip(self._bound.conjugates, self._bound.inputs, strict=True)
            ):
                weights[i] -= self.rates[i] * ((phi * off[:, None]).T @ a)
        return weights


class _Bound:
    """The derivatives B of the sliding pre-activations by the weights, as factors.

    Row s of B is ``φ_s ⊗ a_s`` in each layer up to its own.
    """

    def __init__(self, series: Series) -> None:
        pairs = series.sliding
        layers = np.concatenate([np.full(len(p.units), p.layer) for p in pairs])
        samples = np.concatenate([p.samples for p in pairs])
        units = np.concatenate([p.units for p in pairs])
        count = len(layers)
        #: by layer, the conjugate fields φ (S, n_ℓ) of the sliding pairs, and the inputs
        self.conjugates: list[Array] = []
        self.inputs = [a[0][samples] for a in series.inputs[: layers.max() + 1]]
        #: by layer, what these drive in its units, (S, n_ℓ)
        self.drives: list[Array] = []
        for i in reversed(range(layers.max() + 1)):
            n = series.slopes[i].shape[1]
            drives = np.zeros((count, n))
            if self.conjugates:
                drives = self.conjugates[0] @ series.weights[i + 1][0][:, :n]
            phi = drives * series.slopes[i][samples]
            phi[layers == i, units[layers == i]] = 1.0
            self.conjugates.insert(0, phi)
            self.drives.insert(0, drives)
        #: from sliding pairs to samples
        place = (np.ones(count), (samples, np.arange(count)))
        self.spread = sparse.csr_array(place, shape=(len(series.flowing.inputs), count))
        gram = np.zeros((count, count))
        for rate, phi, a in zip(series.rates, self.conjugates, self.inputs, strict=False):
            gram += rate * (phi @ phi.T) * (a @ a.T)
        self.gram = gram
        # dependent rows ask for one thing, and rows of zeros for nothing: any forces will do
        size = gram.diagonal()
        small = 1e-12 * np.where(size > 0, size, 1.0)
        self._factor = linalg.cho_factor(gram + np.diag(small), lower=True)

    def solve(self, b: Array) -> Array:
        """u of ``B η Bᵀ u = b``."""
        u = linalg.cho_solve(self._factor, b)
        return u + linalg.cho_solve(self._factor, b - self.gram @ u)


def _orders(shape: tuple[int, ...], moves: bool = True) -> Array:
    """Room for the first coefficients of an array, the order first."""
    return np.empty((3 if moves else 1, *shape))


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
