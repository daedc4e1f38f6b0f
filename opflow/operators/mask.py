"""Masks: the diagonal operator that applies gates to a field."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, check_gates, namespace
from opflow.machine.workspace import row_slices
from opflow.operators.diagonal import Diagonal
from opflow.operators.operator import Cost


class Mask(Diagonal):
    """The diagonal operator of gates on a field: ``(Mask(θ) x)_i = θ_i x_i``.

    Parameters
    ----------
    gates : bool array of any shape
        The field it acts on is flattened in C order; ``dims`` keeps the shape.
    dtype : dtype, default float64

    Notes
    -----
    An orthogonal projection: symmetric, PSD, equal to its square.  Stored at one bit a gate; a
    product costs one multiplication an entry.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Mask([True, False]) @ np.array([3.0, 4.0])
    array([3., 0.])
    """

    dtype_free = True

    def __init__(self, gates: Array, dtype: DTypeLike = np.float64, *, symbol: str = "D") -> None:
        gates = check_gates(gates)
        if gates.size == 0:
            raise ValueError("gates must not be empty")
        self.data = namespace(gates).packbits(gates.reshape(-1))
        super().__init__(
            (gates.size, gates.size),
            dtype,
            psd=True,
            symbol=symbol,
            dims=gates.shape or (1,),
            dimsd=gates.shape or (1,),
        )

    def cost(self, columns: int = 1) -> Cost:
        return Cost(float(self.shape[0] * columns), self.data.nbytes + self._vector_bytes(columns))

    def _bits(self, s: slice) -> Array:
        bits = namespace(self.data).unpackbits(self.data[s])
        return bits[: self.shape[0] - 8 * s.start, None]

    def _matmat(self, X: Array) -> Array:
        xp = namespace(X)
        out = xp.empty(X.shape, dtype=X.dtype)
        for s in row_slices(len(self.data), 8 * 8 * X.shape[1]):
            fields = slice(8 * s.start, 8 * s.stop)
            xp.multiply(X[fields], self._bits(s), out=out[fields])
        return out

    def _diagonal(self) -> Array:
        return namespace(self.data).unpackbits(self.data)[: self.shape[0]].astype(self.dtype)
