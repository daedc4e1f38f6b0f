"""The state of the truncated flow: its fields, the weights that they drive, the exact run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opflow.dynamics.measurement import Outputs
from opflow.dynamics.objectives import driven
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, Data, module_name, namespace
from opflow.machine.ranks import LOCAL
from opflow.machine.workspace import row_slices
from opflow.operators import Operator
from opflow.relu.fields import Fields
from opflow.relu.gradient import parameter_gradient
from opflow.relu.hierarchy.tangent import budgets
from opflow.relu.kernels import collective_kernel
from opflow.relu.network import ReLUNetwork
from opflow.relu.passes import blocks, forward_blocks, layer_inputs, through, top_outputs
from opflow.relu.units import activate, response, sloped, slopes


class FieldState:
    r"""Fields h^1, …, h^L, ψ^1, …, ψ^L and the weights they drive, next to the exact weights.

    Parameters
    ----------
    state : State
        The start.
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

    space = LOCAL
    stiffness = 0.0
    measurement = Outputs()

    def __init__(self, state: State, order: int) -> None:
        network = state.network
        self.first = state.first
        self.inputs = state.first.inputs
        self.targets = state.targets
        self.objective = state.objective
        self.order = order
        #: the network whose weights the fields drive
        self.network = network
        self._exact = state
        fields = Fields(network, self.inputs, finite=False)
        self.hidden = fields.hidden()
        self.psi = [
            through(phi.reshape(len(phi), network.outputs, -1), W)
            for phi, W in zip(fields.conjugates[1:], network.weights[1:], strict=True)
        ] + [self._top()]

    def _top(self) -> Array:
        """ψ^L, the readout for every sample."""
        V = self.network.readout
        return namespace(V).broadcast_to(V, (self.samples, *V.shape))

    @property
    def fields(self) -> Fields:
        """The state as :class:`Fields`; its preactivations are those of the state itself."""
        return Fields.from_state(self.network, self.inputs, self.hidden, self.psi)

    @property
    def upper(self) -> ReLUNetwork:
        """As of a :class:`State`, whose first layer may be eliminated; this one's is not."""
        return self.network

    @property
    def exact(self) -> ReLUNetwork:
        return self._exact.network

    @property
    def samples(self) -> int:
        """N."""
        return len(self.targets)

    def snapshot(self) -> Fields:
        """The fields of the network that they drive."""
        return Fields(self.network, self.inputs, finite=False)

    def kernel(self) -> Operator:
        """K of the network that the fields drive."""
        return collective_kernel(self.snapshot())

    def forward_blocks(self) -> Iterator[tuple[slice, list[Array]]]:
        """Row blocks and the activations of the network that the fields drive."""
        return forward_blocks(self.network, self.inputs)

    def predict(self, X: Data) -> Array:
        """Outputs at new inputs of the network that the fields drive."""
        return self.network(X)

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint holds; ψ^L is the readout."""
        arrays = {f"hidden_{i}": h for i, h in enumerate(self.hidden)}
        arrays |= {f"psi_{i}": p for i, p in enumerate(self.psi[:-1])}
        arrays |= self.network.arrays() | self._exact.arrays()
        if self.network.readout_rate is None:  # it stays
            del arrays["readout"]
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take up what :meth:`arrays` gave."""
        layers = range(self.network.depth)
        self._exact = self._exact.restored(arrays)
        self.hidden = [arrays[f"hidden_{i}"] for i in layers]
        network = self.network
        found = ReLUNetwork.from_arrays(network.arrays() | arrays, network.settings())
        self.network = network.with_parameters(found.parameter_list())  # of the same class
        self.psi = [*(arrays[f"psi_{i}"] for i in layers[:-1]), self._top()]

    def evaluate(self, residual: Array) -> float:
        """Fill `residual` from the fields, keep both velocities, return the summed loss."""
        force, loss = driven(self.objective, self.targets, residual)
        net = self.network
        other = namespace(residual).empty_like(residual)
        self._exact_velocity = self._exact.loss_and_velocity(other)[1]

        def visit(samples: slice) -> Iterator[tuple[list[Data], list[Array]]]:
            for s in blocks(net, samples, 2):
                signed = [self.inputs[s]]
                signed += map(activate, (h[s].copy() for h in self.hidden), net.slopes)
                r = force(s, top_outputs(net, signed[-1]))
                gradients = [
                    sloped((r[:, None, :] @ psi[s])[:, 0], h[s], slope)
                    for h, psi, slope in zip(self.hidden, self.psi, net.slopes, strict=True)
                ]
                if net.readout_rate is not None:
                    gradients.append(r)
                yield layer_inputs(net, signed), gradients

        flops = 6.0 * self.samples * net.parameters
        gradient = parameter_gradient(net, self.samples, visit, flops, residual)
        rates = net.parameter_rates()
        self._velocity = [-rate * g for rate, g in zip(rates, gradient, strict=True)]
        return float(loss())

    def advance(self, step: float) -> None:
        """Move fields and weights by one step of the truncated hierarchy."""
        net = self.network
        self._exact = self._exact.moved(self._exact_velocity, step)
        moves = [step * v for v in self._velocity]
        change = net.with_parameters(moves)
        width = max(net.widths[1:]) * (4 + 6 * net.outputs) * (1 + min(self.order, net.depth))
        where = module_name(net.weights[0])
        for s in row_slices(self.samples, width * net.dtype.itemsize, where=where):
            before = [
                slopes(h[s], a, h.dtype) for h, a in zip(self.hidden, net.slopes, strict=True)
            ]
            self._advance_hidden(s, change)
            self._advance_conjugate(s, change, before)
        pairs = zip(net.parameter_list(), moves, strict=True)
        self.network = net.with_parameters([p + move for p, move in pairs])
        self.psi = [*self.psi[:-1], self._top()]

    def _advance_hidden(self, s: slice, moves: ReLUNetwork) -> None:
        L = self.network.depth
        after = self.inputs[s]  # a' of the layer below
        handed: dict[int, Array] = {}  # a(h + Δ_q h) − a of the layer below
        for layer, slope in enumerate(self.network.slopes, start=1):
            W = self.network.weights[layer - 1]
            local = after @ moves.weights[layer - 1].T
            bias = moves.biases[layer - 1]
            if bias is not None:
                local += bias
            orders = budgets(layer - 1, self.order, L - layer)
            change = {q: local + handed[q - 1] @ W.T if q else local for q in orders}
            h = self.hidden[layer - 1][s]
            a = response(h, slope)
            handed = {q: response(h + move, slope) - a for q, move in change.items()}
            h += change[max(orders)]
            after = response(h, slope)

    def _advance_conjugate(self, s: slice, moves: ReLUNetwork, before: list[Array]) -> None:
        L = self.network.depth
        after: Any = None  # φ' of the layer above
        handed: dict[int, Array] = {}  # s' ∘ (ψ + Δ_q ψ) − φ of the layer above
        readout_move: Any = 0.0 if moves.readout_rate is None else moves.readout
        for layer in range(L, 0, -1):
            psi = self.psi[layer - 1][s]
            h = self.hidden[layer - 1][s]
            now = slopes(h, self.network.slopes[layer - 1], h.dtype)[:, None]
            phi = psi * before[layer - 1][:, None]
            change = {0: readout_move}
            if layer < L:
                W = self.network.weights[layer]
                local = through(after, moves.weights[layer])
                # One hand-over more than the velocities have: flips of the top gates.
                orders = budgets(L - layer, self.order, layer - 1)
                change = {q: local + through(handed[q - 1], W) if q else local for q in orders}
            handed = {q: (psi + move) * now - phi for q, move in change.items()}
            if layer < L:
                psi += change[max(change)]
            else:  # ψ^L is not stored
                psi = psi + readout_move
            after = psi * now
