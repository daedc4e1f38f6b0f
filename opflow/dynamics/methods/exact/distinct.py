"""Samples of an exact run with equal ones merged, and without biases those on one ray."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import sparse

from opflow.dynamics.state import State
from opflow.machine.arrays import Array, Data, is_sparse


class Distinct:
    """What does not change along a run, on the distinct samples; without biases, distinct rays.

    The network is one function on equal samples, and without biases f(cx) = c f(x) for c > 0: one
    of them stands for all, driven by the sum of their forces.  A layer multiplies ``[a, 1]`` where
    it has a bias, which is the last column of its weights.  Fields are (N, Σn_ℓ): the units of all
    hidden layers stand side by side.
    """

    def __init__(self, state: State, X: Data, share: float) -> None:
        self.state = state
        network = state.upper
        #: by layer, whether it has a bias, the readout last
        self.biased = np.array([b is not None for b in (*network.biases, network.output_bias)])
        #: η of each layer times the share of the loss; 0 for a readout that is fixed
        self.rates = [share * rate for rate in (*network.rates, network.readout_rate or 0.0)]
        rows = np.asarray(X.todense() if is_sparse(X) else X)
        scale = np.ones(len(rows))
        if not self.biased.any():
            scale = abs(rows).max(axis=1)
        rows = rows / np.where(scale > 0, scale, 1.0)[:, None]
        #: the distinct samples, and which of them stands for each
        self.rows, index = np.unique(rows + 0.0, axis=0, return_inverse=True)
        self.index = index.reshape(-1)
        #: the rows, with a column of ones where the first layer has a bias
        self.inputs = np.hstack([self.rows, np.ones((len(self.rows), int(self.biased[0])))])
        place = (scale, (np.arange(len(rows)), self.index))
        #: from outputs on the distinct samples to those on all
        self.spread = sparse.csr_array(place, shape=(len(rows), len(self.rows)))
        widths = network.widths[1:]
        ends = np.cumsum([0, *widths]).tolist()
        #: by layer, the columns of its units
        self.cuts = [slice(*pair) for pair in itertools.pairwise(ends)]
        #: by column, the layer, and its slope α
        self.layers = np.repeat(np.arange(len(widths)), widths)
        self.slopes = np.repeat(network.slopes, widths)

    def residual(self, f: Array, whole: bool) -> Array:
        """That of these outputs, (N, k); its part that is linear in them if not `whole`."""
        seen = self.state.measurement.seen(self.spread @ f)
        return seen - self.state.targets if whole else seen

    def force(self, residual: Array) -> Array:
        """On the outputs at the distinct samples."""
        return self.spread.T @ self.state.measurement.pulled(residual)

    def largest(self, field: Array) -> Array:
        """By column, the largest size in its layer."""
        return np.array([abs(field[:, cut]).max() for cut in self.cuts])[self.layers]

    def weights(self) -> list[Array]:
        """The weights of all layers, each with its bias as the last column."""
        network = self.state.upper
        biases = (*network.biases, network.output_bias)
        layers = zip((*network.weights, network.readout), biases, strict=True)
        return [np.column_stack([p for p in layer if p is not None]) for layer in layers]

    def parameters(self, weights: list[Array]) -> list[Array]:
        """The parameters of the state, of what :meth:`weights` gave."""
        trained = weights[: len(self.state.upper.layers())]
        found = []
        for W, biased in zip(trained, self.biased, strict=False):
            found.append(np.ascontiguousarray(W[:, : W.shape[1] - biased]))
            if biased:
                found.append(W[:, -1].copy())
        return found
