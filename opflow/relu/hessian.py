"""The Hessian of a loss in the parameters: a tangent of the fields, then one more backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opflow.machine.arrays import Array, namespace
from opflow.machine.threads import over_rows
from opflow.operators import Operator
from opflow.operators.operator import Cost
from opflow.relu.directions import downward
from opflow.relu.fields import Fields
from opflow.relu.gradient import summed
from opflow.relu.jacobian import reads_rows
from opflow.relu.passes import conjugates, layer_inputs, through
from opflow.relu.transport import Transport
from opflow.relu.units import sloped

#: for a slice of the samples and tangents ḟ of their outputs (b, c, k): ∂²loss/∂f² ḟ
Curvature = Callable[[slice, Array], Array]


class Hessian(Operator):
    r"""``JᵀSJ + Σ g ∂²f`` of a force g (N, k) and an output Hessian S; JᵀSJ alone without force.

    With δ = ∂loss/∂h, from :math:`\dot\delta = S \dot f` at the outputs,
    :math:`(H \dot W)_\ell = \dot\delta^{\ell T} a^{\ell-1} + \delta^{\ell T} \dot a^{\ell-1}` and
    :math:`\dot\delta^{\ell-1} = s \circ (\dot\delta^\ell W^\ell + \delta^\ell \dot W^\ell)`.
    """

    def __init__(
        self, fields: Fields, force: Array | None, curvature: Curvature, rates: bool, psd: bool
    ) -> None:
        if not (fields.derived and reads_rows(fields)):
            raise ValueError(
                "the Hessian needs inputs that can be read by rows, and fields that follow from "
                "weights; these know X as a Gram or an operator, or are a state"
            )
        self.jacobian = Transport(fields, rates=rates)
        self.force = force
        self.curvature = curvature
        shape = (self.jacobian.shape[1],) * 2
        super().__init__(shape, self.jacobian.dtype, symmetric=True, psd=psd, symbol="H")

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.jacobian,)

    def cost(self, columns: int = 1) -> Cost:
        fields = self.jacobian.fields
        upper = fields.network.parameters - fields.network.weights[0].size
        first = self.jacobian.cost(columns).times(2)
        if self.force is None:
            return first
        return first + Cost(4.0 * fields.samples * upper * columns, 0.0)

    def _matmat(self, X: Array) -> Array:
        J = self.jacobian
        fields = J.fields
        net = fields.network
        layers = J.layers
        c = X.shape[1]
        up = J.directions(X)
        down = downward(up, c)

        def sums(samples: slice) -> Array:
            total = namespace(X).zeros((c, self.shape[0]), dtype=X.dtype)
            for s in J.blocks(c, samples):
                rows = fields.rows(s)
                below = layer_inputs(net, rows)
                *tangents, outputs = J.tangents(rows, below, up)
                moving = self.curvature(s, outputs)  # δ̇, from the outputs down
                fixed = []  # δ
                if self.force is not None:
                    g = self.force[s]
                    fixed = [*conjugates(net, rows, through(g, net.readout)), g]
                if len(layers) == net.depth:
                    moving = through(moving, net.readout)
                for i in reversed(range(len(layers))):
                    if i < net.depth:
                        moving = sloped(moving, rows[i + 1], net.slopes[i])
                    W, weight, bias, _ = layers[i]
                    place = total[:, weight].reshape(c, *W.shape)
                    flat = moving.reshape(len(moving), -1)
                    place += summed(flat, below[i]).reshape(place.shape)
                    if bias is not None:
                        total[:, bias] += moving.sum(axis=0)
                    if i == 0:
                        break
                    moving = through(moving, W)
                    if fixed:
                        pulled = fixed[i].T @ tangents[i - 1].reshape(len(flat), -1)
                        place += pulled.reshape(len(pulled), c, -1).transpose(1, 0, 2)
                        moving += (fixed[i] @ down[i][0]).reshape(moving.shape)
            return total

        held = float(self.shape[0] * c * X.dtype.itemsize)
        parts = over_rows(fields.samples, sums, self.cost(c).flops, fields.inputs, sums=held)
        total: Any = sum(parts)
        return J.scaled(total.T)

    _rmatmat = _matmat
