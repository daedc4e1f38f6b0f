"""The derivative of the fields with respect to the parameters, inside the activation region.

A direction in parameter space moves each hidden field by its own layer's part and by what is
propagated from the layer below through a weight matrix, and each conjugate field likewise from
above.  Keeping at most `order` of those propagation steps truncates the hierarchy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np

from opflow.machine.arrays import Array, Data, is_sparse, module_name, namespace
from opflow.machine.streams import prefetched
from opflow.machine.workspace import row_slices
from opflow.operators import Operator
from opflow.operators.operator import Cost
from opflow.operators.rules import is_operator
from opflow.relu.fields import Fields
from opflow.relu.passes import layer_activation, output_conjugates, through
from opflow.relu.units import slopes


def budgets(steps: int, order: int, further: int) -> set[int]:
    """The truncation orders at which a field is needed.

    `steps` is how many propagation steps can reach it, `further` how many fields lie beyond it:
    the field itself is wanted at `order`, the next one needs it at one order less, and so on.
    """
    return {min(order - j, steps) for j in range(min(order, further) + 1)}


class Recursion(NamedTuple):
    """The recursion of the hidden fields up the layers, or of the conjugate fields down."""

    fields: range  #: layers of its fields, each propagated from the one before
    up: bool  #: h^ℓ, driven by W^ℓ and a^{ℓ-1}; else ψ^ℓ, driven by W^{ℓ+1} and φ^{ℓ+1}
    outputs: int  #: rows of a sample in its fields

    def weight(self, layer: int) -> int:
        """The place among the weights of what drives the field of a layer."""
        return layer - 1 if self.up else layer

    def needed(self, step: int, order: int) -> set[int]:
        """The truncation orders at which its field `step` is needed."""
        return budgets(step, order, len(self.fields) - 1 - step)


class FieldTangent(Operator):
    r"""∂(h¹, …, h^L, ψ¹, …, ψ^L)/∂(W¹, b¹, …), gates held fixed.

    Parameters
    ----------
    fields : Fields
    order : int
        Propagation steps through a weight matrix to keep at most; L or more keeps all.

    Notes
    -----
    With a direction :math:`\dot W`,

    .. math::
        \dot h^\ell = a^{\ell-1} \dot W^{\ell T} + \dot b^\ell
            + (\theta^{\ell-1} \circ \dot h^{\ell-1}) W^{\ell T}, \qquad
        \dot\psi^\ell = \varphi^{\ell+1} \dot W^{\ell+1}
            + (\theta^{\ell+1} \circ \dot\psi^{\ell+1}) W^{\ell+1}.

    Columns are scaled by √η_ℓ, as those of :func:`opflow.jacobian`.  Row blocks of samples:
    the workspace does not grow with N.  2·N·(P + (k + 1)·(P − P_1) + k·(P − P_1 − P_2)) flops a
    column at full order.
    """

    def __init__(self, fields: Fields, order: int) -> None:
        net = fields.network
        if fields.inputs is None or is_operator(fields.inputs):
            raise ValueError("the velocities of all fields need inputs that can be read by rows")
        self.fields = fields
        self.order = order
        self.scales = [math.sqrt(rate) for rate in net.layer_rates()]
        #: of the trained layers
        self.weights = [W for W, _ in net.layers()]
        self.recursions = [
            Recursion(range(1, net.depth + 1), True, 1),
            Recursion(range(len(net.layers()) - 1, 0, -1), False, net.outputs),
        ]
        rows = fields.samples * (1 + net.outputs) * sum(net.widths[1:])
        super().__init__((rows, net.parameters), net.dtype, symbol="∂(h,ψ)/∂W")

    @property
    def data(self) -> Any:
        """The readout: the operator is where it is."""
        return self.fields.network.readout

    def cost(self, columns: int = 1) -> Cost:
        net = self.fields.network
        n = self.fields.samples
        sizes = [W.size for W in self.weights]
        flops = 0.0
        for recursion in self.recursions:
            for step, layer in enumerate(recursion.fields):
                propagated = len(recursion.needed(step, self.order) - {0})
                flops += recursion.outputs * sizes[recursion.weight(layer)] * (1 + propagated)
        stored = (n * (2 + net.outputs) * sum(net.widths[1:]) + sum(sizes)) * self.dtype.itemsize
        return Cost(2.0 * n * flops * columns, stored + self._vector_bytes(columns))

    def split(self, X: Array) -> list[list[Array]]:
        """Views of a stacked array (rows, c): hidden (N, 1, n_ℓ, c), conjugate (N, k, n_ℓ, c)."""
        n = self.fields.samples
        start = 0
        stacks = []
        for recursion in self.recursions:
            stack = []
            for width in self.fields.network.widths[1:]:
                stop = start + n * recursion.outputs * width
                stack.append(X[start:stop].reshape(n, recursion.outputs, width, X.shape[1]))
                start = stop
            stacks.append(stack)
        return stacks

    def _blocks(self, columns: int, dtype: np.dtype) -> Iterable[slice]:
        net = self.fields.network
        orders = min(self.order, net.depth - 1) + 1 if self.order < net.depth - 1 else 1
        width = max(net.widths[1:]) * columns * (2 + 2 * orders) * net.outputs
        row = (width + max(net.widths)) * dtype.itemsize
        where = module_name(net.weights[0])
        slices = row_slices(self.fields.samples, row, where=where)
        return prefetched(slices, self.fields.inputs)

    def _gate(self, layer: int, rows: list[Data]) -> Array:
        """s^ℓ of the samples of ``[X, ã^1, …]``, shaped to multiply (b, ·, n_ℓ)."""
        net = self.fields.network
        return slopes(rows[layer], net.slopes[layer - 1], net.dtype)[:, None, :]

    def _drive(self, recursion: Recursion, layer: int, samples: slice, rows: list[Data]) -> Array:
        """What the weights of a field multiply: a^{ℓ-1}, or φ^{ℓ+1} as (b·k, n_{ℓ+1})."""
        net = self.fields.network
        if recursion.up:
            return layer_activation(net, layer - 1, rows[layer - 1])
        if layer == net.depth:
            phi = output_conjugates(net, samples.stop - samples.start)
        else:
            phi = self.fields.conjugates[layer][samples]
        return phi.reshape(-1, phi.shape[-1])

    def _matmat(self, X: Array) -> Array:
        xp = namespace(X)
        net = self.fields.network
        c = X.shape[1]
        up, down, biases = [], [], []
        for (weight, bias), scale, W in zip(
            net.parameter_slices(), self.scales, self.weights, strict=True
        ):
            direction = scale * X[weight].reshape(*W.shape, c)
            up.append(direction.transpose(1, 2, 0).reshape(W.shape[1], -1))
            down.append(direction.transpose(0, 2, 1).reshape(W.shape[0], -1))
            biases.append(None if bias is None else scale * X[bias].T)
        out = xp.zeros((self.shape[0], c), dtype=X.dtype)  # ψ^L stays zero if the readout is fixed
        hidden, conjugate = self.split(out)
        for s in self._blocks(c, X.dtype):
            self._push(self.recursions[0], s, up, biases, hidden)
            self._push(self.recursions[1], s, down, [None] * len(down), conjugate)
        return out

    def _push(
        self,
        recursion: Recursion,
        samples: slice,
        directions: list[Array],
        biases: list[Array | None],
        out: list[Array],
    ) -> None:
        """Write the tangents of all fields of a recursion, for some samples."""
        rows = self.fields.rows(samples, inputs=recursion.up)
        before: dict[int, Array] = {}  # the field before, at each order of truncation
        for step, layer in enumerate(recursion.fields):
            i = recursion.weight(layer)
            place = out[layer - 1][samples]
            b, outputs, n, c = place.shape
            drive = self._drive(recursion, layer, samples, rows)
            local = _times(drive, directions[i], place).reshape(b, outputs * c, n)
            if (bias := biases[i]) is not None:
                local += bias
            *lower, highest = sorted(recursion.needed(step, self.order))
            orders = {q: local.copy() for q in lower} | {highest: local}
            W = self.weights[i]
            for q, tangent in orders.items():
                if q:
                    gated = before[q - 1] * self._gate(recursion.fields[step - 1], rows)
                    tangent += through(gated, W.T if recursion.up else W)
            before = orders
            if c > 1:
                place[...] = local.reshape(b, outputs, c, n).swapaxes(2, 3)

    def _rmatmat(self, X: Array) -> Array:
        xp = namespace(X)
        net = self.fields.network
        c = X.shape[1]
        hidden, conjugate = self.split(X)
        gradients = [xp.zeros((*W.shape, c), dtype=X.dtype) for W in self.weights]
        out = xp.zeros((self.shape[1], c), dtype=X.dtype)
        slices = net.parameter_slices()
        biases = [None if bias is None else out[bias] for _, bias in slices]
        for s in self._blocks(c, X.dtype):
            self._pull(self.recursions[0], s, hidden, gradients, biases)
            self._pull(self.recursions[1], s, conjugate, gradients, [None] * len(biases))
        for (weight, bias), scale, gradient in zip(slices, self.scales, gradients, strict=True):
            out[weight] = scale * gradient.reshape(-1, c)
            if bias is not None:
                out[bias] *= scale
        return out

    def _pull(
        self,
        recursion: Recursion,
        samples: slice,
        stack: list[Array],
        gradients: list[Array],
        biases: list[Array | None],
    ) -> None:
        """Add what the fields of some samples give to gradients (n_ℓ, n_{ℓ-1}, c) and biases."""
        rows = self.fields.rows(samples, inputs=recursion.up)
        orders: dict[int, Array] = {}
        for step in reversed(range(len(recursion.fields))):
            layer = recursion.fields[step]
            i = recursion.weight(layer)
            field = stack[layer - 1][samples]
            b, outputs, n, c = field.shape
            field = field.swapaxes(2, 3).reshape(b, outputs * c, n)
            q = min(self.order, step)
            orders[q] = orders[q] + field if q in orders else field
            total = reduce(add, orders.values())
            if (bias := biases[i]) is not None:
                bias += total.sum(axis=0).T
            drive = self._drive(recursion, layer, samples, rows)
            total = total.reshape(b * outputs, c * n)
            if not recursion.up:
                part = (drive.T @ total).reshape(-1, c, n).transpose(0, 2, 1)
            elif is_sparse(drive):
                part = (drive.T @ total).reshape(-1, c, n).transpose(2, 0, 1)
            else:
                part = (total.T @ drive).reshape(c, n, -1).transpose(1, 2, 0)
            gradients[i] += part
            W = self.weights[i]
            orders = {
                q - 1: through(u, W if recursion.up else W.T)
                * self._gate(recursion.fields[step - 1], rows)
                for q, u in orders.items()
                if q
            }


def _times(rows: Data, right: Array, place: Array) -> Array:
    """``rows @ right``, written to `place` if it has one column."""
    if place.shape[-1] > 1:
        return rows @ right
    place = place.reshape(rows.shape[0], -1)
    if is_sparse(rows):
        place[...] = rows @ right
        return place
    return namespace(right).matmul(rows, right, out=place)
