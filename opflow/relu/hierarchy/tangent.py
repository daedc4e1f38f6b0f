"""The derivative of the fields with respect to the parameters, inside the activation region.

A direction in parameter space moves each hidden field by its own layer's part and by what is
propagated from the layer below through a weight matrix, and each conjugate field likewise from
above.  Keeping at most `order` of those propagation steps truncates the hierarchy.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np

from opflow.machine.arrays import Array, Data, is_sparse, namespace
from opflow.operators.operator import Cost
from opflow.relu.directions import Direction, OnParameters, downward
from opflow.relu.fields import Fields
from opflow.relu.gradient import summed
from opflow.relu.jacobian import reads_rows
from opflow.relu.passes import layer_activation, row_blocks, through
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

    def across(self, W: Array) -> Array:
        """What multiplies the field before, W being what drives the field."""
        return W.T if self.up else W

    def steps(self, order: int) -> list[tuple[int, int, set[int]]]:
        """Of each field the layer, the place of its weights, and the orders it is needed at."""
        last = len(self.fields) - 1
        return [
            (layer, layer - self.up, budgets(step, order, last - step))
            for step, layer in enumerate(self.fields)
        ]


class FieldTangent(OnParameters):
    r"""∂(h¹, …, h^L, ψ¹, …, ψ^L)/∂(W¹, b¹, …), gates held fixed.

    At most `order` propagation steps through a weight matrix are kept; L or more keeps all.  With a
    direction :math:`\dot W`,

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
        if not reads_rows(fields):
            raise ValueError("the velocities of all fields need inputs that can be read by rows")
        self.order = order
        self.recursions = [
            Recursion(range(1, net.depth + 1), True, 1),
            Recursion(range(len(net.layers()) - 1, 0, -1), False, net.outputs),
        ]
        rows = fields.samples * (1 + net.outputs) * sum(net.widths[1:])
        super().__init__(fields, rows, "∂(h,ψ)/∂W")

    def cost(self, columns: int = 1) -> Cost:
        net = self.fields.network
        n = self.fields.samples
        sizes = [layer.W.size for layer in self.layers]
        flops = 0.0
        for recursion in self.recursions:
            for _, i, orders in recursion.steps(self.order):
                flops += recursion.outputs * sizes[i] * (1 + len(orders - {0}))
        stored = (n * (2 + net.outputs) * sum(net.widths[1:]) + sum(sizes)) * self.dtype.itemsize
        return Cost(2.0 * n * flops * columns, stored + self._vector_bytes(columns))

    def split(self, X: Array) -> list[list[Array]]:
        """Views of a stacked array (rows, c): hidden (N, 1, n_ℓ, c), conjugate (N, k, n_ℓ, c)."""
        n = self.fields.samples
        stacks: list[list[Array]] = []
        for recursion in self.recursions:
            stacks.append([])
            for width in self.fields.network.widths[1:]:
                size = n * recursion.outputs * width
                stacks[-1].append(X[:size].reshape(n, recursion.outputs, width, X.shape[1]))
                X = X[size:]
        return stacks

    def _blocks(self, columns: int, dtype: np.dtype) -> Iterable[slice]:
        net = self.fields.network
        orders = self.order + 1 if self.order < net.depth - 1 else 1
        width = max(net.widths[1:]) * columns * (2 + 2 * orders) * net.outputs
        row = (width + max(net.widths)) * dtype.itemsize
        return row_blocks(net, self.fields.samples, row, self.fields.inputs)

    def _gate(self, layer: int, rows: list[Data]) -> Array:
        """s^ℓ of the samples of ``[X, ã^1, …]``, shaped to multiply (b, ·, n_ℓ)."""
        net = self.fields.network
        return slopes(rows[layer], net.slopes[layer - 1], net.dtype)[:, None, :]

    def _drive(self, recursion: Recursion, i: int, samples: slice, rows: list[Data]) -> Array:
        """What the weights i multiply: the inputs of their layer, or its φ as (b·k, n)."""
        net = self.fields.network
        if recursion.up:
            return layer_activation(net, i, rows[i])
        k = net.outputs
        if i == net.depth:  # of the block alone: its work must not grow with N
            xp = namespace(self.data)
            return xp.tile(xp.eye(k, dtype=net.dtype), (samples.stop - samples.start, 1))
        return self.fields.conjugate(i + 1)[samples.start * k : samples.stop * k]

    def _matmat(self, X: Array) -> Array:
        c = X.shape[1]
        up = self.directions(X)
        out = namespace(X).zeros((self.shape[0], c), dtype=X.dtype)  # ψ^L stays if V is fixed
        moves = list(zip(self.recursions, (up, downward(up, c)), self.split(out), strict=True))
        for s in self._blocks(c, X.dtype):
            for recursion, directions, fields in moves:
                self._push(recursion, s, directions, fields)
        return out

    def _push(
        self, recursion: Recursion, samples: slice, directions: list[Direction], out: list[Array]
    ) -> None:
        """Write the tangents of all fields of a recursion, for some samples."""
        rows = self.fields.rows(samples, inputs=recursion.up)
        before: dict[int, Array] = {}  # the field before, at each order of truncation
        for step, (layer, i, needed) in enumerate(recursion.steps(self.order)):
            place = out[layer - 1][samples]
            b, outputs, n, c = place.shape
            drive = self._drive(recursion, i, samples, rows)
            D, shift = directions[i]
            local = _times(drive, D, place).reshape(b, outputs * c, n)
            if shift is not None:
                local += shift
            *lower, highest = sorted(needed)
            orders = {q: local.copy() for q in lower} | {highest: local}
            for q, tangent in orders.items():
                if q:
                    gated = before[q - 1] * self._gate(recursion.fields[step - 1], rows)
                    tangent += through(gated, recursion.across(self.layers[i].W))
            before = orders
            if c > 1:
                place[...] = local.reshape(b, outputs, c, n).swapaxes(2, 3)

    def _rmatmat(self, X: Array) -> Array:
        c = X.shape[1]
        out = namespace(X).zeros((self.shape[1], c), dtype=X.dtype)
        stacks = self.split(X)
        for s in self._blocks(c, X.dtype):
            for recursion, fields in zip(self.recursions, stacks, strict=True):
                self._pull(recursion, s, fields, out)
        return self.scaled(out)

    def _pull(self, recursion: Recursion, samples: slice, fields: list[Array], out: Array) -> None:
        """Add what all fields of a recursion give to the parameters, for some samples."""
        rows = self.fields.rows(samples, inputs=recursion.up)
        orders: dict[int, Array] = {}
        for step, (layer, i, _) in reversed(list(enumerate(recursion.steps(self.order)))):
            field = fields[layer - 1][samples]
            b, outputs, n, c = field.shape
            field = field.swapaxes(2, 3).reshape(b, outputs * c, n)
            q = min(self.order, step)
            orders[q] = orders[q] + field if q in orders else field
            total = reduce(add, orders.values())
            W, weight, bias, _ = self.layers[i]
            place = out[weight].reshape(*W.shape, c)
            drive = self._drive(recursion, i, samples, rows)
            flat = total.reshape(b * outputs, c * n)
            if recursion.up:
                place += summed(flat, drive).reshape(c, n, -1).transpose(1, 2, 0)
                if bias is not None:
                    out[bias] += total.sum(axis=0).T
            else:
                place += (drive.T @ flat).reshape(-1, c, n).transpose(0, 2, 1)
            orders = {
                q - 1: through(u, recursion.across(W).T)
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
