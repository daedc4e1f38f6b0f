"""A kernel function on data as an operator, evaluated block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opflow.machine.arrays import Array, Data, Index, as_samples, is_rows
from opflow.operators.matrix import RowMatrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.tiles import tiled_product


class FunctionGram(Operator):
    r"""The matrix of a kernel function, ``G_{μν} = function(X_μ, Y_ν)``, never formed.

    Parameters
    ----------
    function : callable
        ``function(A, B)`` of two blocks of rows gives the array (len(A), len(B)).
    X : array (N, d) or rows on disk
    Y : array (M, d) or rows on disk, optional
        `X` by default, and the kernel is then taken to be symmetric and positive semidefinite.
    symbol : str, default "κ"

    See Also
    --------
    opflow.infinite_width : Kernels of infinitely wide networks, of this class.
    opflow.Gram : The Gram of explicit features.
    opflow.materialise : Keeps the matrix where it fits.
    opflow.spectral.kernel_regression : Regression with any kernel.

    Notes
    -----
    A product evaluates the function on tiles (the symmetric half only) and keeps none: N²/2
    evaluations and 2·N² flops a column.  The function is called in one thread at a time.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X = np.arange(3.0)[:, None]
    >>> of.FunctionGram(lambda A, B: np.exp(-((A - B.T) ** 2)), X).diagonal()
    array([1., 1., 1.])
    """

    row_access = True
    rows_stored = False

    def __init__(
        self, function: Callable[[Any, Any], Any], X: Data, Y: Data = None, *, symbol: str = "κ"
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, not {type(function).__name__}")
        self.function = function
        self._X = _samples(X, "X")
        self._Y = self._X if Y is None else _samples(Y, "Y")
        one = self._block(slice(0, 1), slice(0, 1))
        shape = (int(self._X.shape[0]), int(self._Y.shape[0]))
        super().__init__(shape, one.dtype, psd=Y is None, symbol=symbol)

    @property
    def data(self) -> Data:
        """The samples: the operator is where they are."""
        return self._X

    def _block(self, rows: Index, cols: Index) -> Array:
        left, right = _rows(self._X, rows), _rows(self._Y, cols)
        block = self.function(left, right)
        wanted = (left.shape[0], right.shape[0])
        found = getattr(block, "shape", type(block).__name__)
        if found != wanted:
            raise ValueError(f"function must give a block of shape {wanted}, not {found}")
        return block

    def cost(self, columns: int = 1) -> Cost:
        m, n = self.shape
        evaluated = m * n / (1 + self.symmetric)
        flops = 2.0 * (evaluated * self._X.shape[1] + m * n * columns)
        return Cost(flops, self._vector_bytes(columns))

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[1]))

    def _matmat(self, X: Array) -> Array:
        return tiled_product(self, X)

    def _rmatmat(self, X: Array) -> Array:
        return tiled_product(self, X, adjoint=True)


def _samples(X: Data, name: str) -> Data:
    X = as_samples(X, name)
    if len(X.shape) != 2:
        raise ValueError(f"{name} must be two-dimensional (samples, features), not {X.shape}")
    return X


def _rows(X: Data, index: Index) -> Array:
    return RowMatrix(X).rows(index) if is_rows(X) else X[index]
