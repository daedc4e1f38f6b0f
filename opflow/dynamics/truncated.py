"""Hidden and conjugate fields as the state, with the hierarchy truncated at an order.

What a layer hands on to the next travels through one weight matrix, so a change is carried
through `order` weight matrices at most.  Steps use finite increments, not velocities: at full
order they are gradient descent to rounding, gate flips included, and for a small step they are
the Euler step of the truncated flow.
"""

from __future__ import annotations

from typing import Any

from opflow.arrays import is_sparse, namespace
from opflow.dynamics.flow import WeightState
from opflow.operators.rows import row_slices
from opflow.relu.fields import Fields
from opflow.relu.hierarchy.tangent import budgets
from opflow.relu.network import ReLUNetwork


class FieldState:
    r"""Fields h^1, …, h^L, ψ^1, …, ψ^L and the weights they drive, next to the exact weights.

    Parameters
    ----------
    network : ReLUNetwork
    X : array (N, d) or sparse matrix
    y : array (N, k)
    order : int

    Notes
    -----
    With :math:`\Delta W^\ell = -\mathrm{step}\,\eta_\ell\, (\varphi^{\ell T} r)^T a^{\ell-1}`
    and primes for values after the step,

    .. math::
        \Delta_q h^\ell = a'^{\ell-1} \Delta W^{\ell T} + \Delta b^\ell
            + \big(\mathrm{relu}(h^{\ell-1} + \Delta_{q-1} h^{\ell-1}) - a^{\ell-1}\big) W^{\ell T},

        \Delta_q \psi^\ell = \varphi'^{\ell+1} \Delta W^{\ell+1} + \big(\theta'^{\ell+1} \circ
            (\psi^{\ell+1} + \Delta_{q-1} \psi^{\ell+1}) - \varphi^{\ell+1}\big) W^{\ell+1},

    the last term of each being absent at q = 0; the state moves by Δ at the order of the
    truncation.  At order 0 the fields close among themselves and no weight is needed.  The state
    holds N·(1 + k)·Σn_ℓ numbers (about twice that while it is set up) and two sets of weights.
    """

    def __init__(self, network: ReLUNetwork, X: Any, y: Any, order: int) -> None:
        fields, self._exact = Fields(network, X), WeightState(network, X, y)
        self.network, self.inputs, self.targets, self.order = network, X, y, order
        self.hidden = fields.preactivations
        xp, n, k = namespace(network.readout), fields.samples, network.outputs
        top = xp.broadcast_to(network.readout, (n, *network.readout.shape))
        self.psi = [
            (phi.reshape(n * k, -1) @ W).reshape(n, k, -1)
            for phi, W in zip(fields.conjugates[1:], network.weights[1:], strict=True)
        ] + [top]

    @property
    def fields(self) -> Fields:
        """The state as :class:`Fields`; its preactivations are those of the state itself."""
        return Fields.from_state(self.network, self.inputs, self.hidden, self.psi)

    @property
    def exact(self) -> ReLUNetwork:
        return self._exact.network

    def _blocks(self) -> list[slice]:
        net = self.network
        width = max(net.widths[1:]) * (4 + 6 * net.outputs) * (1 + min(self.order, net.depth))
        return row_slices(len(self.targets), width * net.dtype.itemsize)

    def evaluate(self, residual: Any) -> float:
        """Fill `residual` from the fields, keep ∂W and ∂b, return the summed loss."""
        net, xp = self.network, namespace(residual)
        self._exact.evaluate(xp.empty_like(residual))
        self._weights = [xp.zeros_like(W) for W in net.weights]
        self._biases = [None if b is None else xp.zeros_like(b) for b in net.biases]
        loss = 0.0
        for s in self._blocks():
            r = residual[s]
            xp.subtract(xp.maximum(self.hidden[-1][s], 0) @ net.readout.T, self.targets[s], out=r)
            loss += 0.5 * float((r.astype(xp.float64) ** 2).sum())
            below = self.inputs[s]
            for h, psi, total, bias in zip(
                self.hidden, self.psi, self._weights, self._biases, strict=True
            ):
                slope = (r[:, None, :] @ psi[s])[:, 0] * (h[s] > 0)
                total += (below.T @ slope).T if is_sparse(below) else slope.T @ below
                if bias is not None:
                    bias += slope.sum(axis=0)
                below = xp.maximum(h[s], 0)
        return loss

    def advance(self, step: float) -> None:
        """Move fields and weights by one step of the truncated hierarchy."""
        net = self.network
        self._exact.advance(step)
        moves = [-step * rate * G for rate, G in zip(net.rates, self._weights, strict=True)]
        shifts = [
            None if g is None else -step * rate * g
            for rate, g in zip(net.rates, self._biases, strict=True)
        ]
        for s in self._blocks():
            gates = [h[s] > 0 for h in self.hidden]
            self._advance_hidden(s, moves, shifts)
            self._advance_conjugate(s, moves, gates)
        self.network = net.moved(
            [W + M for W, M in zip(net.weights, moves, strict=True)],
            [None if b is None else b + c for b, c in zip(net.biases, shifts, strict=True)],
        )

    def _advance_hidden(self, s: slice, moves: list[Any], shifts: list[Any]) -> None:
        net, L = self.network, self.network.depth
        xp = namespace(net.readout)
        after = self.inputs[s]  # a' of the layer below
        handed: dict[int, Any] = {}  # relu(h + Δ_q h) − a of the layer below
        for layer in range(1, L + 1):
            local = after @ moves[layer - 1].T
            if shifts[layer - 1] is not None:
                local += shifts[layer - 1]
            orders = budgets(layer - 1, self.order, L - layer)
            W = net.weights[layer - 1]
            change = {q: local + handed[q - 1] @ W.T if q else local for q in orders}
            h = self.hidden[layer - 1][s]
            before = xp.maximum(h, 0)
            handed = {q: xp.maximum(h + move, 0) - before for q, move in change.items()}
            h += change[max(orders)]
            after = xp.maximum(h, 0)

    def _advance_conjugate(self, s: slice, moves: list[Any], gates: list[Any]) -> None:
        net, L = self.network, self.network.depth
        after: Any = None  # φ' of the layer above
        handed: dict[int, Any] = {}  # θ' ∘ (ψ + Δ_q ψ) − φ of the layer above
        for layer in range(L, 0, -1):
            psi, now = self.psi[layer - 1][s], (self.hidden[layer - 1][s] > 0)[:, None]
            phi = psi * gates[layer - 1][:, None]
            if layer == L:  # the readout is fixed; only its gates move
                change = {0: 0.0}
            else:
                W = net.weights[layer]
                local = after @ moves[layer]
                # One hand-over more than the velocities have: flips of the top gates.
                orders = budgets(L - layer, self.order, layer - 1)
                change = {q: local + handed[q - 1] @ W if q else local for q in orders}
            handed = {q: (psi + move) * now - phi for q, move in change.items()}
            if layer < L:
                psi += change[max(change)]
            after = psi * now
