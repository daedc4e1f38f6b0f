"""What a network consists of: arrays and settings, and their places in one parameter vector."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeVar

import numpy as np

from opflow.machine.arrays import Array, namespace, to_host
from opflow.relu.parameters import (
    checked_biases,
    checked_output_bias,
    checked_rate,
    checked_rates,
    checked_readout,
    checked_slopes,
    checked_weights,
)

T = TypeVar("T")


class NetworkArrays:
    """The arrays of a network and the numbers that go with them."""

    weights: tuple[Array, ...]
    biases: tuple[Array | None, ...]
    readout: Array
    output_bias: Array | None
    rates: tuple[float, ...]
    slopes: tuple[float, ...]
    readout_rate: float | None

    def __init__(
        self,
        weights: Sequence[Array],
        readout: Array,
        *,
        biases: Sequence[Array | None] | None = None,
        rates: Sequence[float] | None = None,
        slope: float | Sequence[float] = 0.0,
        readout_rate: float | None = None,
        output_bias: Array | None = None,
    ) -> None:
        self.weights = checked_weights(weights)
        self.readout = checked_readout(readout, len(self.weights[-1]))
        self.biases = checked_biases(biases, self.weights)
        self.rates = checked_rates(rates, len(weights))
        self.slopes = checked_slopes(slope, len(weights))
        self.readout_rate = None if readout_rate is None else checked_rate(readout_rate)
        self.output_bias = checked_output_bias(output_bias, self.outputs)
        arrays = list(self.arrays().values())
        namespace(*arrays)  # raises where they are not at one place
        dtypes = sorted({str(a.dtype) for a in arrays})
        if len(dtypes) > 1:
            raise TypeError(f"weights, readout and biases mix {' and '.join(dtypes)}")

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
        if any(self.slopes) or self.readout_rate is not None:  # others have the digest they had
            found.update(repr((self.slopes, self.readout_rate)).encode())
        for array in (*self.weights, *self.biases, self.readout, self.output_bias):
            if array is not None:
                found.update(np.ascontiguousarray(to_host(array)).data)
        return found.hexdigest()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.readout.dtype)

    def arrays(self) -> dict[str, Array]:
        """The arrays of the network by the names they have in a file."""
        arrays: dict[str, Array | None] = {f"weight_{i}": W for i, W in enumerate(self.weights)}
        arrays |= {f"bias_{i}": b for i, b in enumerate(self.biases)}
        arrays |= {"output_bias": self.output_bias, "readout": self.readout}
        return {name: a for name, a in arrays.items() if a is not None}

    def settings(self) -> dict[str, Any]:
        """The numbers of the network that are not in :meth:`arrays`, as a file has them."""
        return {"rates": self.rates, "slope": self.slopes, "readout_rate": self.readout_rate}

    def layers(self) -> list[tuple[Array, Array | None]]:
        """Weights and bias of each trained layer, the readout last where it is one of them."""
        hidden = zip(self.weights, self.biases, strict=True)
        return [*hidden, (self.readout, self.output_bias)][: len(self.layer_rates())]

    def layer_rates(self) -> list[float]:
        """η of each of :meth:`layers`."""
        return [rate for rate in (*self.rates, self.readout_rate) if rate is not None]

    def parameter_list(self) -> list[Array]:
        """The trained arrays ``[W^1, b^1, W^2, …, V, c]``, those of them that there are."""
        return [p for layer in self.layers() for p in layer if p is not None]

    def parameter_rates(self) -> list[float]:
        """η of each array of :meth:`parameter_list`."""
        pairs = zip(self.layer_rates(), self.layers(), strict=True)
        return [rate for rate, layer in pairs for p in layer if p is not None]

    def _by_layer(self, values: Iterable[T]) -> list[tuple[T, T | None]]:
        """Values for the arrays of :meth:`parameter_list`, in pairs as :meth:`layers`."""
        rest = iter(values)
        return [(next(rest), None if b is None else next(rest)) for _, b in self.layers()]

    def with_parameters(self, parameters: Iterable[Array]) -> Self:
        """The network with the arrays that :meth:`parameter_list` would give; not checked."""
        weights, biases = zip(*self._by_layer(parameters), strict=True)
        changed = {"weights": weights[: self.depth], "biases": biases[: self.depth]}
        if self.readout_rate is not None:
            changed |= {"readout": weights[-1], "output_bias": biases[-1]}
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__ | changed
        return other

    def parameter_slices(self) -> list[tuple[slice, slice | None]]:
        """Where the arrays of each of :meth:`layers` stand among the flattened parameters."""
        stops = list(itertools.accumulate(p.size for p in self.parameter_list()))
        return self._by_layer(map(slice, [0, *stops], stops))
