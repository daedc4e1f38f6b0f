"""Stored matrices as operators: the leaves of every expression."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np

from opflow.machine.arrays import (
    Array,
    Data,
    Index,
    as_array,
    check_on_disk,
    check_real,
    is_rows,
    is_sparse,
    namespace,
    read_only,
    to_host,
)
from opflow.machine.threads import by_rows, cached_property, large
from opflow.machine.workspace import blocked_matmat, blocked_rmatmat
from opflow.operators.entries import (
    column_squares,
    cross_block,
    cross_diagonal,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import Work, array_bytes, block_work, gram_work, stored_block

#: flops that an entry of a sparse-times-sparse product costs beyond its multiplications
SPARSE_ENTRY = 0.5
#: how much slower these multiplications are than those of sparse-times-dense
SPARSE_PAIR = 30.0


class Matrix(Operator):
    """A dense array or a sparse matrix as an operator; the data is referenced, not copied.

    Parameters
    ----------
    data : array or sparse matrix of shape (m, n)
        float32 or float64, or converted to it.  Sparse matrices are stored by rows (CSR).
    symmetric, psd : bool
        Promises by the caller about a square matrix; they are not checked.
    symbol : str, optional

    See Also
    --------
    opflow.as_operator : An operator from any data.
    opflow.RowMatrix : Rows that are read when they are needed.
    opflow.Weight : A weight matrix.

    Notes
    -----
    One product costs 2mn flops a column (2 nnz if sparse).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Matrix(np.array([[1.0, 2.0]])) @ np.array([1.0, 1.0])
    array([3.])
    """

    row_access = True
    name_of_argument = "data"

    def __init__(
        self, data: Data, *, symmetric: bool = False, psd: bool = False, symbol: str | None = None
    ) -> None:
        data = self._checked(data)
        if len(data.shape) != 2 or 0 in data.shape:
            raise ValueError(
                f"{self.name_of_argument} must be a non-empty matrix, not of shape {data.shape}"
            )
        if (symmetric or psd) and data.shape[0] != data.shape[1]:
            raise ValueError(f"a matrix of shape {data.shape} cannot be symmetric")
        self.sparse = is_sparse(data)
        if self.sparse:
            data = data.tocsr()
        self.data = data
        symbol = symbol or "M"
        super().__init__(data.shape, data.dtype, symmetric=symmetric, psd=psd, symbol=symbol)

    def _checked(self, data: Data) -> Data:
        return check_real(data, self.name_of_argument)

    def cost(self, columns: int = 1) -> Cost:
        if not self.sparse:
            return super().cost(columns) + Cost(0.0, array_bytes(self, *self.shape))
        flops = 2.0 * self.data.nnz * columns
        stored = self.data.nnz * (self.dtype.itemsize + 4)
        return Cost(flops, stored + self._vector_bytes(columns), flops)

    @cached_property
    def pairs(self) -> float:
        """Pairs of stored entries in one column: the multiplications of ``A Aᵀ``, if sparse."""
        counts = namespace(self.data).bincount(self.data.indices, minlength=self.shape[1])
        return float((counts.astype(float) ** 2).sum())

    @cached_property
    def _large(self) -> bool:
        return large(self.data)

    def _matmat(self, X: Array) -> Array:
        # A product in a wider dtype would copy all the data: go by row blocks instead.
        if X.dtype != self.dtype and not self.sparse:
            return blocked_matmat(self, X)
        if self._large:
            return by_rows(self.data, X)
        return self.data @ X

    def _rmatmat(self, X: Array) -> Array:
        if X.dtype != self.dtype and not self.sparse:
            return blocked_rmatmat(self, X)
        if self._large:
            return by_rows(self.data.T, X)
        return self.data.T @ X

    def rows(self, index: Index) -> Array:
        if self.sparse:
            return self.data[index].toarray()
        return read_only(self.data[index])

    def _block(self, rows: Index, cols: Index) -> Array:
        if self.sparse:
            return self.data[rows][:, cols].toarray()
        if isinstance(rows, slice):
            return read_only(self.data[rows][:, cols])
        if isinstance(cols, slice):  # first the side that is a view: no copy of whole rows
            return self.data[:, cols][rows]
        return self.data[rows[:, None], cols]

    def _diagonal(self) -> Array:
        return self.data.diagonal().copy()


class RowMatrix(Matrix):
    """A matrix that is read by rows and never held whole.

    An h5py or zarr data set, say, or rows :class:`~opflow.Streamed` to a device.

    Parameters
    ----------
    data : object with `shape`, `dtype` and row slicing
        ``data[i:j]`` gives rows i..j-1; an increasing integer array as index gives those rows.
    symmetric, psd, symbol : optional
        As of :class:`Matrix`.

    See Also
    --------
    opflow.Matrix : An array that is held.
    opflow.Streamed : Rows on the host, moved to a device.

    Notes
    -----
    A product reads every row once, in blocks within the workspace.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> class OnDisk:
    ...     shape, dtype = (3, 2), np.dtype(float)
    ...     def __getitem__(self, index):
    ...         return np.arange(6.0).reshape(3, 2)[index]
    >>> of.RowMatrix(OnDisk()) @ np.ones(2)
    array([1., 5., 9.])
    """

    _matmat = blocked_matmat
    _rmatmat = blocked_rmatmat
    _diagonal = Operator._diagonal

    def _checked(self, data: Data) -> Data:
        if not is_rows(data):
            return super()._checked(data)
        check_on_disk(data, self.name_of_argument)
        return data

    def rows(self, index: Index) -> Array:
        # h5py reads slices forwards, and increasing indices of which there is at least one
        if isinstance(index, slice):
            span = range(self.shape[0])[index]
            if span.step > 0:
                return self._read(index)
            forwards = slice(span[-1], span[0] + 1, -span.step) if span else slice(0, 0)
            return self._read(forwards)[::-1]
        index = to_host(index)
        if not index.size:
            return self._read(slice(0, 0))
        if (np.diff(index) > 0).all():
            return self._read(index)
        wanted, inverse = np.unique(index, return_inverse=True)
        found = self._read(wanted)
        return found[namespace(found).asarray(inverse)]

    def _read(self, index: Index) -> Array:
        return as_array(self.data[index], self.name_of_argument)

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.rows(rows)[:, cols]


class Weight(Matrix):
    """A weight matrix W (n_out × n_in) as an operator from input to output units.

    Parameters
    ----------
    W : array of shape (n_out, n_in)
        float32 or float64.
    symbol : str, default "W"

    See Also
    --------
    opflow.Matrix : Any matrix.
    opflow.SampleLift : A weight matrix applied to every sample.
    opflow.WeightGram : ``Wᵀ D_μ D_ν W``.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> W = of.Weight(np.array([[1.0, -1.0], [2.0, 0.5]]))
    >>> of.pullback(of.Mask([True, False]), W).todense()
    array([[ 1., -1.],
           [-1.,  1.]])
    """

    name_of_argument = "W"

    def __init__(self, W: Data, *, symbol: str = "W") -> None:
        super().__init__(W, symbol=symbol)


# -- entries and their prices: products of sparse rows stay sparse ---------------------------------


@gram_block.register
def _gram_block(F: Matrix, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    if not F.sparse:
        return NotImplemented
    left = F.data[rows]
    if weights is not None:
        left = left.multiply(weights[None, :]).tocsr()
    return (left @ F.data[cols].T).toarray()


@gram_diagonal.register
def _gram_diagonal(F: Matrix, weights: Array | None = None) -> Array:
    if not F.sparse:
        return NotImplemented
    if weights is None:
        weights = namespace(F.data).ones(F.shape[1], F.dtype)
    return F.data.multiply(F.data) @ weights


@column_squares.register
def _column_squares(F: Matrix) -> Array:
    if not F.sparse:
        return NotImplemented
    return F.data.multiply(F.data).T @ namespace(F.data).ones(F.shape[0], F.dtype)


def _both_sparse(F: Matrix, G: Operator) -> TypeGuard[Matrix]:
    return F.sparse and isinstance(G, Matrix) and G.sparse


@cross_block.register
def _cross_block(F: Matrix, G: Operator, rows: Index, cols: Index) -> Array:
    if not _both_sparse(F, G):
        return NotImplemented
    return (F.data[rows] @ G.data[cols].T).toarray()


@cross_diagonal.register
def _cross_diagonal(F: Matrix, G: Operator) -> Array:
    if not _both_sparse(F, G):
        return NotImplemented
    return F.data.multiply(G.data) @ namespace(F.data).ones(F.shape[1], F.dtype)


block_work.register(Matrix, stored_block)


@gram_work.register
def _gram_work(F: Matrix, rows: int, cols: int) -> Work:
    height, width = F.shape
    size = array_bytes(F, rows, cols)
    if not F.sparse:
        read = array_bytes(F, rows + cols, width)
        held = size + read * isinstance(F, RowMatrix)  # rows on disk are copied
        return Work(Cost(2.0 * width * rows * cols, read + size), held)
    flops = 2.0 * SPARSE_PAIR * F.pairs * rows * cols / height**2 + SPARSE_ENTRY * rows * cols
    slabs = (rows + cols) / height * F.cost(0).bytes
    # The product is sparse first, with its indices, whatever it holds.
    return Work(Cost(flops, slabs + size, flops), 4 * size + 2 * slabs + 16.0 * rows * cols)
