"""The Jacobian without stored conjugates: Jᵀu by a backward pass, J v by a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from opflow.machine.arrays import Array, Data, Index, is_sparse, namespace
from opflow.machine.threads import bytes_over_rows, over_rows
from opflow.operators import Matrix
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost
from opflow.operators.prices import Work, array_bytes, gram_work, product_bytes
from opflow.relu.directions import Direction, OnParameters, TrainedLayer
from opflow.relu.fields import Fields
from opflow.relu.gradient import parameter_gradient
from opflow.relu.inputs import copied_width
from opflow.relu.passes import conjugates, gradients, layer_inputs, row_blocks, through
from opflow.relu.units import sloped

#: a trained layer, its inputs and its φ
Factors = tuple[TrainedLayer, Data, Array]


class Transport(OnParameters):
    r"""The Jacobian by transport: backpropagate, then push tangents forward.

    ``Jᵀ r`` backpropagates r through the gates, ``J m`` pushes the tangent
    :math:`\dot h^\ell = a^{\ell-1} M_\ell^T + \dot a^{\ell-1} W^{\ell T}` forward; together
    8·N·P − 4·N·P_1 + 4·N·k·n_L flops a column for any number k of outputs, and no conjugate is
    stored.
    """

    def __init__(self, fields: Fields, *, rates: bool = True) -> None:
        super().__init__(fields, fields.samples * fields.network.outputs, "J", rates)

    def cost(self, columns: int = 1) -> Cost:
        net = self.fields.network
        n = self.fields.samples
        flops = 4.0 * net.parameters - 2.0 * net.weights[0].size + 2.0 * net.readout.size
        if self.fields.storage == "recomputed":
            flops += 2.0 * net.parameters
        stored = array_bytes(self, n, net.widths[0]) + self.fields.nbytes
        return Cost(n * flops * columns, stored + self._vector_bytes(columns))

    def blocks(self, columns: int, samples: int | slice) -> Iterable[slice]:
        """Row blocks in which a product with so many columns fits the workspace."""
        X = self.fields.inputs
        net = self.fields.network
        width = (sum(net.widths[1:]) + net.outputs) * (2 + 3 * columns) + copied_width(X)
        return row_blocks(net, samples, width * self.dtype.itemsize, X)

    def factors(self, index: Index) -> list[Factors]:
        """Each trained layer with its inputs and φ, (b, k, n), of some samples."""
        net = self.fields.network
        rows = self.fields.rows(index)
        xp = namespace(self.data)
        b, k = len(rows[-1]), net.outputs
        phis = conjugates(net, rows, xp.broadcast_to(self.data, (b, *self.data.shape)))
        if net.readout_rate is not None:
            phis.append(xp.broadcast_to(xp.eye(k, dtype=net.dtype), (b, k, k)))
        return list(zip(self.layers, layer_inputs(net, rows), phis, strict=True))

    def _rmatmat(self, X: Array) -> Array:
        net = self.fields.network
        k = net.outputs
        c = X.shape[1]

        def visit(samples: slice) -> Iterator[tuple[list[Data], list[Array]]]:
            for s in self.blocks(c, samples):
                rows = self.fields.rows(s)
                r = X[s.start * k : s.stop * k].reshape(-1, k, c).transpose(0, 2, 1)
                if c == 1:
                    r = r[:, 0]
                yield layer_inputs(net, rows), gradients(net, rows, r)

        flops = self.cost(c).flops / 2
        sums = parameter_gradient(
            net, self.fields.samples, visit, flops, self.fields.inputs, columns=c
        )
        xp = namespace(X)
        out = xp.empty((self.shape[1], c), dtype=X.dtype)
        xp.concatenate([total.reshape(c, -1).T for total in sums], out=out)
        return self.scaled(out)

    def _matmat(self, X: Array) -> Array:
        net = self.fields.network
        k = net.outputs
        c = X.shape[1]
        directions = self.directions(X)
        out = namespace(X).empty((self.shape[0], c), dtype=X.dtype)

        def push(samples: slice) -> None:
            for s in self.blocks(c, samples):
                rows = self.fields.rows(s)
                outputs = self.tangents(rows, layer_inputs(net, rows), directions)[-1]
                out[s.start * k : s.stop * k] = outputs.transpose(0, 2, 1).reshape(-1, c)

        over_rows(self.fields.samples, push, self.cost(c).flops / 2, self.fields.inputs)
        return out

    def tangents(
        self, rows: list[Data], below: list[Data], directions: list[Direction]
    ) -> list[Array]:
        """``[ȧ^1, …, ȧ^L, ḟ]``, each (b, c, n), of ``[X, ã^1, …]`` and the layers' inputs."""
        net = self.fields.network
        own = []  # what each layer's parameters move at its outputs
        for a, (D, shift), layer in zip(below, directions, self.layers, strict=True):
            moved = (a @ D).reshape(a.shape[0], -1, len(layer.W))
            if shift is not None:
                moved += shift
            own.append(moved)
        found: list[Array] = []
        for i, W in enumerate(net.weights):
            pushed = own[i]
            if found:
                pushed += through(found[-1], W.T)
            found.append(sloped(pushed, rows[i + 1], net.slopes[i], pushed))
        outputs = through(found[-1], net.readout.T)
        if len(own) > net.depth:
            outputs += own[-1]
        return [*found, outputs]


# -- entries and prices ---------------------------------------------------------------------------

entries_are_cheap.register(Transport, cheap_in_operands)


@gram_diagonal.register
def _gram_diagonal(J: Transport, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    n = J.fields.samples
    out = namespace(J.data).zeros((n, J.fields.network.outputs), dtype=J.dtype)
    for s in J.blocks(out.shape[1], n):
        factors = J.factors(s)
        for layer, below, phi in factors:
            norms = gram_diagonal(Matrix(below)) + (layer.bias is not None)
            out[s] += layer.scale**2 * norms[:, None] * (phi**2).sum(axis=2)
    return out.reshape(-1)


@column_squares.register
def _column_squares(J: Transport) -> Array:
    out = namespace(J.data).zeros(J.shape[1], dtype=J.dtype)
    for s in J.blocks(J.fields.network.outputs, J.fields.samples):
        factors = J.factors(s)
        for (_, weight, bias, scale), below, phi in factors:
            squares = scale**2 * (phi**2).sum(axis=1)
            entries = below.multiply(below) if is_sparse(below) else below**2
            out[weight] += (entries.T @ squares).T.reshape(-1)
            if bias is not None:
                out[bias] += squares.sum(axis=0)
    return out


@gram_block.register
def _gram_block(J: Transport, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    block: Any = 0
    pairs = zip(_row_factors(J, rows), _row_factors(J, cols), strict=True)
    for (layer, left, phi), (_, right, other) in pairs:
        gram = left @ right.T
        if is_sparse(gram):
            gram = gram.toarray()
        if layer.bias is not None:
            gram = gram + 1
        block = block + layer.scale**2 * gram * (phi @ other.T)
    return block


def _row_factors(J: Transport, index: Index) -> list[Factors]:
    """The factors of some rows of J, φ (b, n)."""
    xp = namespace(J.data)
    k = J.fields.network.outputs
    wanted = xp.arange(J.shape[0])[index]
    place = (xp.arange(len(wanted)), wanted % k)
    return [(layer, below, phi[place]) for layer, below, phi in J.factors(wanted // k)]


@gram_work.register
def _gram_work(J: Transport, rows: int, cols: int) -> Work:
    # The conjugates of the samples, then one GEMM a side and layer.
    net = J.fields.network
    upper = net.parameters - net.weights[0].size
    flops = 2.0 * rows * cols * (sum(net.widths[:-1]) + sum(net.widths[1:]))
    flops += 2.0 * (rows + cols) * upper
    fields = array_bytes(J, rows + cols, (1 + net.outputs) * sum(net.widths))
    return Work(Cost(flops, fields), 4 * array_bytes(J, rows, cols) + 2 * fields)


@product_bytes.register
def _product_bytes(J: Transport, columns: int) -> float:
    width = sum(J.fields.network.widths[1:]) * (2 + 3 * columns)
    rows = array_bytes(J, J.fields.samples, width)
    sums = 2 * array_bytes(J, J.shape[1], columns)
    return 3 * array_bytes(J, max(J.shape), columns) + 2 * bytes_over_rows(rows, sums)
