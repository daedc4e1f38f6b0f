"""The inputs X, in memory or on disk: checks, blocks of samples, and their ``h¹ = X W¹ᵀ + b``.

X may be an array (a memory map included), anything with ``shape``, ``dtype`` and row slicing
(read in row blocks; streamed to a device if the caller says so), a sparse matrix or an operator
(only X· and Xᵀ· are used, on whole fields).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from opflow.machine.arrays import (
    Array,
    Data,
    Index,
    as_samples,
    check_on_disk,
    check_real,
    is_rows,
    is_sparse,
    namespace,
)
from opflow.machine.streams import Streamed, check_place, host_rows
from opflow.machine.workspace import row_slices
from opflow.operators import Operator
from opflow.operators.matrix import RowMatrix
from opflow.operators.rules import as_operator, is_operator
from opflow.relu.network_arrays import NetworkArrays


def check_inputs(
    X: Data, network: NetworkArrays, name: str = "X", finite: bool = True, empty: bool = False
) -> Any:
    """Return `X` if it can be the input of `network`, else say why not.

    Sparse matrices come back by rows, operators as opflow operators, what is read by rows as it
    is, and the rest as :func:`opflow.machine.arrays.as_array` has it.
    """
    X = as_operator(X) if is_operator(X) else as_samples(X, name)
    if len(X.shape) != 2:
        raise ValueError(f"{name} must be two-dimensional (samples, features), not {X.shape}")
    if X.shape[0] == 0 and not empty:
        raise ValueError(f"{name} has shape {X.shape}: there are no samples")
    if X.shape[1] != network.widths[0]:
        raise ValueError(
            f"{name} has shape {X.shape} but the network expects {network.widths[0]} input features"
        )
    if is_operator(X):
        if X.dtype != network.dtype:
            raise TypeError(
                f"{name} is {X.dtype} but the network is {network.dtype}: an operator is "
                "not converted, make it of data of that dtype"
            )
        return X
    check_place(X, network.readout)
    if is_sparse(X):
        X = X.tocsr()
    if not is_rows(X):
        return check_real(X, name, dtype=network.dtype, finite=finite)
    check_on_disk(X, name, network.dtype)
    if finite:
        rows = host_rows(X)
        for s in row_slices(X.shape[0], X.shape[1] * X.dtype.itemsize, workspace=2**18):
            check_real(input_rows(rows, s), name, finite=True)
    return X


def is_whole(X: Data) -> bool:
    """Whether only whole products X· and Xᵀ· are to be had, or are much cheaper than by rows."""
    return is_sparse(X) or is_operator(X)


def input_rows(X: Data, index: Index) -> Any:
    """Rows of X, an array or sparse; what is on disk is read into host memory."""
    if is_rows(X):
        return RowMatrix(X).rows(index)
    rows = X[index]
    if isinstance(rows, np.ndarray):
        return rows.view(np.ndarray)  # a memory map's rows
    return rows


def input_operator(X: Data, symbol: str = "X") -> Operator:
    """X as an operator."""
    return RowMatrix(X, symbol=symbol) if is_rows(X) else as_operator(X, symbol=symbol)


def copied_width(X: Data) -> int:
    """Numbers that a pass holds of X for each row of a block, X not being at hand whole.

    Of what is streamed three blocks: the one in use, the one after and the one before.  Of a sparse
    X the entries, and their columns, which may be as wide.
    """
    if is_sparse(X):
        return -(-2 * X.nnz // max(X.shape[0], 1))
    if not is_rows(X):
        return 0
    return int(X.shape[1]) * (3 if isinstance(X, Streamed) else 1)


class RowHidden(NamedTuple):
    """h¹ of blocks of samples, computed from the rows of X; nothing of X is kept."""

    #: X, which the blocks are read of
    data: Data
    W: Array
    b: Array | None

    def read(self, s: slice, out: Array | None = None) -> tuple[Data | None, Array]:
        """The rows of X and h¹, in `out` if that is given: the caller's to overwrite."""
        rows = input_rows(self.data, s)
        return rows, affine(rows, self.W, self.b, out)

    def again(self) -> RowHidden:
        """The same h¹ for one more pass."""
        return self


class StoredHidden(NamedTuple):
    """h¹ of all samples (N, n_1), stored: a block is a view, the caller's to overwrite."""

    data: Array

    def again(self) -> StoredHidden:
        """The same h¹ for one more pass, a copy."""
        return StoredHidden(self.data.copy())

    def read(self, s: slice, out: Array | None = None) -> tuple[None, Array]:
        """As :meth:`RowHidden.read`, without rows of X."""
        block = self.data[s]
        if out is not None:
            out[...] = block
            block = out
        return None, block


#: h¹ on the inputs, block by block
Hidden = RowHidden | StoredHidden


def first_hidden(network: NetworkArrays, X: Data) -> Hidden:
    """h¹ on inputs, by rows, or at once where X can only be applied whole."""
    W = network.weights[0]
    b = network.biases[0]
    if is_whole(X) and X.shape[0]:
        return StoredHidden(affine(input_operator(X), W, b))
    return RowHidden(X, W, b)


def affine(below: Data, W: Array, b: Array | None, out: Array | None = None) -> Any:
    """``below Wᵀ + b``, in `out` if it is given and `below` is an array."""
    h = below @ W.T if is_whole(below) else namespace(W).matmul(below, W.T, out=out)
    if b is not None:
        h += b
    return h
