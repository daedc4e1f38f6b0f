"""Forward and backward passes through a network, a row block at a time.

The only places where ``h = a Wᵀ + b``, the gates and the chain of conjugates are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opflow.machine import gate_tables
from opflow.machine.arrays import namespace
from opflow.machine.streams import prefetched
from opflow.machine.workspace import row_slices
from opflow.operators.gates import pack
from opflow.relu.inputs import affine, copied_width, first_pass

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


def preactivation(network: ReLUNetwork, layer: int, below: Any, out: Any = None) -> Any:
    """``h^ℓ`` from ``a^{ℓ-1}``, layers counted from 1."""
    return affine(below, network.weights[layer - 1], network.biases[layer - 1], out)


def through(field: Any, W: Any, out: Any = None) -> Any:
    """``field @ W`` along the last axis, in one matrix product: NumPy takes one for each sample."""
    rows = field.reshape(-1, field.shape[-1])
    place = None if out is None else out.reshape(len(rows), W.shape[-1])
    product = namespace(W).matmul(rows, W, out=place)
    return product.reshape(*field.shape[:-1], W.shape[-1])


def rectify(h: Any) -> Any:
    """``a = max(h, 0)``, in place."""
    return namespace(h).maximum(h, 0, out=h)


def blocks(
    network: ReLUNetwork, samples: int | slice, copies: int = 1, X: Any = None
) -> Iterable[slice]:
    """Row blocks in which all layers of a pass fit the workspace, with rows read from disk.

    `samples` is their number or a range of them; `X` what the pass reads the rows of, if any.
    """
    width = sum(network.widths[1:]) * (1 + copies) + copied_width(X)
    return prefetched(row_slices(samples, width * network.dtype.itemsize), X)


def forward(network: ReLUNetwork, hidden: Any, out: Sequence[Any] | None = None) -> list[Any]:
    """Activations ``[None, a^1, …, a^L]`` from h^1, which becomes a^1.

    `out` may hold arrays for ``[a^1, …, a^L]``, None for a new one; that of a^1 is not used.
    """
    activations = [None, rectify(hidden)]
    for layer in range(2, network.depth + 1):
        place = None if out is None else out[layer - 1]
        activations.append(rectify(preactivation(network, layer, activations[-1], place)))
    return activations


def forward_blocks(network: ReLUNetwork, X: Any, copies: int = 0) -> Iterator[tuple[slice, Any]]:
    """Row block by row block, the slice and the activations ``[None, a^1, …]`` of its samples."""
    first = first_pass(X, network.weights[0], network.biases[0])
    for s in blocks(network, X.shape[0], copies, X):
        yield s, forward(network, first.rows(s))


def conjugates(
    network: ReLUNetwork,
    activations: list[Any],
    seed: Any,
    top: int | None = None,
    out: Sequence[Any] | None = None,
) -> list[Any]:
    """Backward pass of `seed` (…, n_L) at the top, or at the layer `top`: ``[φ^1, …, φ^L]``.

    `seed` is ψ^L, of shape (b, n_L), or (b, m, n_L) for m vectors a sample; the gates are read
    off the activations (a > 0 exactly where h > 0).  `out` may hold the arrays for the result.
    """
    xp, psi, found = namespace(seed), seed, []
    for layer in range(top or network.depth, 0, -1):
        gates = activations[layer] > 0
        phi = xp.multiply(
            psi,
            gates if psi.ndim == 2 else gates[:, None, :],
            out=None if out is None else out[layer - 1],
        )
        found.append(phi)
        if layer > 1:
            below = None if out is None else out[layer - 2]
            psi = through(phi, network.weights[layer - 1], below)
    return found[::-1]


def slopes(
    network: ReLUNetwork, activations: list[Any], r: Any, dense_first: bool = False
) -> list[Any]:
    """``[∂loss/∂h^1, …, ∂loss/∂h^L]`` of the residuals r (b, k).

    Arrays (b, n_ℓ), but the last is :class:`TopSlope` where gate products are faster; if
    `dense_first`, the first is an array in any case.
    """
    tables = _tabulated_top(network, activations[-1]) and r.dtype == network.dtype
    if not tables or (dense_first and network.depth == 1):
        return conjugates(network, activations, r @ network.readout)
    top = TopSlope(activations[-1], r[:, 0], network.readout[0])
    if network.depth == 1:
        return [top]
    return [*conjugates(network, activations, top @ network.weights[-1], network.depth - 1), top]


def top_conjugate(network: ReLUNetwork, top: Any, out: Any = None) -> Any:
    """φ^L, from the activations or the gates: (b, n_L) for one output, else (b, k, n_L)."""
    V, gates = network.readout, top > 0
    if network.outputs == 1:
        return namespace(V).multiply(gates, V[0], out=out)
    return namespace(V).multiply(gates[:, None], V, out=out)


def lower_conjugates(network: ReLUNetwork) -> Callable[[list[Any], Sequence[Any]], None]:
    """What writes ``[φ^1, …, φ^{L-1}]`` of the activations of a row block into arrays."""
    W, scaled, width = network.weights[-1], None, network.widths[-1]
    if _tabulated_top(network, W):
        scaled = network.readout[0][:, None] * W  # once for all blocks

    def write(activations: list[Any], out: Sequence[Any]) -> None:
        top = activations[-1]
        if scaled is None:
            psi = through(top_conjugate(network, top), W, out[-1])
        else:
            psi = gate_tables.times(pack(top > 0), width, scaled)
        conjugates(network, activations, psi, network.depth - 1, out)

    return write


def _tabulated_top(network: ReLUNetwork, top: Any) -> bool:
    """Whether products of the top conjugates, which are gates, go through tables."""
    return (
        network.outputs == 1
        and network.widths[-1] >= gate_tables.FEWEST
        and gate_tables.tabulated(network.dtype, top, network.weights[-1])
    )


class TopSlope:
    """``diag(r) Θ diag(v)``, the slope of a top layer with one output, as gates.

    It has what a pass asks of an array: ``slope @ W``, ``slope.T @ X`` and sums over samples.
    """

    def __init__(self, activations: Any, r: Any, v: Any) -> None:
        self._bits, self._n, self._r, self._v = pack(activations > 0), activations.shape[1], r, v

    def __matmul__(self, W: Any) -> Any:
        out = gate_tables.times(self._bits, self._n, self._v[:, None] * W)
        out *= self._r[:, None]
        return out

    @property
    def T(self) -> _Transposed:
        return _Transposed(self)

    def sum(self, axis: int) -> Any:
        return (self.T @ np.ones((len(self._r), 1), dtype=self._r.dtype))[:, 0]


class _Transposed:
    def __init__(self, slope: TopSlope) -> None:
        self._slope = slope

    def __matmul__(self, X: Any) -> Any:
        s = self._slope
        X = np.ascontiguousarray(X)
        out = gate_tables.weighted_sums(s._bits, s._n, X, s._r[None, :])[0]
        out *= s._v[:, None]
        return out
