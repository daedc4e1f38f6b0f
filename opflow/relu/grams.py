"""The activation Gram A^ℓ of a layer, and the factors that A^ℓ and the conjugate Gram D^ℓ have."""

from __future__ import annotations

from opflow.machine.arrays import namespace
from opflow.operators import Gram, Mask, Matrix, Operator
from opflow.operators.describe import superscript
from opflow.operators.rules import add
from opflow.relu.fields import Fields
from opflow.relu.inputs import input_operator
from opflow.relu.readout_jacobian import ReadoutJacobian


def activation_factor(fields: Fields, layer: int) -> Operator:
    """a^ℓ, (N, n_ℓ); X for ℓ = 0."""
    symbol = f"a{superscript(layer)}" if layer else "X"
    return input_operator(fields.activations[layer], symbol)


def conjugate_factor(fields: Fields, layer: int) -> Operator:
    """φ^ℓ with the outputs among the rows, (N·k, n_ℓ); of the readout, L + 1, 1 ⊗ I_k."""
    if layer > fields.network.depth:
        return ReadoutJacobian(_ones(fields), fields.network.outputs)
    phi = fields.conjugates[layer - 1]
    return Matrix(phi.reshape(-1, phi.shape[-1]), symbol=f"φ{superscript(layer)}")


def slope_mask(fields: Fields, layer: int, repeat: int = 1) -> Mask:
    """``D^ℓ = diag s^ℓ`` of all samples, each row of which is repeated."""
    return Mask(
        fields.gates[layer - 1].repeat(repeat, axis=0),
        fields.network.dtype,
        slope=fields.network.slopes[layer - 1],
        symbol=f"θ{superscript(layer)}",
    )


def activation_gram(fields: Fields, layer: int) -> Operator:
    """A^ℓ, plus 1 if the layer above has a bias."""
    if layer == 0 and fields.gram is not None:
        gram: Operator = fields.gram
    else:
        gram = Gram(activation_factor(fields, layer), symbol=f"A{superscript(layer)}")
    if fields.network.layers()[layer][1] is None:
        return gram
    return add(gram, Gram(_ones(fields)))


def _ones(fields: Fields) -> Matrix:
    """A 1 for every sample, the activation that a bias multiplies."""
    xp = namespace(fields.network.readout)
    return Matrix(xp.ones((fields.samples, 1), dtype=fields.network.dtype), symbol="1")
