"""Forward and backward passes through a network, a row block at a time.

The only places where ``h = a Wᵀ + b``, the gates and the chain of conjugates are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opflow.arrays import namespace
from opflow.operators.matrix import is_rows
from opflow.operators.rows import row_slices
from opflow.relu.inputs import first_pass, is_whole

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


def preactivation(network: ReLUNetwork, layer: int, below: Any, out: Any = None) -> Any:
    """``h^ℓ`` from ``a^{ℓ-1}``, layers counted from 1."""
    W, b = network.weights[layer - 1], network.biases[layer - 1]
    h = below @ W.T if is_whole(below) else namespace(W).matmul(below, W.T, out=out)
    if b is not None:
        h += b
    return h


def rectify(h: Any) -> Any:
    """``a = max(h, 0)``, in place."""
    return namespace(h).maximum(h, 0, out=h)


def blocks(network: ReLUNetwork, samples: int, copies: int = 1, X: Any = None) -> list[slice]:
    """Row blocks in which all layers of a pass fit the workspace, with rows read from disk."""
    width = sum(network.widths[1:]) * (1 + copies) + (network.widths[0] if is_rows(X) else 0)
    return row_slices(samples, width * network.dtype.itemsize)


def forward(network: ReLUNetwork, hidden: Any) -> list[Any]:
    """Activations ``[None, a^1, …, a^L]`` from h^1, which becomes a^1."""
    activations = [None, rectify(hidden)]
    for layer in range(2, network.depth + 1):
        activations.append(rectify(preactivation(network, layer, activations[-1])))
    return activations


def forward_blocks(network: ReLUNetwork, X: Any, copies: int = 0) -> Iterator[tuple[slice, Any]]:
    """Row block by row block, the slice and the activations ``[None, a^1, …]`` of its samples."""
    first = first_pass(X, network.weights[0], network.biases[0])
    for s in blocks(network, X.shape[0], copies, X):
        yield s, forward(network, first.rows(s))


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
