"""The weights as the state: one pass over the samples gives the residual and the gradient.

The residual is always recomputed from the weights, never carried along, so it cannot drift.
"""

from __future__ import annotations

from typing import Any

from opflow.arrays import is_sparse, namespace
from opflow.relu.network import ReLUNetwork
from opflow.relu.passes import conjugates, forward_blocks


def gradient(
    network: ReLUNetwork, X: Any, y: Any, residual: Any
) -> tuple[float, list[Any], list[Any]]:
    r"""Loss and its gradient, summed over the samples; fills `residual`.

    Parameters
    ----------
    network : ReLUNetwork
    X : array (N, d) or sparse matrix
    y : array (N, k)
    residual : array (N, k)
        Overwritten by ``f − y``.

    Returns
    -------
    loss : float
        ½ Σ |r|², accumulated in float64.
    weights, biases : list of arrays
        ∂loss/∂W^ℓ and ∂loss/∂b^ℓ (None where there is none).

    Notes
    -----
    About 2·N·(3P − P_1) flops in one pass over row blocks; the workspace does not grow with N.
    """
    xp = namespace(network.readout)
    loss = 0.0
    weights = [xp.zeros(W.shape, dtype=W.dtype) for W in network.weights]
    biases = [None if b is None else xp.zeros(b.shape, dtype=b.dtype) for b in network.biases]
    for s, activations in forward_blocks(network, X, copies=1):
        r = xp.subtract(activations[-1] @ network.readout.T, y[s], out=residual[s])
        loss += 0.5 * float((r.astype(xp.float64) ** 2).sum())
        phis = conjugates(network, activations, r @ network.readout)
        for total, bias, phi, below in zip(weights, biases, phis, activations[:-1], strict=True):
            total += (below.T @ phi).T if is_sparse(below) else phi.T @ below
            if bias is not None:
                bias += phi.sum(axis=0)
    return loss, weights, biases


def descend(
    network: ReLUNetwork, weights: list[Any], biases: list[Any], step: float
) -> ReLUNetwork:
    """``W^ℓ − step · η_ℓ · ∂loss/∂W^ℓ``, and the biases likewise."""

    def moved(old: Any, slope: Any, rate: float) -> Any:
        return None if old is None else old - (step * rate) * slope

    return network.moved(
        [moved(*args) for args in zip(network.weights, weights, network.rates, strict=True)],
        [moved(*args) for args in zip(network.biases, biases, network.rates, strict=True)],
    )


class WeightState:
    """The weights of a network, moved by gradient descent."""

    fields = exact = None

    def __init__(self, network: ReLUNetwork, X: Any, y: Any) -> None:
        self.network, self.inputs, self.targets = network, X, y

    def evaluate(self, residual: Any) -> float:
        """Fill `residual`, keep the gradient, return the summed loss."""
        loss, self._weights, self._biases = gradient(
            self.network, self.inputs, self.targets, residual
        )
        return loss

    def advance(self, step: float) -> None:
        """Move along the gradient of the last evaluation."""
        self.network = descend(self.network, self._weights, self._biases, step)
