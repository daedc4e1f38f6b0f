"""Gates: their packed storage as an operator, and the diagonal operator that applies them.

A gate is one bit.  :class:`PackedGates` is the N × n zero-one matrix of gates, stored at one bit
an entry and unpacked in row blocks; :class:`Mask` is the diagonal operator on a field.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.machine import gate_tables
from opflow.machine.arrays import check_gates, namespace
from opflow.machine.workspace import blocked_matmat, blocked_rmatmat, row_slices
from opflow.operators.operator import Cost, Operator, check_dtype


def pack(gates: Any) -> Any:
    """Boolean rows (N, n) as bytes (N, ⌈n/8⌉), eight gates a byte."""
    xp = namespace(gates)
    n, width = gates.shape
    padding = -width % 8
    packed = xp.empty((n, (width + padding) // 8), dtype=xp.uint8)
    for s in row_slices(n, 2 * (width + padding)):
        part = gates[s]
        if padding:
            part = xp.concatenate([part, xp.zeros((len(part), padding), dtype=bool)], axis=1)
        packed[s] = xp.packbits(part).reshape(len(part), packed.shape[1])
    return packed


def unpack(packed: Any, width: int) -> Any:
    """The inverse of :func:`pack`, as zeros and ones of dtype uint8."""
    xp = namespace(packed)
    return xp.unpackbits(packed).reshape(len(packed), 8 * packed.shape[1])[:, :width]


class PackedGates(Operator):
    """The zero-one matrix of gates θ (N × n), stored at one bit a gate.

    Parameters
    ----------
    gates : bool array of shape (N, n)
    dtype : dtype, default float64
        Of products; a choice, since gates are exact in any.

    Examples
    --------
    >>> import numpy as np
    >>> PackedGates(np.array([[True, False, True]])).rows(slice(0, 1))
    array([[1., 0., 1.]])
    """

    row_access = dtype_free = True

    def __init__(self, gates: Any, dtype: Any = np.float64, *, symbol: str = "θ") -> None:
        gates = check_gates(gates)
        if gates.ndim != 2 or 0 in gates.shape:
            raise ValueError(f"gates must be a non-empty (N, n) array, not of shape {gates.shape}")
        self.data = pack(gates)
        super().__init__(gates.shape, dtype, symbol=symbol)

    def astype(self, dtype: Any) -> PackedGates:
        if self.dtype == np.dtype(dtype):
            return self
        other = object.__new__(PackedGates)  # shares the packed data
        other.__dict__ = self.__dict__ | {"dtype": check_dtype(dtype)}
        return other

    def cost(self, columns: int = 1) -> Cost:
        m, n = self.shape
        flops = 2.0 * m * n * columns
        gates = flops if gate_tables.tabulated(self.dtype, self.data) else 0.0
        return Cost(flops, self.data.nbytes + self._vector_bytes(columns), gates=gates)

    def rows(self, index: Any) -> Any:
        return unpack(self.data[index], self.shape[1]).astype(self.dtype)

    @classmethod
    def from_bits(cls, bits: Any, width: int, dtype: Any, *, symbol: str = "θ") -> PackedGates:
        """Gates that are packed already, as :func:`pack` does; referenced, not checked."""
        self = object.__new__(cls)
        self.data = bits
        Operator.__init__(self, (len(bits), width), dtype, symbol=symbol)
        return self

    def _matmat(self, X: Any) -> Any:
        if gate_tables.tabulated(X.dtype, self.data):
            return gate_tables.times(self.data, self.shape[1], X)
        return blocked_matmat(self, X)

    def _rmatmat(self, X: Any) -> Any:
        X = namespace(X).ascontiguousarray(X)
        if gate_tables.tabulated(X.dtype, self.data, X):
            return gate_tables.weighted_sums(self.data, self.shape[1], X)[0]
        return blocked_rmatmat(self, X)


class Mask(Operator):
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

    def __init__(self, gates: Any, dtype: Any = np.float64, *, symbol: str = "D") -> None:
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

    def astype(self, dtype: Any) -> Mask:
        if self.dtype == np.dtype(dtype):
            return self
        other = object.__new__(Mask)
        other.__dict__ = self.__dict__ | {"dtype": check_dtype(dtype)}
        return other

    def cost(self, columns: int = 1) -> Cost:
        return Cost(float(self.shape[0] * columns), self.data.nbytes + self._vector_bytes(columns))

    def _bits(self, s: slice) -> Any:
        bits = namespace(self.data).unpackbits(self.data[s])
        return bits[: self.shape[0] - 8 * s.start, None]

    def _matmat(self, X: Any) -> Any:
        xp = namespace(X)
        out = xp.empty(X.shape, dtype=X.dtype)
        for s in row_slices(len(self.data), 8 * 8 * X.shape[1]):
            fields = slice(8 * s.start, 8 * s.stop)
            xp.multiply(X[fields], self._bits(s), out=out[fields])
        return out

    _rmatmat = _matmat

    def _diagonal(self) -> Any:
        return namespace(self.data).unpackbits(self.data)[: self.shape[0]].astype(self.dtype)

    def _gram_diagonal(self, weights: Any) -> Any:
        return self._diagonal() if weights is None else self._diagonal() * weights

    def _block(self, rows: Any, cols: Any) -> Any:
        xp = namespace(self.data)
        index = xp.arange(self.shape[0])
        return (index[rows][:, None] == index[cols]) * self._diagonal()[cols]
