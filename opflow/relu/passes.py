"""Forward and backward passes through a network, a row block at a time.

The only places where ``h = a Wᵀ + b``, the gates and the chain of conjugates are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opflow.arrays import is_sparse, namespace
from opflow.operators.rows import row_slices

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


def preactivation(network: ReLUNetwork, layer: int, below: Any, out: Any = None) -> Any:
    """``h^ℓ`` from ``a^{ℓ-1}``, layers counted from 1."""
    W, b = network.weights[layer - 1], network.biases[layer - 1]
    h = below @ W.T if is_sparse(below) else namespace(W).matmul(below, W.T, out=out)
    if b is not None:
        h += b
    return h


def rectify(h: Any) -> Any:
    """``a = max(h, 0)``, in place."""
    return namespace(h).maximum(h, 0, out=h)


def blocks(network: ReLUNetwork, samples: int, copies: int = 1) -> list[slice]:
    """Row blocks in which all layers of a pass fit the workspace."""
    width = sum(network.widths[1:]) * (1 + copies)
    return row_slices(samples, width * network.dtype.itemsize)


def forward(network: ReLUNetwork, X: Any) -> list[Any]:
    """Activations ``[a^0 = X, a^1, …, a^L]``."""
    activations = [X]
    for layer in range(1, network.depth + 1):
        activations.append(rectify(preactivation(network, layer, activations[-1])))
    return activations


def forward_blocks(network: ReLUNetwork, X: Any, copies: int = 0) -> Iterator[tuple[slice, Any]]:
    """Row block by row block, the slice and the activations of its samples."""
    for s in blocks(network, X.shape[0], copies):
        yield s, forward(network, X[s])


def conjugates(network: ReLUNetwork, activations: list[Any], seed: Any) -> list[Any]:
    """Backward pass of `seed` (…, n_L) at the top: ``[φ^1, …, φ^L]``.

    `seed` is ψ^L, of shape (b, n_L), or (b, m, n_L) for m vectors a sample; the gates are read
    off the activations (a > 0 exactly where h > 0).
    """
    out: list[Any] = []
    psi = seed
    for layer in range(network.depth, 0, -1):
        gates = activations[layer] > 0
        phi = psi * (gates if psi.ndim == 2 else gates[:, None, :])
        out.append(phi)
        if layer > 1:
            psi = phi @ network.weights[layer - 1]
    return out[::-1]
