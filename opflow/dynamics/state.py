"""The state of a run and its velocity, weight decay included; its residual is recomputed.

The state is (W¹, b¹, …, W^L, b^L), and the readout where it is trained; with the first layer
eliminated, C stands in the place of W¹.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from numpy.typing import DTypeLike

from opflow.dynamics.first_layer import FirstLayer
from opflow.dynamics.measurement import OUTPUTS, Block, Force, Outputs
from opflow.dynamics.objectives import QUADRATIC, RunObjective, driven
from opflow.machine.arrays import Array, Data, is_rows, namespace
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.threads import cached_property, over_rows
from opflow.operators import Operator
from opflow.relu.fields import Fields
from opflow.relu.gradient import parameter_gradient, sum_bytes, total_over_ranks
from opflow.relu.inputs import RowHidden, StoredHidden
from opflow.relu.kernels import collective_kernel
from opflow.relu.network import ReLUNetwork
from opflow.relu.passes import activation_blocks, gradients, layer_inputs, top_outputs

#: flops that take the time of the element-wise passes over one entry of a field
ENTRY = 50.0


@dataclass(eq=False, repr=False)
class State:
    """Parameters on a training set.  States are immutable; moving one gives another."""

    #: the network at the start of the run
    start: ReLUNetwork
    first: FirstLayer
    #: (N, k), or (M, 1) if measured
    targets: Array
    #: ``[W¹ or C, b¹, W², b², …]``, a bias only where there is one; those of the start by default
    parameters: list[Array] = field(default_factory=list)
    #: the dtype of parameters and of sums over row blocks; GEMMs stay in the network's
    accumulate: DTypeLike | None = None
    #: bytes that the fields of :meth:`kernel` may hold
    memory: float | None = None
    #: how the targets are held: all here, or those of this rank, as the samples of `first`
    space: RowDistribution = LOCAL
    objective: RunObjective = QUADRATIC
    #: λ of weight decay over what multiplies the summed loss
    decay: float = 0.0
    #: what the targets are compared with
    measurement: Outputs = OUTPUTS

    #: what a state of fields has besides: the fields themselves, and the exact run next to them
    fields = exact = None

    def __post_init__(self) -> None:
        dtype = self.start.dtype
        if not self.parameters:
            given = [self.first.start(self.start), *self.start.parameter_list()[1:]]
            self.parameters = [p.astype(self.accumulate or dtype, copy=False) for p in given]
        parameters = [p.astype(dtype, copy=False) for p in self.parameters]
        #: the network above the first layer, and its bias
        self.upper = self.first.upper(self.start, parameters)
        #: what weight decay adds to λ_max(K) at most
        self.stiffness = self.decay * max(self.start.parameter_rates())
        #: how the samples are held
        self.over = self.measurement.samples(self.space)

    @property
    def samples(self) -> int:
        """Of all ranks."""
        return self.over.all_rows(self.first.samples)

    @property
    def rows(self) -> int:
        """Of the targets, on all ranks."""
        return self.space.all_rows(len(self.targets))

    @cached_property
    def network(self) -> ReLUNetwork:
        """The network at this state; costs 2·N·d·n_1 flops if its first layer was eliminated."""
        return self.first.network(self.upper, self.parameters[0])

    def moved(self, direction: list[Array], step: float) -> State:
        """The state at ``parameters + step · direction``."""
        parameters = []
        for old, move in zip(self.parameters, direction, strict=True):
            new = step * move.astype(old.dtype, copy=False)
            new += old
            parameters.append(new)
        return self.at(parameters)

    def at(self, parameters: list[Array]) -> State:
        """The same training set at other parameters."""
        return replace(self, parameters=parameters)

    def arrays(self) -> dict[str, Array]:
        """The parameters by name."""
        return {f"parameter_{i}": p for i, p in enumerate(self.parameters)}

    def restored(self, arrays: dict[str, Array]) -> State:
        """The state at the parameters that :meth:`arrays` gave."""
        return self.at([arrays[f"parameter_{i}"] for i in range(len(self.parameters))])

    def loss_and_velocity(self, residual: Array) -> tuple[Array, list[Array]]:
        """Fill `residual` with the force; the loss (a number on the device) and the velocity.

        About 2·N·(3P − P_1) flops in one pass over row blocks; the loss is summed in float64.
        Measured outputs take a forward pass before, whose activations are kept if `memory` allows.
        """
        force, loss = driven(self.objective, self.targets, residual)
        hidden = self._hidden()
        pull, kept = self.measurement.driven(force, partial(self._outputs, hidden))
        velocity = self._velocity(pull, hidden, kept)
        if self.decay:
            sets = zip(velocity, self.parameters, self.upper.parameter_rates(), strict=True)
            for v, p, rate in sets:
                v -= (rate * self.decay) * p
        return self.space.total(loss()), velocity

    @property
    def penalty(self) -> float:
        """½ λ |θ|², on the scale of the summed loss, which velocities descend with the loss."""
        squares = (float(LOCAL.norm(p)) ** 2 for p in self.parameters)
        return 0.5 * self.decay * sum(squares) if self.decay else 0.0

    def direction(self, u: Array) -> list[Array]:
        """−η_ℓ (Jᵀu)_ℓ, aligned with `parameters`, for u of the shape of the targets."""
        pulled = self.measurement.pulled(u)
        return self._velocity(lambda s, f: pulled[s], self._hidden())

    def _hidden(self) -> RowHidden | StoredHidden:
        return self.first.hidden(self.upper, self.parameters[0])

    @property
    def _flops(self) -> float:
        """Of a gradient: samples are divided among threads by it."""
        net = self.upper
        return self.first.samples * (6.0 * self.first.entries(net) + ENTRY * sum(net.widths[1:]))

    def _outputs(self, hidden: RowHidden | StoredHidden) -> tuple[Array, list[Block]]:
        """f (N, k), and the row blocks of :meth:`_velocity` in order, if they may be kept."""
        net, n = self.upper, self.first.samples
        size = n * sum(net.widths[1:]) * net.dtype.itemsize
        keep = self.memory is not None and size <= self.memory and not is_rows(hidden.data)
        source = hidden if keep else hidden.again()
        f = namespace(net.readout).empty((n, net.outputs), dtype=net.dtype)
        kept: list[Block] = []

        def visit(samples: slice) -> None:
            for block in activation_blocks(net, samples, source, copies=1):
                f[block[0]] = top_outputs(net, block[1][-1])
                if keep:
                    kept.append(block)

        over_rows(n, visit, self._flops, hidden.data, sums=sum_bytes(net, self.accumulate))
        return f, sorted(kept, key=lambda block: block[0].start)

    def _velocity(
        self, force: Force, hidden: RowHidden | StoredHidden, kept: Sequence[Block] = ()
    ) -> list[Array]:
        """−η_ℓ (Jᵀu)_ℓ for the u that `force` makes of the outputs of a block of samples."""
        net = self.upper

        def visit(samples: slice) -> Iterator[tuple[list[Data], list[Array]]]:
            first, last = samples.start, samples.stop  # a rank may have none: 0 and 0
            mine = [block for block in kept if first <= block[0].start and block[0].stop <= last]
            anew = activation_blocks(net, samples, hidden, copies=1)
            for s, activations in mine if kept else anew:
                u = force(s, top_outputs(net, activations[-1]))
                found = gradients(net, activations, u)
                yield layer_inputs(net, activations), found
                if activations[0] is None:  # a¹ is summed and may be overwritten
                    hidden.data[s] = found[0]

        gradient = parameter_gradient(
            net, self.first.samples, visit, self._flops, hidden.data, dtype=self.accumulate
        )
        if gradient[0] is None:
            gradient[0] = self.first.pull(hidden.data)
        gradient = total_over_ranks(gradient, self.space)
        for part, rate in zip(gradient, net.parameter_rates(), strict=True):
            part *= -rate
        return gradient

    def forward_blocks(self) -> Iterator[tuple[slice, list[Array]]]:
        """Row block by row block, the slice and the signed activations ``[X, ã^1, …, ã^L]``."""
        return activation_blocks(self.upper, self.first.samples, self._hidden(), copies=1)

    def snapshot(self) -> Fields:
        """The fields at this state."""
        return self.first.fields(self.upper, self.parameters[0], self.memory, self.over)

    def kernel(self) -> Operator:
        """K of what is compared with the targets at this state, gates frozen."""
        return self.measurement.kernel(collective_kernel(self.snapshot()))

    def predict(self, X: Data) -> Array:
        """Outputs at new inputs, in row blocks."""
        return self.first.predict(self.upper, self.parameters[0], X)
