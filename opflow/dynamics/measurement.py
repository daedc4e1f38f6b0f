"""What a run measures of its outputs: all of them, or their products with an operator G.

Measured outputs F = G f stand in the place of f wherever a loss, a residual or a kernel is meant:
``dF/dt = −G K Gᵀ r``, and a force r on F is the force Gᵀ r on f.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opflow.dynamics.objectives import RunObjective, objective_blocks, targets_of
from opflow.dynamics.storage.fingerprint import fingerprint
from opflow.machine.arrays import Array, Data, check_real, namespace
from opflow.machine.communicator import rows_of_rank
from opflow.machine.cost import Cost
from opflow.machine.ranks import LOCAL, RowDistribution, Sharded, same
from opflow.machine.workspace import row_slices
from opflow.operators.entries import column_squares
from opflow.operators.operator import Operator
from opflow.operators.prices import product_bytes
from opflow.operators.pullback import pushforward
from opflow.operators.rules import compose
from opflow.operators.sharded import sharded_operator
from opflow.relu.network import ReLUNetwork

#: the force of rows of outputs
Force = Callable[[slice, Array], Array]
#: samples and their signed activations, ``[X, ã^1, …, ã^L]``
Block = tuple[slice, list[Array]]
#: a forward pass: the outputs, and the row blocks it has kept
Forward = Callable[[], tuple[Array, Sequence[Block]]]


class Outputs:
    """The outputs themselves, as they are."""

    #: the kernel of what is seen, for messages
    symbol = "K"
    #: forward passes of a step besides that of the gradient
    passes = 0

    def refuse(self, why: str) -> None:
        """Raise, where outputs are measured, what says `why` they may not be."""

    def targets(self, y: Data, network: ReLUNetwork, n: int, goal: RunObjective) -> Array:
        """`y` in the shape of what is seen, or an error that says what is wrong with it."""
        y = targets_of(y, network.dtype, n, network.outputs, goal)
        namespace(y, network.readout)
        return y

    def identity(self) -> dict[str, str]:
        """What a checkpoint keeps of it."""
        return {}

    def spread(self, y: Array, samples: RowDistribution) -> tuple[Outputs, Array, RowDistribution]:
        """The same over the ranks of the samples, the targets held here, and how all are held."""
        return self, y, samples

    def samples(self, targets: RowDistribution) -> RowDistribution:
        """How the samples are held, where the targets are held as this."""
        return targets

    def size(self, outputs: int) -> int:
        """How many numbers are seen of all outputs."""
        return outputs

    def cost(self) -> Cost:
        """Of seeing and pulling, in every step."""
        return Cost(0.0, 0.0)

    def held(self, outputs: int) -> float:
        """Bytes held by it, for so many outputs."""
        return 0.0

    def driven(self, force: Force, forward: Forward) -> tuple[Force, Sequence[Block]]:
        """The force on rows of outputs, from that on what is seen, and the row blocks at hand."""
        return force, ()

    def seen(self, f: Array) -> Array:
        """Outputs (N, k) in the shape of the targets, measured."""
        return f

    def pulled(self, r: Array) -> Array:
        """The force on the outputs, (N, k), of a force on what is seen of them."""
        return r

    def kernel(self, K: Operator) -> Operator:
        """The kernel of what is seen, from that of the outputs."""
        return K

    def rows(self, J: Operator) -> Operator:
        """The Jacobian of what is seen, from that of the outputs."""
        return J

    def squares(self, J: Operator, signs: Callable[[], Array]) -> tuple[Array, int]:
        """The diagonal of RᵀR of these rows R, and the products it took; random `signs` may be."""
        return column_squares(J), 0


#: where nothing is measured
OUTPUTS = Outputs()


class Measured(Outputs):
    """G times the outputs of all samples, flattened sample-major, (M, 1)."""

    symbol = "G K Gᵀ"
    passes = 1
    #: how the samples are spread over ranks
    over: Sharded | None = None

    def __init__(self, G: Operator, outputs: int) -> None:
        #: G, and as it is applied on ranks
        self.whole = self.G = G
        self.outputs = outputs

    def refuse(self, why: str) -> None:
        raise ValueError(why)

    def targets(self, y: Data, network: ReLUNetwork, n: int, goal: RunObjective) -> Array:
        d = check_real(y, "y", dtype=network.dtype, finite=True)
        rows, field = self.G.shape[0], self.G.dimsd
        if d.shape not in ((rows,), (rows, 1), field):
            raise ValueError(
                f"y has shape {d.shape} but measurement has {rows} rows: ({rows},) is expected"
                f"{f' or {field}' * (len(field) > 1)}"
            )
        namespace(d, network.readout)
        return goal.targets(d.reshape(-1), 1)

    def identity(self) -> dict[str, str]:
        return {"measurement": fingerprint(self.whole, self.whole.H)}

    def spread(self, y: Array, samples: RowDistribution) -> tuple[Outputs, Array, RowDistribution]:
        if not isinstance(samples, Sharded):
            return self, y, LOCAL
        same(samples.comm, lambda: fingerprint(self.whole, self.whole.H, y), "measurement and y")
        mine = rows_of_rank(len(y), samples.comm)
        rows = Sharded(samples.comm, mine.stop - mine.start, samples.nccl)
        seen = Measured(self.whole, self.outputs)
        seen.G = sharded_operator(self.whole, rows, samples)
        seen.over = samples
        return seen, y[mine], rows

    def samples(self, targets: RowDistribution) -> RowDistribution:
        return self.over or targets

    def size(self, outputs: int) -> int:
        return self.G.shape[0]

    def cost(self) -> Cost:
        return self.G.cost() + self.G.H.cost()

    def held(self, outputs: int) -> float:
        # outputs, forces on them, and what the products with G and with Gᵀ take
        product = max(product_bytes(self.G, 1), product_bytes(self.G.H, 1))
        return 4.0 * outputs * self.G.dtype.itemsize + product

    def driven(self, force: Force, forward: Forward) -> tuple[Force, Sequence[Block]]:
        f, kept = forward()
        F = self.seen(f)
        forces = [force(s, F[s]) for s in objective_blocks(F)]
        pulled = self.pulled(namespace(F).concatenate(forces))
        return lambda s, f: pulled[s], kept

    def seen(self, f: Array) -> Array:
        return self.G.matvec(f.reshape(-1)).reshape(-1, 1)

    def pulled(self, r: Array) -> Array:
        return self.G.rmatvec(r.reshape(-1)).reshape(-1, self.outputs)

    def kernel(self, K: Operator) -> Operator:
        return pushforward(K, self.G)

    def rows(self, J: Operator) -> Operator:
        return compose(self.G, J)

    def squares(self, J: Operator, signs: Callable[[], Array]) -> tuple[Array, int]:
        Z = signs()  # an estimate without bias
        count = Z.shape[1]
        outputs, parameters = J.shape
        seen = self.rows(J)
        # as many columns at a time as a workspace holds: those of all would be the most a run holds
        slices = row_slices(count, 3 * max(outputs, parameters) * J.dtype.itemsize)
        return sum((seen.rmatmat(Z[:, s]) ** 2).sum(axis=1) for s in slices) / count, count // 2
