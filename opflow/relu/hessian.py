"""The Hessian of a loss in the parameters: a tangent of the fields, then one more backward pass."""

from __future__ import annotations

from collections.abc import Callable

from opflow.machine.arrays import Array, namespace
from opflow.machine.threads import over_rows
from opflow.operators import Operator
from opflow.operators.operator import Cost
from opflow.relu.checks import check_fields
from opflow.relu.fields import Fields
from opflow.relu.gradient import summed
from opflow.relu.jacobian import reads_rows
from opflow.relu.passes import conjugates, layer_inputs, through
from opflow.relu.transport import Transport
from opflow.relu.units import sloped

#: for a slice of the samples and tangents ḟ of their outputs (b, c, k), ∂²loss/∂f² ḟ
Curvature = Callable[[slice, Array], Array]


class Hessian(Operator):
    r"""``JᵀSJ + Σ g ∂²f``, of force g and output Hessian S, inside the activation region.

    Parameters
    ----------
    fields : Fields
    force : array (N, k) or None
        g = ∂loss/∂f; without it the operator is the Gauss–Newton matrix JᵀSJ.
    curvature : callable
        S, a k × k block a sample: see `Curvature`.
    rates : bool, default True
        As in :func:`opflow.jacobian`.
    psd : bool, default False
        Whether the operator is known to be positive semidefinite.

    Notes
    -----
    With :math:`\delta^\ell = \partial\text{loss}/\partial h^\ell` and a direction
    :math:`\dot W`, the tangents of :class:`Transport` give :math:`\dot a` and :math:`\dot f`; then

    .. math::
        \dot\delta^{\ell-1} = s^{\ell-1} \circ (\dot\delta^\ell W^\ell + \delta^\ell \dot W^\ell),
        \qquad (H \dot W)_\ell = \dot\delta^{\ell T} a^{\ell-1} + \delta^{\ell T} \dot a^{\ell-1},

    from :math:`\dot\delta = S \dot f` at the outputs.  12·N·P − 8·N·P_1 + 4·N·k·n_L flops a
    column, in row blocks.
    """

    def __init__(
        self,
        fields: Fields,
        force: Array | None,
        curvature: Curvature,
        *,
        rates: bool = True,
        psd: bool = False,
    ) -> None:
        if not (check_fields(fields).derived and reads_rows(fields)):
            raise ValueError(
                "the Hessian recomputes fields from weights and rows of the inputs: these fields "
                "are a state of their own, or know X as a Gram or an operator alone"
            )
        self.jacobian = Transport(fields, rates=rates)
        self.force = force
        self.curvature = curvature
        super().__init__(
            (fields.network.parameters,) * 2,
            fields.network.dtype,
            symmetric=True,
            psd=psd,
            symbol="JᵀSJ" if force is None else "H",
        )

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.jacobian,)

    def cost(self, columns: int = 1) -> Cost:
        net = self.jacobian.fields.network
        upper = 0 if self.force is None else net.parameters - net.weights[0].size
        second = Cost(4.0 * self.jacobian.fields.samples * upper * columns, 0.0)
        return self.jacobian.cost(columns).times(2) + second

    def _matmat(self, X: Array) -> Array:
        J, fields = self.jacobian, self.jacobian.fields
        net = fields.network
        xp = namespace(X)
        c = X.shape[1]
        layers = J.layers()
        matrices = [*net.weights, net.readout]
        up = J.directions(X)
        down = [
            size * X[weight].reshape(*W.shape, c).transpose(0, 2, 1).reshape(W.shape[0], -1)
            for (weight, _, size), W in zip(layers, matrices, strict=False)
        ]

        def sums(samples: slice) -> Array:
            total = xp.zeros((c, self.shape[0]), dtype=X.dtype)
            for s in J.blocks(c, X.dtype, samples):
                rows = fields.rows(s)
                below = layer_inputs(net, rows)
                *tangents, outputs = J.tangents(rows, below, X, up)
                moving = self.curvature(s, outputs)  # δ̇ of the outputs, then layer by layer
                fixed: list[Array] = []  # δ
                if self.force is not None:
                    g = self.force[s]
                    fixed = [*conjugates(net, rows, through(g, net.readout)), g]
                for i in range(net.depth, -1, -1):
                    if i < net.depth:
                        moving = sloped(moving, rows[i + 1], net.slopes[i])
                    if i < len(layers):
                        weight, bias, _ = layers[i]
                        place = total[:, weight].reshape(c, *matrices[i].shape)
                        flat = moving.reshape(len(moving), -1)
                        place += summed(flat, below[i]).reshape(place.shape)
                        if i and fixed:
                            tangent = tangents[i - 1].reshape(len(moving), -1)
                            part = fixed[i].T @ tangent
                            place += part.reshape(len(part), c, -1).transpose(1, 0, 2)
                        if bias is not None:
                            total[:, bias] += moving.sum(axis=0)
                    if i:
                        moving = through(moving, matrices[i])
                        if fixed and i < len(layers):
                            moving += (fixed[i] @ down[i]).reshape(moving.shape)
            return total

        held = float(self.shape[0] * c * X.dtype.itemsize)
        flops = self.cost(c).flops
        total, *others = over_rows(fields.samples, sums, flops, fields.inputs, sums=held)
        for other in others:
            total += other
        for weight, bias, size in layers:
            total[:, weight] *= size
            if bias is not None:
                total[:, bias] *= size
        return total.T

    _rmatmat = _matmat
