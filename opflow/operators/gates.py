"""Matrices of gates, at one bit each: θ, ``θ diag(v)`` and ``diag(r) θ diag(v)``.

Each may be one of slopes: ``s = α + (1 − α) θ`` in the place of θ, by rank-one corrections.
Products go through tables of sums (:mod:`opflow.machine.gate_tables`) where that is faster, and so
do those of ``ScaledGates(…) ⊙ X``; else gates are unpacked in row blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine import gate_tables
from opflow.machine.arrays import Array, Data, Index, check_gates, check_real, namespace
from opflow.machine.workspace import blocked_matmat, blocked_rmatmat, row_slices, workspace_bytes
from opflow.operators.khatri_rao import KhatriRao
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import array_bytes, product_bytes, vector_bytes
from opflow.operators.row_products import product_cost, pull, push, push_pull


def pack(gates: Array) -> Array:
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


def unpack(packed: Array, width: int) -> Array:
    """The inverse of :func:`pack`, as zeros and ones of dtype uint8."""
    xp = namespace(packed)
    return xp.unpackbits(packed).reshape(len(packed), 8 * packed.shape[1])[:, :width]


def checked_slope(slope: float) -> float:
    """A finite number."""
    if isinstance(slope, bool) or not isinstance(slope, Real) or not math.isfinite(slope):
        raise ValueError(f"slope must be a finite number, not {slope!r}")
    return float(slope)


def slope_values(gates: Array, slope: float, dtype: DTypeLike) -> Array:
    """1 where a gate is open, and `slope` elsewhere; exactly."""
    if not slope:
        return gates.astype(dtype)
    values = (gates == 0).astype(dtype)
    values *= slope
    values += gates
    return values


class PackedGates(Operator):
    """The zero-one matrix of gates θ (N × n), stored at one bit a gate.

    Parameters
    ----------
    gates : bool array of shape (N, n)
    dtype : dtype, default float64
        Of products; a choice, since gates are exact in any.
    slope : float, default 0
        α: the matrix has it where a gate is closed, and so is ``α + (1 − α) θ``.
    symbol : str, default "θ"

    See Also
    --------
    opflow.CoActivation : The Gram of these gates.
    opflow.ScaledGates : Gates times a diagonal matrix.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.PackedGates(np.array([[True, False, True]])).rows(slice(0, 1))
    array([[1., 0., 1.]])
    """

    row_access = True
    dtype_free = True

    def __init__(
        self,
        gates: Array,
        dtype: DTypeLike = np.float64,
        *,
        slope: float = 0.0,
        symbol: str = "θ",
    ) -> None:
        gates = check_gates(gates)
        if gates.ndim != 2 or 0 in gates.shape:
            raise ValueError(f"gates must be a non-empty (N, n) array, not of shape {gates.shape}")
        self.data = pack(gates)
        self.slope = checked_slope(slope)
        super().__init__(gates.shape, dtype, symbol=symbol)

    def cost(self, columns: int = 1) -> Cost:
        cost = super().cost(columns) + Cost(0.0, self.data.nbytes)
        return cost._replace(gates=cost.flops * gate_tables.tabulated(self.dtype, self.data))

    def rows(self, index: Index) -> Array:
        return slope_values(unpack(self.data[index], self.shape[1]), self.slope, self.dtype)

    @classmethod
    def from_bits(
        cls, bits: Array, width: int, dtype: DTypeLike, slope: float = 0.0, *, symbol: str = "θ"
    ) -> PackedGates:
        """Gates packed already as by ``numpy.packbits(gates, axis=1)``; not copied or checked."""
        self = object.__new__(cls)
        self.data = bits
        self.slope = slope
        Operator.__init__(self, (len(bits), width), dtype, symbol=symbol)
        return self

    def _matmat(self, X: Array) -> Array:
        if gate_tables.tabulated(X.dtype, self.data):
            out = gate_tables.times(self.data, self.shape[1], X)
            return corrected(out, self.slope, lambda: X.sum(axis=0))
        return blocked_matmat(self, X)

    def _rmatmat(self, X: Array) -> Array:
        X = namespace(X).ascontiguousarray(X)
        if gate_tables.tabulated(X.dtype, self.data, X):
            out = gate_tables.weighted_sums(self.data, self.shape[1], X)[0]
            return corrected(out, self.slope, lambda: X.sum(axis=0))
        return blocked_rmatmat(self, X)


def corrected(product: Array, slope: float, whole: Callable[[], Array]) -> Array:
    """Make of a product with gates that with slopes, in place; `whole` gives that with ones."""
    if slope:
        product *= 1 - slope
        product += slope * whole()
    return product


class ScaledGates(Operator):
    r"""The matrix ``Θ diag(v)`` (N × n), its gates stored at one bit each.

    Parameters
    ----------
    gates : bool array of shape (N, n), or PackedGates
    scale : array of shape (n,)
        v; its dtype is the operator's.
    symbol : str, optional

    See Also
    --------
    opflow.PackedGates : The gates alone.
    opflow.KhatriRao : Makes a Jacobian of these and the inputs.

    Notes
    -----
    With one output the conjugates of the top layer, :math:`\varphi_{\mu i} = v_i \theta_i^\mu`,
    are of this form.  A product is one with the gates, 2·N·n flops a column; in
    ``KhatriRao(ScaledGates(...), X)`` both halves of a product are products of gates with X.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.ScaledGates(np.array([[True, False], [True, True]]), np.array([2.0, 3.0])).todense()
    array([[2., 0.],
           [2., 3.]])
    """

    row_access = True

    def __init__(
        self, gates: Array | PackedGates, scale: Array, *, symbol: str = "θ diag(v)"
    ) -> None:
        if not isinstance(gates, PackedGates):
            gates = PackedGates(gates)
        scale = check_real(scale, "scale")
        if scale.shape != gates.shape[1:]:
            raise ValueError(f"scale has shape {scale.shape} but there are {gates.shape[1]} gates")
        self.gates = gates.astype(scale.dtype)
        self.data = gates.data
        self.scale = scale
        super().__init__(gates.shape, scale.dtype, symbol=symbol)

    def cost(self, columns: int = 1) -> Cost:
        return self.gates.cost(columns)

    def rows(self, index: Index) -> Array:
        rows = self.gates.rows(index)
        rows *= self.scale
        return rows

    def _matmat(self, X: Array) -> Array:
        return self.gates.astype(X.dtype)._matmat(self.scale[:, None] * X)

    def _rmatmat(self, X: Array) -> Array:
        out = self.gates.astype(X.dtype)._rmatmat(X)
        out *= self.scale[:, None]
        return out


class GateGradient(NamedTuple):
    """``diag(r) S diag(v)``: the gradient in the fields of a top layer with one output.

    It multiplies as an array does, through tables: ``G @ W``, ``G.T @ X``, sums over samples.
    """

    #: Θ, packed
    bits: Array
    r: Array
    v: Array
    #: α of S = α + (1 − α) Θ
    slope: float = 0.0
    transposed: bool = False

    @property
    def T(self) -> GateGradient:
        return self._replace(transposed=not self.transposed)

    def __matmul__(self, M: Array) -> Array:
        units = len(self.v)
        if self.transposed:
            M = np.ascontiguousarray(M)
            out = gate_tables.weighted_sums(self.bits, units, M, self.r[None, :])[0]
            corrected(out, self.slope, lambda: self.r @ M)
            out *= self.v[:, None]
        else:
            out = gate_tables.times(self.bits, units, self.v[:, None] * M)
            corrected(out, self.slope, lambda: self.v @ M)
            out *= self.r[:, None]
        return out

    def sum(self, axis: int = 0) -> Array:
        """The sums over samples."""
        return (self.T @ np.ones((len(self.r), 1), dtype=self.r.dtype))[:, 0]


@product_bytes.register(PackedGates)
@product_bytes.register(ScaledGates)
def _product_bytes(op: Operator, columns: int) -> float:
    # Unpacked as bytes, then in the dtype of the product.
    block = min(array_bytes(op, *op.shape), workspace_bytes()) * (1 + 1 / op.dtype.itemsize)
    return vector_bytes(op, columns) + block


# -- ScaledGates ⊙ X by tables --------------------------------------------------------------------


def tables_pay(units: int, dtype: DTypeLike, *arrays: Data) -> bool:
    """Whether gates of so many units multiply these arrays faster through tables."""
    return units >= gate_tables.FEWEST and gate_tables.tabulated(dtype, *arrays)


def _by_tables(F: KhatriRao, dtype: DTypeLike) -> bool:
    """Whether products of `dtype` with ``F = ScaledGates ⊙ B`` go through tables."""
    if F.repeat > 1 or type(F.B) is not Matrix or F.B.dtype != dtype:
        return False
    return gate_tables.tabulated(dtype, F.A.data, F.B.data)


@product_cost.register
def _table_cost(A: ScaledGates, F: KhatriRao, columns: int) -> Cost:
    if not _by_tables(F, F.dtype):
        return NotImplemented
    cost = product_cost.general(A, F, columns)
    return cost._replace(gates=2.0 * F.shape[0] * F.shape[1] * columns)


@push.register
def _push_tables(A: ScaledGates, F: KhatriRao, X: Array) -> Array:
    if not _by_tables(F, X.dtype):
        return NotImplemented
    M = X.T.reshape(-1, A.shape[1], F.B.shape[1]) * A.scale[:, None]
    dots = gate_tables.row_dots(A.data, A.shape[1], M, F.B.data)
    return corrected(dots, A.gates.slope, lambda: M.sum(axis=1) @ F.B.data.T).T


@pull.register
def _pull_tables(A: ScaledGates, F: KhatriRao, X: Array) -> Array:
    if not _by_tables(F, X.dtype):
        return NotImplemented
    sums = gate_tables.weighted_sums(A.data, A.shape[1], F.B.data, X.T)
    corrected(sums, A.gates.slope, lambda: (X.T @ F.B.data)[:, None])
    sums *= A.scale[:, None]
    return sums.reshape(X.shape[1], -1).T


@push_pull.register
def _push_pull_tables(A: ScaledGates, F: KhatriRao, X: Array) -> Array:
    if not _by_tables(F, X.dtype):
        return NotImplemented
    if A.gates.slope:
        return _push_tables(A, F, _pull_tables(A, F, X))
    return gate_tables.gram_product(A.data, A.shape[1], F.B.data, X.T, A.scale).T
