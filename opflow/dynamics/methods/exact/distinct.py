"""The samples of a run, with those merged whose pre-activations are zero together."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from opflow.dynamics.methods.exact.series import Flowing
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, Data, is_sparse
from opflow.relu.network import ReLUNetwork


class Distinct:
    """The distinct samples of a state; without biases, its distinct rays.

    The network is one function on equal samples, and without biases f(cx) = c f(x) for c > 0: one
    of them stands for all, driven by the sum of their forces.
    """

    def __init__(self, state: State, X: Data) -> None:
        self.state = state
        network = state.upper
        rows = np.asarray(X.todense() if is_sparse(X) else X)
        self.biased = tuple(b is not None for b in (*network.biases, network.output_bias))
        scale = np.ones(len(rows))
        if not any(self.biased):
            scale = abs(rows).max(axis=1)
        rows = rows / np.where(scale > 0, scale, 1.0)[:, None]
        self.rows, self.index = np.unique(rows + 0.0, axis=0, return_inverse=True)
        self.index = self.index.reshape(-1)
        place = (scale, (np.arange(len(rows)), self.index))
        #: from outputs on the distinct samples to those on all
        self.spread = sparse.csr_array(place, shape=(len(rows), len(self.rows)))

    def flowing(self, share: float) -> Flowing:
        """The run on the distinct samples; time is in units of the run, loss times `share`."""
        network = self.state.upper
        ones = np.ones((len(self.rows), int(self.biased[0])))
        rates = (*network.rates, network.readout_rate or 0.0)
        return Flowing(
            np.hstack([self.rows, ones]),
            network.slopes,
            tuple(share * rate for rate in rates),
            self.biased,
            self._residual,
            lambda r: self.spread.T @ self.state.measurement.pulled(r),
        )

    def _residual(self, f: Array, whole: bool) -> Array:
        seen = self.state.measurement.seen(self.spread @ f)
        return seen - self.state.targets if whole else seen

    def members(self, sample: int) -> Array:
        """The samples that a distinct one stands for."""
        return np.flatnonzero(self.index == sample)

    def joined(self, network: ReLUNetwork) -> list[Array]:
        """The weights of all layers, each with its bias as the last column."""
        layers = zip(
            (*network.weights, network.readout), (*network.biases, network.output_bias), strict=True
        )
        return [W if b is None else np.column_stack([W, b]) for W, b in layers]

    def parameters(self, weights: list[Array]) -> list[Array]:
        """The parameters of the state, of what :meth:`joined` gave."""
        trained = weights[: len(self.state.upper.layers())]
        found = []
        for W, biased in zip(trained, self.biased, strict=False):
            found.append(np.ascontiguousarray(W[:, : W.shape[1] - biased]))
            if biased:
                found.append(W[:, -1].copy())
        return found
