"""The Jacobian without stored conjugates: Jᵀu by a backward pass, J v by a forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Data, Index, is_sparse, module_name, namespace
from opflow.machine.streams import prefetched
from opflow.machine.threads import bytes_over_rows, over_rows
from opflow.machine.workspace import row_slices
from opflow.operators import Matrix, Operator
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost
from opflow.operators.prices import Work, array_bytes, gram_work, product_bytes
from opflow.relu.fields import Fields
from opflow.relu.gradient import parameter_gradient
from opflow.relu.inputs import copied_width
from opflow.relu.passes import conjugates, gradients, layer_inputs, output_conjugates, through
from opflow.relu.units import sloped


class Transport(Operator):
    r"""The Jacobian by transport: backpropagate, then push tangents forward.

    Parameters
    ----------
    fields : Fields
    rates : bool, default True
        As in :func:`jacobian`.

    Notes
    -----
    ``Jᵀ r`` backpropagates r through the gates, ``J m`` pushes the tangent
    :math:`\dot h^\ell = a^{\ell-1} M_\ell^T + \dot a^{\ell-1} W^{\ell T}` forward; together
    8·N·P − 4·N·P_1 + 4·N·k·n_L flops a column for any number k of outputs, and no conjugate is
    stored.
    """

    def __init__(self, fields: Fields, *, rates: bool = True) -> None:
        net = fields.network
        self.fields = fields
        self.rates = rates
        #: √η of each trained layer
        self.scales = [math.sqrt(rate) if rates else 1.0 for rate in net.layer_rates()]
        super().__init__((fields.samples * net.outputs, net.parameters), net.dtype, symbol="J")

    @property
    def data(self) -> Array:
        """The readout: the operator is where it is."""
        return self.fields.network.readout

    def cost(self, columns: int = 1) -> Cost:
        net = self.fields.network
        n = self.fields.samples
        flops = 4.0 * net.parameters - 2.0 * net.weights[0].size + 2.0 * net.readout.size
        if self.fields.storage == "recomputed":
            flops += 2.0 * net.parameters
        stored = array_bytes(self, n, net.widths[0]) + self.fields.nbytes
        return Cost(n * flops * columns, stored + self._vector_bytes(columns))

    def layers(self) -> list[tuple[slice, slice | None, float]]:
        """Where weights and bias of each trained layer stand among the columns, and √η."""
        places = self.fields.network.parameter_slices()
        return [(*place, size) for place, size in zip(places, self.scales, strict=True)]

    def blocks(self, columns: int, dtype: DTypeLike, samples: slice) -> Iterable[slice]:
        X = self.fields.inputs
        net = self.fields.network
        width = (sum(net.widths[1:]) + net.outputs) * (2 + 3 * columns) + copied_width(X)
        where = module_name(net.weights[0])
        return prefetched(row_slices(samples, width * self.dtype.itemsize, where=where), X)

    def _conjugate_blocks(self) -> Iterator[tuple[slice, list[Data], list[Array]]]:
        """Row block by row block, the slice, and of each trained layer the inputs and φ."""
        net = self.fields.network
        for s in self.blocks(net.outputs, self.dtype, slice(0, self.fields.samples)):
            yield s, *self._factors(self.fields.rows(s))

    def _factors(self, rows: list[Data]) -> tuple[list[Data], list[Array]]:
        """Of each trained layer the inputs and φ, (b, k, n), from ``[X, ã^1, …]``."""
        net = self.fields.network
        phis = conjugates(net, rows, self.fields.seed(rows))
        if net.readout_rate is not None:
            phis.append(output_conjugates(net, len(phis[0])))
        return layer_inputs(net, rows), phis

    def _rmatmat(self, X: Array) -> Array:
        net = self.fields.network
        k = net.outputs
        c = X.shape[1]

        def visit(samples: slice) -> Iterator[tuple[list[Data], list[Array]]]:
            for s in self.blocks(c, X.dtype, samples):
                rows = self.fields.rows(s)
                r = X[s.start * k : s.stop * k].reshape(-1, k, c)
                r = r[:, :, 0] if c == 1 else r.transpose(0, 2, 1)
                yield layer_inputs(net, rows), gradients(net, rows, r)

        sums = parameter_gradient(
            net,
            self.fields.samples,
            visit,
            self.cost(c).flops / 2,
            self.fields.inputs,
            columns=c,
        )
        out = namespace(X).empty((self.shape[1], c), dtype=X.dtype)
        totals = iter(sums)
        for weight, bias, size in self.layers():
            out[weight] = next(totals).reshape(c, -1).T
            out[weight] *= size
            if bias is not None:
                out[bias] = size * next(totals).reshape(c, -1).T
        return out

    def _matmat(self, X: Array) -> Array:
        net = self.fields.network
        k = net.outputs
        c = X.shape[1]
        directions = self.directions(X)
        out = namespace(X).empty((self.shape[0], c), dtype=X.dtype)

        def push(samples: slice) -> None:
            for s in self.blocks(c, X.dtype, samples):
                rows = self.fields.rows(s)
                outputs = self.tangents(rows, layer_inputs(net, rows), X, directions)[-1]
                out[s.start * k : s.stop * k] = outputs.transpose(0, 2, 1).reshape(-1, c)

        over_rows(self.fields.samples, push, self.cost(c).flops / 2, self.fields.inputs)
        return out

    def directions(self, X: Array) -> list[Array]:
        """What multiplies the inputs of each trained layer, (n_{ℓ-1}, c·n_ℓ), for c vectors."""
        layers = zip(self.layers(), self.fields.network.layers(), strict=True)
        return [
            size * X[weight].reshape(*W.shape, -1).transpose(1, 2, 0).reshape(W.shape[1], -1)
            for (weight, _, size), (W, _) in layers
        ]

    def tangents(
        self, rows: list[Data], below: list[Data], X: Array, directions: list[Array]
    ) -> list[Array]:
        """``[ȧ^1, …, ȧ^L, ḟ]``, each (b, c, n), of ``[X, ã^1, …]`` and the layers' inputs."""
        net = self.fields.network
        own = []  # what each layer's parameters move at its outputs
        for a, direction, (_, bias, size) in zip(below, directions, self.layers(), strict=True):
            moved = (a @ direction).reshape(a.shape[0], X.shape[1], -1)
            if bias is not None:
                moved += size * X[bias].T
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
def _gram_diagonal(J: Transport, weights: Any = None) -> Array:
    if weights is not None:
        return gram_diagonal.dispatch(Operator)(J, weights)
    net = J.fields.network
    shape = (J.fields.samples, net.outputs)
    out = namespace(net.readout).zeros(shape, dtype=J.dtype)
    for s, inputs, phis in J._conjugate_blocks():
        for size, (_, b), below, phi in zip(J.scales, net.layers(), inputs, phis, strict=True):
            norms = gram_diagonal(Matrix(below)) + (b is not None)
            out[s] += size**2 * norms[:, None] * (phi**2).sum(axis=2)
    return out.reshape(-1)


@column_squares.register
def _column_squares(J: Transport) -> Array:
    layers = J.layers()
    out = namespace(J.data).zeros(J.shape[1], dtype=J.dtype)
    for _, inputs, phis in J._conjugate_blocks():
        for (weight, bias, size), below, phi in zip(layers, inputs, phis, strict=True):
            squares = size**2 * (phi**2).sum(axis=1)
            entries = below.multiply(below) if is_sparse(below) else below**2
            out[weight] += (entries.T @ squares).T.reshape(-1)
            if bias is not None:
                out[bias] += squares.sum(axis=0)
    return out


@gram_block.register
def _gram_block(J: Transport, rows: Index, cols: Index, weights: Any = None) -> Array:
    if weights is not None:
        return gram_block.dispatch(Operator)(J, rows, cols, weights)
    left, phis = _fields_of(J, rows)
    right, others = _fields_of(J, cols)
    block: Any = 0
    for i, (_, b) in enumerate(J.fields.network.layers()):
        gram = left[i] @ right[i].T
        if is_sparse(gram):
            gram = gram.toarray()
        if b is not None:
            gram = gram + 1
        block = block + J.scales[i] ** 2 * gram * (phis[i] @ others[i].T)
    return block


def _fields_of(J: Transport, index: Index) -> tuple[list[Data], list[Array]]:
    """The inputs and φ of each trained layer, of some rows of J."""
    net = J.fields.network
    xp = namespace(net.readout)
    wanted = xp.arange(J.shape[0])[index]
    inputs, phis = J._factors(J.fields.rows(wanted // net.outputs))
    place = (xp.arange(len(wanted)), wanted % net.outputs)
    return inputs, [phi[place] for phi in phis]


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
