"""The identity and the zero operator, which hold no data and take the dtype of what they meet."""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.machine.arrays import namespace
from opflow.machine.workspace import op_namespace
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import identity


class Identity(Operator):
    """The identity of order `n`; takes the dtype of what it is added to.

    Parameters
    ----------
    n : int
    dtype : dtype, default float64

    Examples
    --------
    >>> import opflow as of
    >>> of.Identity(3).trace()
    np.float64(3.0)
    """

    row_access = dtype_free = True

    def __init__(self, n: int, dtype: Any = np.float64) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        super().__init__((n, n), dtype, psd=True, symbol="I")

    def _matmat(self, X: Any) -> Any:
        return X.copy()

    _rmatmat = _matmat

    def _block(self, rows: Any, cols: Any) -> Any:
        index = op_namespace(self).arange(self.shape[0])
        return (index[rows][:, None] == index[cols]).astype(self.dtype)

    def _diagonal(self) -> Any:
        return op_namespace(self).ones(self._rows, dtype=self.dtype)

    def cost(self, columns: int = 1) -> Cost:
        return Cost(0.0, self._vector_bytes(columns))


class Zero(Operator):
    """The zero operator: it vanishes from sums, and a product with it is zero.

    Parameters
    ----------
    rows : int
    columns : int, optional
        `rows` by default.
    dtype : dtype, default float64

    Examples
    --------
    >>> import opflow as of
    >>> A = of.Gram(of.Identity(3))
    >>> (A + of.Zero(3)) is A, type(A @ of.Zero(3, 2)).__name__
    (True, 'Zero')
    """

    row_access = dtype_free = True

    def __init__(self, rows: int, columns: int | None = None, dtype: Any = np.float64) -> None:
        shape = (rows, rows if columns is None else columns)
        if rows < 0 or shape[1] < 1:
            raise ValueError(f"rows must be at least 0 and columns at least 1, not {shape}")
        super().__init__(shape, dtype, psd=shape[0] == shape[1], symbol="0")

    def _matmat(self, X: Any) -> Any:
        return namespace(X).zeros((self.shape[0], X.shape[1]), dtype=X.dtype)

    def _rmatmat(self, X: Any) -> Any:
        return namespace(X).zeros((self.shape[1], X.shape[1]), dtype=X.dtype)

    def cost(self, columns: int = 1) -> Cost:
        return Cost(0.0, self._vector_bytes(columns))


@identity.register(Operator)
def _identity(like: Operator) -> Operator:
    return Identity(like.shape[0], dtype=like.dtype)
