"""The Jacobian by one parameter at one call: from factors, the inputs a and φ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from opflow.machine.arrays import Array, Index
from opflow.machine.workspace import op_namespace, row_slices
from opflow.operators import KhatriRao, Matrix, Operator
from opflow.operators.kfac import Factors, kfac_factors
from opflow.operators.operator import Cost
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.capture import Call
from opflow.torch.data import cast, rows_of
from opflow.torch.layers import Rule, known_rule, linear_in


def rule_of(call: Call, inputs: Iterable[torch.Tensor]) -> Rule:
    """The rule of a call, which has one, for other inputs."""
    rule = known_rule(call.layer, call.local, *inputs)
    assert rule is not None
    return rule


def per_sample(call: Call, shape: torch.Size, inputs: Any, phi: torch.Tensor) -> torch.Tensor:
    """The rows (b, k, P) of the Jacobian, from inputs (b, …) and φ (b, k, …)."""
    zero = phi.new_zeros(shape)

    def one(inputs: Any, phi: torch.Tensor) -> torch.Tensor:
        rule = rule_of(call, [part[None] for part in inputs])
        _, pull = torch.func.vjp(lambda weight: rule(weight)[0], zero)
        return torch.vmap(pull)(phi)[0]

    return torch.vmap(one)(inputs, phi).flatten(2)


class LayerJacobian(Operator):
    r"""The Jacobian by a parameter that is shared by positions: inputs and φ, and the layer's rule.

    Parameters
    ----------
    call : Call
        The layer.
    shape : torch.Size
        Of the parameter, or of the rows of it that the layer uses.
    inputs : tuple of tensors (N, …)
    phi : tensor (N, k, …)
        ∂f/∂(the layer's outputs).

    Notes
    -----
    With the outputs :math:`h_t = W a_t` at positions t, row (μ, p) is :math:`\sum_t
    \varphi_{\mu p t} \otimes a_{\mu t}`.  A product applies the layer with other weights, or pulls
    back to them, for all columns at once: the cost of the layer itself, and 2·N·k numbers of φ.
    """

    row_access = True
    rows_stored = False

    def __init__(
        self, call: Call, shape: torch.Size, inputs: tuple[torch.Tensor, ...], phi: torch.Tensor
    ) -> None:
        self.call = call
        self.parameter_shape = shape
        self.inputs = inputs
        self.phi = phi
        self.data = to_array(phi)
        samples, self.outputs = phi.shape[:2]
        super().__init__((samples * self.outputs, shape.numel()), self.data.dtype, symbol="φ ⊙ a")

    def cost(self, columns: int = 1) -> Cost:
        positions = math.prod(self.phi.shape[2:]) / self.parameter_shape[0]
        flops = 2.0 * self.phi.shape[0] * positions * self.shape[1] * columns
        stored = sum(part.nbytes for part in (*self.inputs, self.phi))
        return Cost(flops, stored + self._vector_bytes(columns))

    def _slices(self, columns: int) -> list[slice]:
        numbers = sum(part[0].numel() for part in self.inputs)
        numbers += self.phi[0].numel() * (1 + 2 * columns)
        return row_slices(len(self.phi), numbers * self.dtype.itemsize)

    def _rule(self, s: slice, dtype: torch.dtype) -> Rule:
        return rule_of(self.call, cast(rows_of(self.inputs, s), dtype))

    def _matmat(self, X: Array) -> Array:
        columns = X.shape[1]
        weights = to_tensor(X).T.reshape(columns, *self.parameter_shape)
        out = weights.new_empty(len(self.phi), self.outputs, columns)
        for s in self._slices(columns):
            rule = self._rule(s, weights.dtype)
            moved = rule(weights[0])[None] if columns == 1 else torch.vmap(rule)(weights)
            phi = self.phi[s].flatten(2).to(weights.dtype)
            out[s] = torch.einsum("cbf,bkf->bkc", moved.flatten(2), phi)
        return to_array(out.reshape(self.shape[0], columns))

    def _rmatmat(self, X: Array) -> Array:
        columns = X.shape[1]
        force = to_tensor(X).reshape(len(self.phi), self.outputs, columns)
        total = force.new_zeros(columns, *self.parameter_shape)
        for s in self._slices(columns):
            phi = self.phi[s].to(force.dtype)
            back = torch.einsum("bkc,bkf->cbf", force[s], phi.flatten(2))
            back = back.reshape(columns, len(phi), *phi.shape[2:])
            _, pull = torch.func.vjp(self._rule(s, force.dtype), total[0])
            total += pull(back[0])[0] if columns == 1 else torch.vmap(pull)(back)[0]
        return to_array(total.reshape(columns, -1).T)

    def rows(self, index: Index) -> Array:
        which = op_namespace(self).arange(self.shape[0])[index]
        sample = to_tensor(which // self.outputs)
        inputs = tuple(part[sample] for part in self.inputs)
        phi = self.phi[sample, to_tensor(which % self.outputs)][:, None]
        return to_array(per_sample(self.call, self.parameter_shape, inputs, phi)[:, 0])


def share(
    call: Call, shape: torch.Size, inputs: tuple[torch.Tensor, ...], phi: torch.Tensor
) -> Operator:
    """The Jacobian from factors; ``φ ⊙ a`` itself where there is one position a sample."""
    rule = linear_in.dispatch(type(call.layer))
    if rule is linear_in.dispatch(torch.nn.Linear) and call.local == "weight" and phi.ndim == 3:
        return KhatriRao(
            Matrix(to_array(phi).reshape(-1, phi.shape[2]), symbol="φ"),
            Matrix(to_array(inputs[0]), symbol="a"),
        )
    return LayerJacobian(call, shape, inputs, phi)


@kfac_factors.register
def _layer_factors(J: LayerJacobian) -> Factors:
    """Φ summed over samples, outputs and positions, A averaged over samples and positions."""
    layer, a = J.call.layer, J.inputs[0]
    channels = J.phi.ndim - 1
    plain = isinstance(layer, torch.nn.Conv2d) and not isinstance(layer.padding, str)
    if plain and layer.groups == 1 and layer.padding_mode == "zeros":
        unfolded = torch.nn.Unfold(layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        a, channels = unfolded(a).transpose(1, 2), 2
    elif not isinstance(layer, torch.nn.Linear):
        raise TypeError(f"kfac knows no factors of {layer}")
    phi = J.phi.movedim(channels, -1).flatten(0, -2)
    a = a.flatten(0, -2)
    return to_array(phi.T @ phi), to_array(a.T @ a / len(a))
