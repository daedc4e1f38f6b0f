"""What one call of a layer adds to the Jacobian: from its inputs a and φ = ∂f/∂(its output)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from opflow.machine.arrays import Array, Index
from opflow.machine.workspace import op_namespace, row_slices
from opflow.operators import KhatriRao, Matrix, Operator
from opflow.operators.kfac import Factors, kfac_factors
from opflow.operators.operator import Cost
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.capture import Call
from opflow.torch.data import cast, over_columns, rows_of
from opflow.torch.layers import Rule, known_rule, linear_in


def rule_of(call: Call, *inputs: Tensor) -> Rule:
    """The rule of a call, which has one, for other inputs."""
    rule = known_rule(call.layer, call.local, *inputs)
    assert rule is not None
    return rule


def per_sample(call: Call, phi: Tensor, *inputs: Tensor) -> Tensor:
    """The rows (b, k, …) of the Jacobian, from φ (b, k, …) and inputs (b, …)."""
    zero = phi.new_zeros(call.shape)

    def one(phi: Tensor, *inputs: Tensor) -> Tensor:
        rule = rule_of(call, *(part[None] for part in inputs))
        _, pull = torch.func.vjp(lambda weight: rule(weight)[0], zero)
        return torch.vmap(pull)(phi)[0]

    return torch.vmap(one)(phi, *inputs)


class LayerJacobian(Operator):
    r"""The Jacobian by a parameter that is shared by positions: inputs and φ, and the layer's rule.

    Parameters
    ----------
    call : Call
        The layer, and the shape of the parameter or of the rows of it that it uses.
    phi : tensor (N, k, …)
        ∂f/∂(the layer's outputs).
    *inputs : tensors (N, …)

    Notes
    -----
    With the outputs :math:`h_t = W a_t` at positions t, row (μ, p) is :math:`\sum_t
    \varphi_{\mu p t} \otimes a_{\mu t}`.  A product applies the layer with other weights, or pulls
    back to them, for all columns at once: the cost of the layer itself, and 2·N·k numbers of φ.
    """

    row_access = True
    rows_stored = False

    def __init__(self, call: Call, phi: Tensor, *inputs: Tensor) -> None:
        self.call = call
        self.phi = phi
        self.inputs = inputs
        self.data = to_array(phi)
        samples, self.outputs = phi.shape[:2]
        shape = (samples * self.outputs, call.shape.numel())
        super().__init__(shape, self.data.dtype, symbol="φ ⊙ a")

    def cost(self, columns: int = 1) -> Cost:
        positions = math.prod(self.phi.shape[2:]) / self.call.shape[0]
        flops = 2.0 * self.phi.shape[0] * positions * self.shape[1] * columns
        stored = sum(part.nbytes for part in (*self.inputs, self.phi))
        return Cost(flops, stored + self._vector_bytes(columns))

    def _blocks(self, columns: int, dtype: torch.dtype) -> Iterator[tuple[slice, Rule, Tensor]]:
        """Row blocks: their samples, and the rule for the inputs and φ of these."""
        numbers = sum(part[0].numel() for part in self.inputs)
        numbers += self.phi[0].numel() * (1 + 2 * columns)
        for s in row_slices(len(self.phi), numbers * self.dtype.itemsize):
            phi, *inputs = cast(rows_of((self.phi, *self.inputs), s), dtype)
            yield s, rule_of(self.call, *inputs), phi

    def _matmat(self, X: Array) -> Array:
        columns = X.shape[1]
        weights = to_tensor(X).T.reshape(columns, *self.call.shape)
        out = weights.new_empty(len(self.phi), self.outputs, columns)
        for s, rule, phi in self._blocks(columns, weights.dtype):
            moved = over_columns(rule, weights)
            out[s] = torch.einsum("cbf,bkf->bkc", moved.flatten(2), phi.flatten(2))
        return to_array(out.reshape(self.shape[0], columns))

    def _rmatmat(self, X: Array) -> Array:
        columns = X.shape[1]
        force = to_tensor(X).reshape(len(self.phi), self.outputs, columns)
        total = force.new_zeros(columns, *self.call.shape)
        for s, rule, phi in self._blocks(columns, force.dtype):
            back = torch.einsum("bkc,bk...->cb...", force[s], phi)
            _, pull = torch.func.vjp(rule, total[0])
            total += over_columns(pull, back)[0]
        return to_array(total.reshape(columns, -1).T)

    def rows(self, index: Index) -> Array:
        which = op_namespace(self).arange(self.shape[0])[index]
        sample = to_tensor(which // self.outputs)
        phi = self.phi[sample, to_tensor(which % self.outputs)][:, None]
        return to_array(per_sample(self.call, phi, *rows_of(self.inputs, sample)).flatten(1))


def share(call: Call, phi: Tensor, *inputs: Tensor) -> Operator:
    """The Jacobian from factors; ``φ ⊙ a`` itself where there is one position a sample."""
    rule = linear_in.dispatch(type(call.layer))
    if rule is linear_in.dispatch(nn.Linear) and call.local == "weight" and phi.ndim == 3:
        return KhatriRao(
            Matrix(to_array(phi).reshape(-1, phi.shape[2]), symbol="φ"),
            Matrix(to_array(inputs[0]), symbol="a"),
        )
    return LayerJacobian(call, phi, *inputs)


@kfac_factors.register
def _layer_factors(J: LayerJacobian) -> Factors:
    """Φ summed over samples, outputs and positions, A averaged over samples and positions."""
    layer = J.call.layer
    a = J.inputs[0]
    channels = J.phi.ndim - 1
    plain = isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str)
    if plain and layer.groups == 1 and layer.padding_mode == "zeros":
        unfolded = nn.Unfold(layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        a = unfolded(a).transpose(1, 2)
        channels = 2
    elif not isinstance(layer, nn.Linear):
        raise TypeError(f"kfac knows no factors of {layer}")
    phi = J.phi.movedim(channels, -1).flatten(0, -2)
    a = a.flatten(0, -2)
    return to_array(phi.T @ phi), to_array(a.T @ a / len(a))
