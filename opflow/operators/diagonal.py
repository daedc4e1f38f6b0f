"""Diagonal operators: of numbers, the identity, and the zero operator.

The identity and zero hold no data and take the dtype of what they meet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Index, namespace
from opflow.machine.workspace import op_namespace
from opflow.operators.entries import cheap_in_operands, entries_are_cheap, gram_diagonal
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import block_work, stored_block
from opflow.operators.rules import identity


def entry_indices(op: Operator, rows: Index, cols: Index) -> tuple[Array, Array]:
    """The row and the column number of the entries of a sub-block, as a column and a row."""
    xp = op_namespace(op)
    return xp.arange(op.shape[0])[rows][:, None], xp.arange(op.shape[1])[cols]


class Diagonal(Operator):
    """A diagonal operator; a subclass gives `_diagonal` and, if it can be cheaper, `_matmat`."""

    def _matmat(self, X: Array) -> Array:
        return self._diagonal()[:, None] * X

    def _block(self, rows: Index, cols: Index) -> Array:
        i, j = entry_indices(self, rows, cols)
        return (i == j) * self._diagonal()[cols]

    def cost(self, columns: int = 1) -> Cost:
        return Cost(float(self.shape[0] * columns), self._vector_bytes(columns))


entries_are_cheap.register(Diagonal, cheap_in_operands)


@gram_diagonal.register
def _diagonal_squared(F: Diagonal, weights: Array | None = None) -> Array:
    squares = F._diagonal() ** 2
    if weights is None:
        return squares
    return squares * weights


class Identity(Diagonal):
    """The identity operator of order `n`, which adopts the dtype of the operator it is added to.

    Parameters
    ----------
    n : int
    dtype : dtype, default float64

    See Also
    --------
    opflow.Zero : The zero operator.
    opflow.Mask : A diagonal of zeros and ones.

    Examples
    --------
    >>> import opflow as of
    >>> of.Identity(3).trace()
    np.float64(3.0)
    """

    row_access = True
    dtype_free = True

    def __init__(self, n: int, dtype: DTypeLike = np.float64) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        super().__init__((n, n), dtype, psd=True, symbol="I")

    def _matmat(self, X: Array) -> Array:
        return X.copy()

    def _diagonal(self) -> Array:
        return op_namespace(self).ones(self._rows, dtype=self.dtype)

    def cost(self, columns: int = 1) -> Cost:
        return Cost(0.0, self._vector_bytes(columns))


block_work.register(Identity, stored_block)


@identity.register(Operator)
def _identity(like: Operator) -> Operator:
    return Identity(like.shape[0], dtype=like.dtype)


class Zero(Operator):
    """The zero operator, which vanishes from sums and makes products zero.

    Parameters
    ----------
    rows : int
    columns : int, optional
        `rows` by default.
    dtype : dtype, default float64

    See Also
    --------
    opflow.Identity : The identity operator.

    Examples
    --------
    >>> import opflow as of
    >>> A = of.Gram(of.Identity(3))
    >>> (A + of.Zero(3)) is A, type(A @ of.Zero(3, 2)).__name__
    (True, 'Zero')
    """

    row_access = True
    dtype_free = True

    def __init__(
        self, rows: int, columns: int | None = None, dtype: DTypeLike = np.float64
    ) -> None:
        if columns is None:
            columns = rows
        shape = (rows, columns)
        if rows < 0 or columns < 1:
            raise ValueError(f"rows must be at least 0 and columns at least 1, not {shape}")
        super().__init__(shape, dtype, psd=rows == columns, symbol="0")

    def _matmat(self, X: Array) -> Array:
        return namespace(X).zeros((self.shape[0], X.shape[1]), dtype=X.dtype)

    def _rmatmat(self, X: Array) -> Array:
        return namespace(X).zeros((self.shape[1], X.shape[1]), dtype=X.dtype)

    def cost(self, columns: int = 1) -> Cost:
        return Cost(0.0, self._vector_bytes(columns))
