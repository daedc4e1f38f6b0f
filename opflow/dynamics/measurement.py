"""What a run measures of its outputs: all of them, or their products with an operator G.

Measured outputs F = G f stand in the place of f wherever a loss, a residual or a kernel is meant:
``dF/dt = −G K Gᵀ r``, and a force r on F is the force Gᵀ r on f.
"""

from __future__ import annotations

from collections.abc import Callable

from opflow.dynamics.objectives import RunObjective
from opflow.machine.arrays import Array, Data, check_real, namespace
from opflow.operators.operator import Operator
from opflow.operators.pullback import pushforward
from opflow.operators.rules import compose
from opflow.relu.network import ReLUNetwork

#: the force of rows of outputs
Force = Callable[[slice, Array], Array]


class Outputs:
    """The outputs themselves, as they are."""

    #: None here
    G: Operator | None = None

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


class Measured(Outputs):
    """G times the outputs of all samples, flattened sample-major, (M, 1)."""

    G: Operator

    def __init__(self, G: Operator, outputs: int) -> None:
        self.G = G
        self.outputs = outputs

    def seen(self, f: Array) -> Array:
        return self.G.matvec(f.reshape(-1)).reshape(-1, 1)

    def pulled(self, r: Array) -> Array:
        return self.G.rmatvec(r.reshape(-1)).reshape(-1, self.outputs)

    def kernel(self, K: Operator) -> Operator:
        return pushforward(K, self.G)

    def rows(self, J: Operator) -> Operator:
        return compose(self.G, J)


def measured_targets(d: Data, G: Operator, network: ReLUNetwork, goal: RunObjective) -> Array:
    """`d` as (M, 1), or an error that says what is wrong with it."""
    d = check_real(d, "y", dtype=network.dtype, finite=True)
    rows = G.shape[0]
    if d.shape not in ((rows,), (rows, 1), G.dimsd):
        raise ValueError(
            f"y has shape {d.shape} but measurement has {rows} rows: ({rows},) is expected"
            f"{f' or {G.dimsd}' * (len(G.dimsd) > 1)}"
        )
    namespace(d, network.readout)
    return goal.targets(d.reshape(-1), 1)
