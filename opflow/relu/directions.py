"""Operators on directions in parameter space, in the coordinates ``W/√η`` of gradient flow."""

from __future__ import annotations

import math
from typing import NamedTuple

from opflow.machine.arrays import Array
from opflow.operators import Operator
from opflow.relu.fields import Fields
from opflow.relu.network_arrays import NetworkArrays

#: what multiplies the inputs of a layer, (n_{ℓ-1}, c·n_ℓ), and what is added, (c, n_ℓ), if any
Direction = tuple[Array, Array | None]


class TrainedLayer(NamedTuple):
    """The weights of a layer, where these and its bias stand among the columns, and √η."""

    W: Array
    weight: slice
    bias: slice | None
    scale: float


def layer_scales(network: NetworkArrays, rates: bool) -> list[float]:
    """√η of each trained layer; 1 without rates."""
    return [math.sqrt(rate) if rates else 1.0 for rate in network.layer_rates()]


class OnParameters(Operator):
    """An operator on the trained parameters of a network, scaled by √η unless `rates` is false."""

    def __init__(self, fields: Fields, rows: int, symbol: str, rates: bool = True) -> None:
        net = fields.network
        self.fields = fields
        self.rates = rates
        layers = zip(net.layers(), net.parameter_slices(), layer_scales(net, rates), strict=True)
        self.layers = [TrainedLayer(W, *places, scale) for (W, _), places, scale in layers]
        super().__init__((rows, net.parameters), net.dtype, symbol=symbol)

    @property
    def data(self) -> Array:
        """The readout: the operator is where it is."""
        return self.fields.network.readout

    def directions(self, X: Array) -> list[Direction]:
        """How the c vectors of X move each trained layer."""
        found: list[Direction] = []
        for W, weight, bias, scale in self.layers:
            D = scale * X[weight].reshape(*W.shape, -1).transpose(1, 2, 0).reshape(W.shape[1], -1)
            found.append((D, None if bias is None else scale * X[bias].T))
        return found

    def scaled(self, gradients: Array) -> Array:
        """Gradients (P, c) in the parameters, scaled by √η in place."""
        for _, weight, bias, scale in self.layers:
            gradients[weight.start : (bias or weight).stop] *= scale
        return gradients


def downward(directions: list[Direction], columns: int) -> list[Direction]:
    """The same for the conjugates of each layer: what multiplies them, (n_ℓ, c·n_{ℓ-1})."""
    return [
        (D.reshape(len(D), columns, -1).transpose(2, 1, 0).reshape(-1, columns * len(D)), None)
        for D, _ in directions
    ]
