"""Masks: the diagonal operator that applies gates to a field."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, check_gates, namespace
from opflow.machine.workspace import row_slices
from opflow.operators.diagonal import Diagonal
from opflow.operators.gates import checked_slope, slope_values
from opflow.operators.operator import Cost


class Mask(Diagonal):
    """The diagonal operator that applies gates to a field: ``(Mask(θ) x)_i = θ_i x_i``.

    Parameters
    ----------
    gates : bool array of any shape
        The field it acts on is flattened in C order; ``dims`` keeps the shape.
    dtype : dtype, default float64
    slope : float, default 0
        α, by which a closed gate multiplies: the mask of leaky units.
    symbol : str, default "D"

    See Also
    --------
    opflow.PackedGates : Gates as a matrix of samples and units.
    opflow.Identity : All gates open.
    opflow.WeightGram : Weights between the masks of two samples.

    Notes
    -----
    An orthogonal projection for α = 0: symmetric, PSD, equal to its square; PSD for α > 0.
    Stored at one bit a gate; a product costs one multiplication an entry.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Mask([True, False]) @ np.array([3.0, 4.0])
    array([3., 0.])
    """

    dtype_free = True

    def __init__(
        self,
        gates: Array,
        dtype: DTypeLike = np.float64,
        *,
        slope: float = 0.0,
        symbol: str = "D",
    ) -> None:
        gates = check_gates(gates)
        if gates.size == 0:
            raise ValueError("gates must not be empty")
        self.data = namespace(gates).packbits(gates.reshape(-1))
        self.slope = checked_slope(slope)
        super().__init__(
            (gates.size, gates.size),
            dtype,
            symmetric=True,
            psd=slope >= 0,
            symbol=symbol,
            dims=gates.shape or (1,),
            dimsd=gates.shape or (1,),
        )

    def cost(self, columns: int = 1) -> Cost:
        return super().cost(columns) + Cost(0.0, self.data.nbytes)

    def _values(self, s: slice, dtype: DTypeLike) -> Array:
        """What the entries of a field are multiplied by, from the bytes `s`."""
        xp = namespace(self.data)
        bits = xp.unpackbits(self.data[s])[: self.shape[0] - 8 * (s.start or 0)]
        if not self.slope:
            return bits
        return slope_values(bits, self.slope, dtype)

    def _matmat(self, X: Array) -> Array:
        xp = namespace(X)
        out = xp.empty(X.shape, dtype=X.dtype)
        for s in row_slices(len(self.data), 8 * 8 * X.shape[1]):
            fields = slice(8 * s.start, 8 * s.stop)
            xp.multiply(X[fields], self._values(s, X.dtype)[:, None], out=out[fields])
        return out

    def _diagonal(self) -> Array:
        return self._values(slice(None), self.dtype).astype(self.dtype)
