"""Forward and backward passes through a network, a row block at a time.

The only place where ``h = a Wᵀ + b``, the gates and the chain of conjugates are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from opflow.machine.arrays import Array, Data, namespace
from opflow.machine.streams import prefetched
from opflow.machine.workspace import row_slices
from opflow.operators.gates import GateGradient, PackedGates, ScaledGates, pack, tables_pay
from opflow.relu.inputs import RowHidden, StoredHidden, affine, copied_width, first_hidden

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork

#: multiplications in a product of gates with a matrix, below which BLAS is faster than tables
LEAST_PRODUCTS = 1 << 19


def preactivation(network: ReLUNetwork, layer: int, below: Data, out: Array | None = None) -> Array:
    """``h^ℓ`` from ``a^{ℓ-1}``, layers counted from 1."""
    return affine(below, network.weights[layer - 1], network.biases[layer - 1], out)


def through(field: Array, W: Array, out: Array | None = None) -> Array:
    """``field @ W`` along the last axis, in one matrix product: NumPy takes one for each sample."""
    rows = field.reshape(-1, field.shape[-1])
    place = None if out is None else out.reshape(len(rows), W.shape[-1])
    product = namespace(W).matmul(rows, W, out=place)
    return product.reshape(*field.shape[:-1], W.shape[-1])


def blocks(
    network: ReLUNetwork, samples: int | slice, copies: int = 1, X: Data = None
) -> Iterable[slice]:
    """Row blocks in which all layers of a pass fit the workspace, with rows read from disk.

    `samples` is their number or a range of them; `X` what the pass reads the rows of, if any.
    """
    width = sum(network.widths[1:]) * (1 + copies) + copied_width(X)
    return prefetched(row_slices(samples, width * network.dtype.itemsize), X)


def forward(
    network: ReLUNetwork,
    hidden: Array,
    below: Data | None = None,
    out: Sequence[Array | None] | None = None,
) -> list[Array]:
    """Activations ``[below, a^1, …, a^L]`` from h^1, which becomes a^1.

    `out` may hold arrays for ``[a^1, …, a^L]``, None for a new one; that of a^1 is not used.
    """
    xp = namespace(hidden)
    activations = [below, xp.maximum(hidden, 0, out=hidden)]
    for layer in range(2, network.depth + 1):
        place = None if out is None else out[layer - 1]
        h = preactivation(network, layer, activations[-1], place)
        activations.append(xp.maximum(h, 0, out=h))
    return activations


def forward_blocks(network: ReLUNetwork, X: Data) -> Iterator[tuple[slice, list[Array]]]:
    """:func:`activation_blocks` of all samples of checked inputs."""
    return activation_blocks(network, X.shape[0], first_hidden(network, X))


def activation_blocks(
    network: ReLUNetwork, samples: int | slice, first: RowHidden | StoredHidden, copies: int = 0
) -> Iterator[tuple[slice, list[Array]]]:
    """Row block by row block, the slice and the activations ``[X, a^1, …, a^L]`` of its samples.

    `copies` of all fields must fit the workspace besides; a^1 of stored fields is written there.
    """
    for s in blocks(network, samples, copies, first.data):
        below, hidden = first.read(s)
        yield s, forward(network, hidden, below)


def outputs(network: ReLUNetwork, X: Data) -> Array:
    """f on checked inputs, (N, k)."""
    out = namespace(network.readout).empty((X.shape[0], network.outputs), dtype=network.dtype)
    for s, activations in forward_blocks(network, X):
        out[s] = activations[-1] @ network.readout.T
    return out


def conjugates(
    network: ReLUNetwork,
    activations: list[Array],
    seed: Array,
    top: int | None = None,
    out: Sequence[Array] | None = None,
) -> list[Array]:
    """Backward pass of `seed` (…, n_L) at the top, or at the layer `top`: ``[φ^1, …, φ^L]``.

    `seed` is ψ^L, of shape (b, n_L), or (b, m, n_L) for m vectors a sample; the gates are read
    off the activations (a > 0 exactly where h > 0).  `out` may hold the arrays for the result.
    """
    psi = seed
    found = []
    for layer in range(top or network.depth, 0, -1):
        phi = _gated(psi, activations[layer], None if out is None else out[layer - 1])
        found.append(phi)
        if layer > 1:
            below = None if out is None else out[layer - 2]
            psi = through(phi, network.weights[layer - 1], below)
    return found[::-1]


def slopes(network: ReLUNetwork, activations: list[Array], r: Array) -> list[Any]:
    """``[∂loss/∂h^1, …, ∂loss/∂h^L]`` of the residuals r (b, k), or (b, c, k) for c at a time.

    Arrays (b, n_ℓ) or (b, c·n_ℓ), but the last is :class:`GateGradient` where that is faster.
    """
    *_, below, top = activations
    if r.ndim == 3 or not tables_pay_at_top(network, below, len(r)) or r.dtype != network.dtype:
        found = conjugates(network, activations, through(r, network.readout))
        return [slope.reshape(len(slope), -1) for slope in found] if r.ndim == 3 else found
    gradient = GateGradient(pack(top > 0), r[:, 0], network.readout[0])
    if network.depth == 1:
        return [gradient]
    psi = gradient @ network.weights[-1]
    return [*conjugates(network, activations, psi, network.depth - 1), gradient]


def top_conjugate(
    network: ReLUNetwork, activations: list[Array], seed: Array, out: Sequence[Array]
) -> None:
    """Write ``[φ^L]`` to `out`; `seed` is ψ^L as for :func:`conjugates`."""
    _gated(seed, activations[-1], out[0])


def _gated(psi: Array, activations: Array, out: Array | None = None) -> Array:
    """``θ ∘ ψ``."""
    gates = activations > 0
    if psi.ndim == 3:
        gates = gates[:, None, :]
    return namespace(psi).multiply(psi, gates, out=out)


def lower_conjugates(
    network: ReLUNetwork, activations: list[Array], seed: Array, out: Sequence[Array]
) -> None:
    """Write ``[φ^1, …, φ^{L-1}]`` to `out`; `seed` is ψ^L as for :func:`conjugates`."""
    top = activations[-1]
    W = network.weights[-1]
    if tables_pay_at_top(network, W, len(top)):
        bits = PackedGates.from_bits(pack(top > 0), top.shape[1], network.dtype)
        psi = ScaledGates(bits, network.readout[0]).matmat(W)
    else:
        psi = through(_gated(seed, top), W, out[-1])
    conjugates(network, activations, psi, network.depth - 1, out)


def all_conjugates(
    network: ReLUNetwork, activations: list[Array], seed: Array, out: Sequence[Array]
) -> None:
    """Write ``[φ^1, …, φ^L]`` to `out`; `seed` is ψ^L as for :func:`conjugates`."""
    top_conjugate(network, activations, seed, out[-1:])
    if network.depth > 1:
        lower_conjugates(network, activations, seed, out[:-1])


def tables_pay_at_top(network: ReLUNetwork, factor: Data, samples: int) -> bool:
    """Whether φ^L is gates times the readout, and multiplies `factor` faster through tables."""
    width = network.widths[-1]
    return (
        network.outputs == 1
        and factor is not None
        and samples * width * factor.shape[1] >= LEAST_PRODUCTS
        and tables_pay(width, network.dtype, factor)
    )
