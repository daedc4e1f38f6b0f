"""Forward and backward passes through a network, a row block at a time.

The only place where ``h = a Wᵀ + b``, the outputs and the chain of conjugates are computed.
Activations are kept with the sign of h (:mod:`opflow.relu.units`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from opflow.machine.arrays import Array, Data, module_name, namespace
from opflow.machine.streams import prefetched
from opflow.machine.workspace import row_slices
from opflow.operators.gates import GateGradient, PackedGates, ScaledGates, pack, tables_pay
from opflow.relu.inputs import Hidden, affine, copied_width, first_hidden
from opflow.relu.network_arrays import NetworkArrays
from opflow.relu.units import activate, activation, sloped

#: multiplications in a product of gates with a matrix, below which BLAS is faster than tables
LEAST_PRODUCTS = 1 << 19


def preactivation(
    network: NetworkArrays, layer: int, below: Data, out: Array | None = None
) -> Array:
    """``h^ℓ`` from ``ã^{ℓ-1}``, layers counted from 1."""
    a = layer_activation(network, layer - 1, below)
    return affine(a, network.weights[layer - 1], network.biases[layer - 1], out)


def layer_activation(network: NetworkArrays, layer: int, signed: Data) -> Data:
    """``a^ℓ`` from ``ã^ℓ``; the inputs for ℓ = 0."""
    return activation(signed, network.slopes[layer - 1]) if layer else signed


def layer_inputs(network: NetworkArrays, signed: Sequence[Data]) -> list[Data]:
    """The inputs of every trained layer, ``[X, a^1, …]``, from ``[X, ã^1, …, ã^L]``."""
    inputs = signed[: len(network.layers())]
    return [layer_activation(network, layer, a) for layer, a in enumerate(inputs)]


def top_outputs(network: NetworkArrays, top: Array) -> Array:
    """``f = a^L Vᵀ + c`` from ``ã^L``."""
    f = layer_activation(network, network.depth, top) @ network.readout.T
    if network.output_bias is not None:
        f += network.output_bias
    return f


def through(field: Array, W: Array, out: Array | None = None) -> Array:
    """``field @ W`` along the last axis, in one matrix product: NumPy takes one for each sample."""
    rows = field.reshape(-1, field.shape[-1])
    place = None if out is None else out.reshape(len(rows), W.shape[-1])
    product = namespace(W).matmul(rows, W, out=place)
    return product.reshape(*field.shape[:-1], W.shape[-1])


def blocks(
    network: NetworkArrays, samples: int | slice, copies: int = 1, X: Data = None
) -> Iterable[slice]:
    """Row blocks in which all layers of a pass fit the workspace, with rows read from disk.

    `samples` is their number or a range of them; `X` what the pass reads the rows of, if any.
    """
    width = sum(network.widths[1:]) * (1 + copies) + copied_width(X)
    return row_blocks(network, samples, width * network.dtype.itemsize, X)


def row_blocks(
    network: NetworkArrays, samples: int | slice, bytes_per_row: float, X: Data
) -> Iterable[slice]:
    """Row blocks that fit the workspace, with rows of X read from disk, where the network is."""
    where = module_name(network.weights[0])
    return prefetched(row_slices(samples, bytes_per_row, where=where), X)


def new_array(network: NetworkArrays, *shape: int) -> Array:
    """An empty array of the network's dtype, where the network is."""
    return namespace(network.readout).empty(shape, dtype=network.dtype)


def forward(
    network: NetworkArrays,
    hidden: Array,
    below: Data | None = None,
    out: Sequence[Array | None] | None = None,
) -> list[Array]:
    """Signed activations ``[below, ã^1, …, ã^L]`` from h^1, which becomes ã^1.

    `out` may hold arrays for ``[ã^1, …, ã^L]``, None for a new one; that of ã^1 is not used.
    """
    places: Sequence[Array | None] = out or [None] * network.depth
    activations: list[Any] = [below, activate(hidden, network.slopes[0])]
    for layer in range(2, network.depth + 1):
        h = preactivation(network, layer, activations[-1], places[layer - 1])
        activations.append(activate(h, network.slopes[layer - 1]))
    return activations


def forward_blocks(network: NetworkArrays, X: Data) -> Iterator[tuple[slice, list[Array]]]:
    """:func:`activation_blocks` of all samples of checked inputs."""
    return activation_blocks(network, X.shape[0], first_hidden(network, X))


def activation_blocks(
    network: NetworkArrays, samples: int | slice, first: Hidden, copies: int = 0
) -> Iterator[tuple[slice, list[Array]]]:
    """Row block by row block, the slice and ``[X, ã^1, …, ã^L]`` of its samples.

    `copies` of all fields must fit the workspace besides; ã^1 of stored fields is written there.
    """
    for s in blocks(network, samples, copies, first.data):
        below, hidden = first.read(s)
        yield s, forward(network, hidden, below)


def outputs(network: NetworkArrays, X: Data) -> Array:
    """f on checked inputs, (N, k)."""
    out = new_array(network, X.shape[0], network.outputs)
    for s, activations in forward_blocks(network, X):
        out[s] = top_outputs(network, activations[-1])
    return out


def conjugates(
    network: NetworkArrays,
    activations: list[Array],
    seed: Array,
    top: int | None = None,
    out: Sequence[Array] | None = None,
) -> list[Array]:
    """Backward pass of `seed` (…, n_L) at the top, or at the layer `top`: ``[φ^1, …, φ^L]``.

    `seed` is ψ^L, of shape (b, n_L), or (b, m, n_L) for m vectors a sample; `activations` are
    signed, as :func:`forward` gives them.  `out` may hold the arrays for the result.
    """
    top = top or network.depth
    places: Sequence[Array | None] = out or [None] * top
    psi = seed
    found = []
    for layer in range(top, 0, -1):
        phi = sloped(psi, activations[layer], network.slopes[layer - 1], places[layer - 1])
        found.append(phi)
        if layer > 1:
            psi = through(phi, network.weights[layer - 1], places[layer - 2])
    return found[::-1]


def gradients(network: NetworkArrays, activations: list[Array], r: Array) -> list[Any]:
    """∂loss/∂h of every trained layer, r for the readout, from r (b, k) or (b, c, k), c at a time.

    Arrays (b, n_ℓ) or (b, c·n_ℓ), but that of the top is :class:`GateGradient` where it is faster.
    """
    *_, below, top = activations
    trained = len(network.layers())
    if r.ndim == 3 or not tables_pay_at_top(network, below, len(r)) or r.dtype != network.dtype:
        found = [*conjugates(network, activations, through(r, network.readout)), r][:trained]
        if r.ndim == 3:
            found = [part.reshape(len(part), -1) for part in found]
        return found
    gradient = GateGradient(pack(top > 0), r[:, 0], network.readout[0], network.slopes[-1])
    if network.depth == 1:
        return [gradient, r][:trained]
    psi = gradient @ network.weights[-1]
    return [*conjugates(network, activations, psi, network.depth - 1), gradient, r][:trained]


def top_conjugate(
    network: NetworkArrays, activations: list[Array], seed: Array, out: Sequence[Array]
) -> None:
    """Write ``[φ^L]`` to `out`; `seed` is ψ^L as for :func:`conjugates`."""
    sloped(seed, activations[-1], network.slopes[-1], out[0])


def lower_conjugates(
    network: NetworkArrays, activations: list[Array], seed: Array, out: Sequence[Array]
) -> None:
    """Write ``[φ^1, …, φ^{L-1}]`` to `out`; `seed` is ψ^L as for :func:`conjugates`."""
    top = activations[-1]
    W = network.weights[-1]
    if tables_pay_at_top(network, W, len(top)):
        bits = PackedGates.from_bits(pack(top > 0), top.shape[1], network.dtype, network.slopes[-1])
        psi = ScaledGates(bits, network.readout[0]).matmat(W)
    else:
        psi = through(sloped(seed, top, network.slopes[-1]), W, out[-1])
    conjugates(network, activations, psi, network.depth - 1, out)


def all_conjugates(
    network: NetworkArrays, activations: list[Array], seed: Array, out: Sequence[Array]
) -> None:
    """Write ``[φ^1, …, φ^L]`` to `out`; `seed` is ψ^L as for :func:`conjugates`."""
    top_conjugate(network, activations, seed, out[-1:])
    if network.depth > 1:
        lower_conjugates(network, activations, seed, out[:-1])


def tables_pay_at_top(network: NetworkArrays, factor: Data, samples: int) -> bool:
    """Whether φ^L of so many samples multiplies `factor` faster through tables."""
    if factor is None or samples * network.widths[-1] * factor.shape[1] < LEAST_PRODUCTS:
        return False
    return gates_suffice(network, factor)


def gates_suffice(network: NetworkArrays, factor: Data) -> bool:
    """Whether φ^L is gates times the readout, and these multiply `factor` fast."""
    one_slope = network.slopes[-1] == 1  # then there are no gates
    return (
        network.outputs == 1
        and not one_slope
        and tables_pay(network.widths[-1], network.dtype, factor)
    )
