"""The derivative of the fields with respect to the parameters, inside the activation region.

A direction in parameter space moves each hidden field by its own layer's part and by what the
layers below hand on through a weight matrix, and each conjugate field likewise from above.
Keeping at most `order` of those hand-overs truncates the hierarchy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from opflow.machine.arrays import is_sparse, namespace
from opflow.machine.streams import prefetched
from opflow.machine.workspace import row_slices
from opflow.operators import Operator
from opflow.operators.algebra import is_operator
from opflow.operators.operator import Cost
from opflow.relu.fields import Fields
from opflow.relu.passes import through


def budgets(steps: int, order: int, further: int) -> set[int]:
    """The truncation orders at which a field is needed.

    `steps` is how many hand-overs can reach it, `further` how many fields lie beyond it: the
    field itself is wanted at `order`, the next one hands it on at one order less, and so on.
    """
    return {min(order - j, steps) for j in range(min(order, further) + 1)}


class FieldTangent(Operator):
    r"""∂(h¹, …, h^L, ψ¹, …, ψ^L)/∂(W¹, b¹, …), gates held fixed.

    Parameters
    ----------
    fields : Fields
    order : int
        Hand-overs through a weight matrix to keep at most; L or more keeps all.

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
        net, n = fields.network, fields.samples
        if fields.inputs is None or is_operator(fields.inputs):
            raise ValueError("the velocities of all fields need inputs that can be read by rows")
        self.fields, self.order = fields, order
        self.scales = [math.sqrt(rate) for rate in net.rates]
        # (start, stop) of h^1, …, h^L, ψ^1, …, ψ^L among the rows
        sizes = [n * w for w in net.widths[1:]] + [n * net.outputs * w for w in net.widths[1:]]
        self.edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        super().__init__((self.edges[-1], net.parameters), net.dtype, symbol="∂(h,ψ)/∂W")

    @property
    def data(self) -> Any:
        """The readout: the operator is where it is."""
        return self.fields.network.readout

    def cost(self, columns: int = 1) -> Cost:
        net, n, L = self.fields.network, self.fields.samples, self.fields.network.depth
        size = [W.size for W in net.weights]
        flops = 0.0
        for layer in range(1, L + 1):
            pushes = len(budgets(layer - 1, self.order, L - layer) - {0})
            flops += size[layer - 1] * (1 + pushes)
        for layer in range(1, L):
            pushes = len(budgets(L - 1 - layer, self.order, layer - 1) - {0})
            flops += net.outputs * size[layer] * (1 + pushes)
        stored = (n * (2 + net.outputs) * sum(net.widths[1:]) + sum(size)) * self.dtype.itemsize
        return Cost(2.0 * n * flops * columns, stored + self._vector_bytes(columns))

    def split(self, X: Any) -> tuple[list[Any], list[Any]]:
        """Views of a stacked array (rows, c): hidden (N, n_ℓ, c), conjugate (N, k, n_ℓ, c)."""
        net, n, c, L = self.fields.network, self.fields.samples, X.shape[1], len(self.scales)
        parts = [X[a:b] for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]
        hidden = [p.reshape(n, w, c) for p, w in zip(parts[:L], net.widths[1:], strict=True)]
        conjugate = [
            p.reshape(n, net.outputs, w, c) for p, w in zip(parts[L:], net.widths[1:], strict=True)
        ]
        return hidden, conjugate

    def _blocks(self, columns: int, dtype: Any) -> Iterable[slice]:
        net = self.fields.network
        orders = min(self.order, net.depth - 1) + 1 if self.order < net.depth - 1 else 1
        width = max(net.widths[1:]) * columns * (2 + 2 * orders) * net.outputs
        slices = row_slices(self.fields.samples, (width + max(net.widths)) * dtype.itemsize)
        return prefetched(slices, self.fields.inputs)

    def _gate(self, layer: int, s: slice) -> Any:
        """θ^ℓ of some samples, shaped to multiply (b, ·, n_ℓ)."""
        return (self.fields.activations[layer][s] > 0)[:, None, :]

    def _conjugate(self, layer: int, s: slice) -> Any:
        """φ^ℓ of some samples, outputs along the rows: (b·k, n_ℓ)."""
        phi = self.fields.conjugates[layer - 1][s]
        return phi.reshape(-1, phi.shape[-1])

    def _matmat(self, X: Any) -> Any:
        xp, net, c, L = namespace(X), self.fields.network, X.shape[1], self.fields.network.depth
        places, k = net.parameter_slices(), net.outputs
        moves = [  # Ẇ^ℓ as (n_ℓ, n_{ℓ-1}, c)
            size * X[weight].reshape(*W.shape, c)
            for (weight, _), size, W in zip(places, self.scales, net.weights, strict=True)
        ]
        forward = [M.transpose(1, 2, 0).reshape(M.shape[1], c * M.shape[0]) for M in moves]
        backward = [M.transpose(0, 2, 1).reshape(M.shape[0], c * M.shape[1]) for M in moves]
        out = xp.zeros((self.shape[0], c), dtype=X.dtype)  # ψ^L stays zero
        hidden, conjugate = self.split(out)
        for s in self._blocks(c, X.dtype):
            moved: dict[int, Any] = {}
            for layer in range(1, L + 1):
                below, place = self.fields.activations[layer - 1][s], hidden[layer - 1][s]
                local = _times(below, forward[layer - 1], place if c == 1 else None)
                local = local.reshape(len(place), c, -1)
                bias = places[layer - 1][1]
                if bias is not None:
                    local += self.scales[layer - 1] * X[bias].T
                orders = budgets(layer - 1, self.order, L - layer)
                moved = _handed_on(moved, net.weights[layer - 1].T, local, orders)
                if c > 1:
                    place[...] = local.transpose(0, 2, 1)
                if layer < L:
                    moved = {q: block * self._gate(layer, s) for q, block in moved.items()}
            moved = {}
            for layer in range(L - 1, 0, -1):
                above, place = self._conjugate(layer + 1, s), conjugate[layer - 1][s]
                local = _times(above, backward[layer], place if c == 1 else None)
                local = local.reshape(len(place), k * c, -1)
                orders = budgets(L - 1 - layer, self.order, layer - 1)
                moved = _handed_on(moved, net.weights[layer], local, orders)
                if c > 1:
                    place[...] = local.reshape(len(place), k, c, -1).transpose(0, 1, 3, 2)
                if layer > 1:
                    moved = {q: block * self._gate(layer, s) for q, block in moved.items()}
        return out

    def _rmatmat(self, X: Any) -> Any:
        xp, net, c, L = namespace(X), self.fields.network, X.shape[1], self.fields.network.depth
        places, k = net.parameter_slices(), net.outputs
        hidden, conjugate = self.split(X)
        grads = [xp.zeros((*W.shape, c), dtype=X.dtype) for W in net.weights]
        out = xp.zeros((self.shape[1], c), dtype=X.dtype)
        for s in self._blocks(c, X.dtype):
            orders: dict[int, Any] = {}
            for layer in range(L, 0, -1):
                W, below = net.weights[layer - 1], self.fields.activations[layer - 1][s]
                _accumulate(orders, min(self.order, layer - 1), hidden[layer - 1][s].swapaxes(1, 2))
                total = sum(orders.values())  # (b, c, n_ℓ)
                flat = total.reshape(len(total), c * W.shape[0])
                part = below.T @ flat if is_sparse(below) else (flat.T @ below).T
                grads[layer - 1] += part.reshape(W.shape[1], c, W.shape[0]).transpose(2, 0, 1)
                bias = places[layer - 1][1]
                if bias is not None:
                    out[bias] += total.sum(axis=0).T
                if layer > 1:
                    gate = self._gate(layer - 1, s)
                    orders = {q - 1: through(u, W) * gate for q, u in orders.items() if q}
            orders = {}
            for layer in range(1, L):
                W, phi = net.weights[layer], self._conjugate(layer + 1, s)
                n, b = net.widths[layer], s.stop - s.start
                # (b, k·c, n_ℓ), then with the outputs among the rows (b·k, c·n_ℓ)
                block = conjugate[layer - 1][s].swapaxes(2, 3).reshape(b, k * c, n)
                _accumulate(orders, min(self.order, L - 1 - layer), block)
                total = sum(orders.values()).reshape(b * k, c * n)
                grads[layer] += (phi.T @ total).reshape(phi.shape[1], c, n).transpose(0, 2, 1)
                gate = self._gate(layer + 1, s)
                orders = {q - 1: through(u, W.T) * gate for q, u in orders.items() if q}
        for (weight, bias), size, grad in zip(places, self.scales, grads, strict=True):
            out[weight] = size * grad.reshape(weight.stop - weight.start, c)
            if bias is not None:
                out[bias] *= size
        return out


def _times(rows: Any, right: Any, place: Any) -> Any:
    """``rows @ right``, written to `place` if it is given and the GEMM can."""
    if place is None:
        return rows @ right
    place = place.reshape(rows.shape[0], -1)
    if is_sparse(rows):
        place[...] = rows @ right
        return place
    return namespace(right).matmul(rows, right, out=place)


def _handed_on(moved: dict[int, Any], W: Any, local: Any, orders: set[int]) -> dict[int, Any]:
    """``{q: local + moved[q − 1] W}``, the highest order in the place of `local` itself."""
    *lower, highest = sorted(orders)
    out = {q: local.copy() for q in lower} | {highest: local}
    for q, block in out.items():
        if q:
            block += through(moved[q - 1], W)
    return out


def _accumulate(orders: dict[int, Any], order: int, block: Any) -> None:
    orders[order] = orders[order] + block if order in orders else block
