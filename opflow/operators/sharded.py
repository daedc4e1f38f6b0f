"""An operator whose rows are spread over the ranks of a communicator."""

from __future__ import annotations

from typing import NoReturn

from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Data, Index, namespace
from opflow.machine.ranks import Sharded
from opflow.operators.composite import Composite
from opflow.operators.entries import column_squares, gram_diagonal
from opflow.operators.matrix import Matrix, RowMatrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import as_operator


class ShardedRows(Composite):
    r"""The rows of an operator, some on every rank: ``F = [F_0; F_1; …]``.

    Parameters
    ----------
    local : operator, array or sparse matrix (n, m)
        The rows of this rank; n may be zero.
    space : Sharded
        How many samples every rank has.
    outputs : int, default 1
        Rows of a sample.

    See Also
    --------
    opflow.distributed.Sharded : The distribution of rows.
    opflow.distributed.ShardedOperator : The same for PyLops-MPI.
    opflow.jacobian : An operator of such rows.

    Notes
    -----
    ``F x`` takes an x that all ranks hold and gives each its rows, without communication;
    ``Fᵀ y`` takes the rows of y that are here and gives every rank the sum
    :math:`\sum_i F_i^T y_i`, by one allreduce of m numbers a column.  A product with the Gram
    ``F Fᵀ`` is a local product, one allreduce that does not grow with the rows, and a local
    product.  Costs are those of this rank, without the communication.

    Examples
    --------
    >>> import numpy as np, opflow.distributed
    >>> from mpi4py import MPI
    >>> space = opflow.distributed.Sharded(MPI.COMM_WORLD, 3)
    >>> F = opflow.distributed.ShardedRows(np.ones((3, 2)), space)
    >>> (F @ np.ones(2)).tolist()
    [2.0, 2.0, 2.0]
    """

    row_access = False

    def __init__(self, local: Data, space: Sharded, outputs: int = 1) -> None:
        self.local = as_operator(local)
        rows = space.size * outputs
        if self.local.shape[0] != space.here(rows):
            raise ValueError(
                f"local has shape {self.local.shape} but this rank holds {space.here(rows)} of "
                f"{rows} rows"
            )
        super().__init__([self.local], (rows, self.local.shape[1]), self.local.dtype)
        self.space = space

    def _formula(self) -> str:
        return self.local.symbol

    def _matmat(self, X: Array) -> Array:
        return self.local._matmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.space.total(self.local._rmatmat(X))

    def rows(self, index: Index) -> NoReturn:
        raise ValueError(
            "entries of an operator with sharded rows are not available: only products, "
            "diagonal() and trace() are"
        )


class Part(Operator):
    """Neighbouring rows of the identity of order n."""

    def __init__(self, rows: slice, n: int, dtype: DTypeLike) -> None:
        self.part = rows
        super().__init__((rows.stop - rows.start, n), dtype, symbol="P")

    def cost(self, columns: int = 1) -> Cost:
        return Cost(0.0, self._vector_bytes(columns))

    def _matmat(self, X: Array) -> Array:
        return X[self.part]

    def _rmatmat(self, X: Array) -> Array:
        whole = namespace(X).zeros((self.shape[1], X.shape[1]), dtype=X.dtype)
        whole[self.part] = X
        return whole


def sharded_operator(op: Operator, rows: Sharded, columns: Sharded) -> Operator:
    """`op`, which all ranks hold, between vectors whose rows are sharded.

    A product is one with the columns of this rank, and an allreduce of as many numbers as there
    are rows; so is one with the adjoint, in the other order.
    """
    m, n = op.shape
    mine = columns.span(n)
    own = op @ Part(mine, n, op.dtype).H
    if isinstance(op, Matrix) and not isinstance(op, RowMatrix) and own.shape[1]:
        own = Matrix(op.data[:, mine])
    of_rows = ShardedRows(Part(rows.span(m), m, op.dtype), rows)
    return of_rows @ ShardedRows(own.H, columns, n // columns.size).H


@gram_diagonal.register
def _gram_diagonal(F: ShardedRows, weights: Array | None = None) -> Array:
    return gram_diagonal(F.local, weights)


@column_squares.register
def _column_squares(F: ShardedRows) -> Array:
    return F.space.total(column_squares(F.local))
