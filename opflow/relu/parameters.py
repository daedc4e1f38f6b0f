"""Checks of the arrays, rates and slopes that make a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from opflow.machine.arrays import Array, check_real, is_sparse
from opflow.operators.gates import checked_slope


def checked_weights(weights: Sequence[Array]) -> tuple[Array, ...]:
    """Dense matrices that follow one another."""
    if len(weights) == 0:
        raise ValueError("weights is empty: at least one hidden layer is needed")
    checked: list[Array] = []
    for i, W in enumerate(weights):
        W = check_real(W, f"weights[{i}]", finite=True)
        if is_sparse(W) or W.ndim != 2 or 0 in W.shape:
            raise ValueError(
                f"weights[{i}] must be a non-empty dense matrix, not of shape {W.shape}"
            )
        if checked and W.shape[1] != len(checked[-1]):
            raise ValueError(
                f"weights[{i}] has {W.shape[1]} columns but layer {i} has {len(checked[-1])} units"
            )
        checked.append(W)
    return tuple(checked)


def checked_readout(readout: Array, units: int) -> Array:
    """V as a matrix (k, n_L)."""
    readout = check_real(readout, "readout", finite=True)
    if readout.ndim == 1:
        readout = readout[None, :]
    if readout.ndim != 2 or readout.shape[1] != units or not len(readout):
        raise ValueError(
            f"readout has shape {readout.shape} but the last layer has {units} units: "
            f"(outputs, {units}) is expected"
        )
    return readout


def checked_biases(
    biases: Sequence[Array | None] | None, weights: Sequence[Array]
) -> tuple[Array | None, ...]:
    """A vector or None for each layer."""
    if biases is None:
        return (None,) * len(weights)
    if len(biases) != len(weights):
        raise ValueError(f"biases has {len(biases)} entries for {len(weights)} layers")
    return tuple(
        _checked_vector(b, f"biases[{i}]", len(W), f"layer {i + 1} has {len(W)} units")
        for i, (b, W) in enumerate(zip(biases, weights, strict=True))
    )


def checked_output_bias(bias: Array | None, outputs: int) -> Array | None:
    """c as a vector (k,), if there is one."""
    needed = f"the readout has {outputs} rows: ({outputs},) is expected"
    return _checked_vector(bias, "output_bias", outputs, needed)


def _checked_vector(b: Array | None, name: str, size: int, needed: str) -> Array | None:
    """A vector of this size, if there is one."""
    if b is None:
        return None
    b = check_real(b, name, finite=True)
    if b.shape != (size,):
        raise ValueError(f"{name} has shape {b.shape} but {needed}")
    return b


def checked_rates(rates: Sequence[float] | None, depth: int) -> tuple[float, ...]:
    """A number for each layer, 0 for one that is frozen."""
    if rates is None:
        return (1.0,) * depth
    if np.ndim(rates) != 1:
        raise TypeError(f"rates must be a sequence of {depth} numbers, not {rates!r}")
    if len(rates) != depth:
        raise ValueError(f"rates has {len(rates)} entries for {depth} layers")
    return tuple(checked_rate(rate, f"rates[{i}]") for i, rate in enumerate(rates))


def checked_rate(rate: float, name: str = "readout_rate") -> float:
    """A finite number, not negative."""
    if isinstance(rate, bool | str):
        raise TypeError(f"{name} must be a number, not {rate!r}")
    rate = float(rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"{name} must be finite and not negative, not {rate}")
    return rate


def checked_slopes(slope: float | Sequence[float], depth: int) -> tuple[float, ...]:
    """A finite number for each layer."""
    given = np.broadcast_to(slope, depth) if np.ndim(slope) == 0 else np.asarray(slope)
    if given.shape != (depth,):
        raise ValueError(
            f"slope has shape {given.shape} for {depth} hidden layers, one number each"
        )
    return tuple(map(checked_slope, given.tolist()))
