"""What a network consists of: its arrays and settings, by name and as trained parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from opflow.machine.arrays import Array, to_host


class NetworkArrays:
    """The arrays of a network and the numbers that go with them."""

    weights: tuple[Array, ...]
    biases: tuple[Array | None, ...]
    readout: Array
    output_bias: Array | None
    rates: tuple[float, ...]
    slopes: tuple[float, ...]
    readout_rate: float | None

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weights[0].shape[1], *(W.shape[0] for W in self.weights))

    @property
    def depth(self) -> int:
        return len(self.weights)

    @property
    def outputs(self) -> int:
        return int(self.readout.shape[0])

    @property
    def parameters(self) -> int:
        return sum(int(p.size) for p in self.parameter_list())

    def digest(self) -> str:
        """SHA-256 of all numbers of the network, by which runs and ranks compare networks."""
        found = hashlib.sha256(repr((self.widths, self.rates, str(self.dtype))).encode())
        beyond = (self.slopes, self.readout_rate)
        if any(self.slopes) or self.readout_rate is not None:  # others have the digest they had
            found.update(repr(beyond).encode())
        for array in (*self.weights, *self.biases, self.readout, self.output_bias):
            if array is not None:
                found.update(np.ascontiguousarray(to_host(array)).data)
        return found.hexdigest()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.readout.dtype)

    def arrays(self) -> dict[str, Array]:
        """The arrays of the network by the names they have in a file."""
        arrays = {f"weight_{i}": W for i, W in enumerate(self.weights)}
        arrays |= {f"bias_{i}": b for i, b in enumerate(self.biases) if b is not None}
        if self.output_bias is not None:
            arrays["output_bias"] = self.output_bias
        return arrays | {"readout": self.readout}

    def settings(self) -> dict[str, Any]:
        """The numbers of the network that are not in :meth:`arrays`, as a file has them."""
        return {"rates": self.rates, "slope": self.slopes, "readout_rate": self.readout_rate}

    def layers(self) -> list[tuple[Array, Array | None]]:
        """Weights and bias of each trained layer, the readout last where it is one of them."""
        layers: list[tuple[Array, Array | None]] = list(zip(self.weights, self.biases, strict=True))
        if self.readout_rate is not None:
            layers.append((self.readout, self.output_bias))
        return layers

    def layer_rates(self) -> list[float]:
        """η of each of :meth:`layers`."""
        return [*self.rates, *([] if self.readout_rate is None else [self.readout_rate])]

    def parameter_list(self) -> list[Array]:
        """The trained arrays ``[W^1, b^1, W^2, …, V, c]``, those of them that there are."""
        return [p for layer in self.layers() for p in layer if p is not None]

    def parameter_rates(self) -> list[float]:
        """η of each array of :meth:`parameter_list`."""
        pairs = zip(self.layer_rates(), self.layers(), strict=True)
        return [rate for rate, layer in pairs for p in layer if p is not None]

    def with_parameters(self, parameters: Sequence[Array]) -> Self:
        """The network with the arrays that :meth:`parameter_list` would give; not checked."""
        rest = iter(parameters)
        weights = []
        biases = []
        for b in self.biases:
            weights.append(next(rest))
            biases.append(None if b is None else next(rest))
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__ | {"weights": tuple(weights), "biases": tuple(biases)}
        if self.readout_rate is not None:
            other.readout = next(rest)
            if self.output_bias is not None:
                other.output_bias = next(rest)
        return other

    def parameter_slices(self) -> list[tuple[slice, slice | None]]:
        """Where the arrays of each of :meth:`layers` stand among the flattened parameters."""
        places: list[tuple[slice, slice | None]] = []
        start = 0
        for W, b in self.layers():
            weight = slice(start, start + W.size)
            bias = None if b is None else slice(weight.stop, weight.stop + b.size)
            places.append((weight, bias))
            start = weight.stop if bias is None else bias.stop
        return places
