"""What a unit does: ``a = s ∘ h``, with the slope s = 1 where h > 0 and α elsewhere.

Passes keep *signed activations* ``ã = |s| ∘ h``, which tell the gate (ã > 0) whatever α is.
They are the activations themselves but for α < 0, where ``a = |ã|``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, module_name, namespace
from opflow.machine.threads import over_rows
from opflow.machine.workspace import row_slices
from opflow.operators.gates import pack, slope_values

#: flops that take the time of packing one gate
PACKING = 50.0


def activate(h: Array, slope: float) -> Array:
    """``ã = |s| ∘ h``, in place."""
    xp = namespace(h)
    size = abs(slope)
    if size == 0:
        return xp.maximum(h, 0, out=h)
    if size == 1:
        return h
    return (xp.maximum if size < 1 else xp.minimum)(h, size * h, out=h)


def activation(signed: Array, slope: float) -> Array:
    """a from ã: the array itself where it can be."""
    return abs(signed) if slope < 0 else signed


def response(h: Array, slope: float) -> Array:
    """a from h, in a new array."""
    return activation(activate(h.copy(), slope), slope)


def slopes(signed: Array, slope: float, dtype: DTypeLike) -> Array:
    """s from ã or h, in a dtype; of ReLU the gates, which are bool."""
    gates = signed > 0
    return slope_values(gates, slope, dtype) if slope else gates


def packed_gates(signed: Array) -> Array:
    """θ of all samples, eight gates a byte, (N, ⌈n/8⌉)."""
    bits = namespace(signed).empty((len(signed), -(-signed.shape[1] // 8)), dtype=np.uint8)

    def fill(samples: slice) -> None:
        for s in row_slices(samples, 2 * signed.shape[1], where=module_name(signed)):
            bits[s] = pack(signed[s] > 0)

    over_rows(len(signed), fill, PACKING * signed.size, signed)
    return bits


def sloped(field: Array, signed: Array, slope: float, out: Array | None = None) -> Array:
    """``s ∘ field``, for a field (b, n), or (b, m, n) with m rows a sample."""
    if slope == 1 and (out is None or out is field):
        return field
    s = slopes(signed, slope, field.dtype)
    return namespace(field).multiply(field, s[:, None, :] if field.ndim == 3 else s, out=out)
