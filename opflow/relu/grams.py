"""The activation Gram A^ℓ of a layer, and the factors that A^ℓ and the conjugate Gram D^ℓ have."""

from __future__ import annotations

from opflow.machine.arrays import namespace
from opflow.operators import Gram, Mask, Matrix, Operator, Weight
from opflow.operators.describe import subscript, superscript
from opflow.operators.rules import add
from opflow.relu.fields import Fields
from opflow.relu.inputs import input_operator
from opflow.relu.readout_jacobian import ReadoutJacobian


def activation_factor(fields: Fields, layer: int) -> Operator:
    """a^ℓ, (N, n_ℓ); X for ℓ = 0."""
    return input_operator(fields.activations[layer], activation_symbol(layer))


def activation_symbol(layer: int) -> str:
    return f"a{superscript(layer)}" if layer else "X"


def conjugate_factor(fields: Fields, layer: int) -> Operator:
    """φ^ℓ with the outputs among the rows, (N·k, n_ℓ); of the readout, L + 1, 1 ⊗ I_k."""
    if layer > fields.network.depth:
        return ReadoutJacobian(_ones(fields), fields.network.outputs)
    return Matrix(fields.conjugate(layer), symbol=f"φ{superscript(layer)}")


def weight(fields: Fields, layer: int, augmented: bool = False) -> Weight:
    """W^ℓ; [[W, b], [0, 1]] if `augmented`."""
    W = fields.network.weights[layer - 1]
    if augmented:
        xp = namespace(W)
        W = xp.pad(W, (0, 1))
        W[-1, -1] = 1
        bias = fields.network.biases[layer - 1]
        if bias is not None:
            W[:-1, -1] = bias
    return Weight(W, symbol=f"W{superscript(layer)}")


def sample_mask(fields: Fields, layer: int, sample: int, augmented: bool = False) -> Mask:
    """D^ℓ_μ, with a 1 at its end if `augmented`."""
    gates = fields.rows(slice(sample, sample + 1), inputs=False)[layer][0] > 0
    if augmented:
        gates = namespace(gates).pad(gates, (0, 1), constant_values=True)
    return Mask(
        gates,
        fields.network.dtype,
        slope=fields.network.slopes[layer - 1],
        symbol=f"D{superscript(layer)}{subscript(sample)}",
    )


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
