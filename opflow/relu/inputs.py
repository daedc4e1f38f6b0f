"""What a network needs of its inputs: rows of ``h¹ = X W¹ᵀ + b``, and ``∂loss/∂W¹`` from slopes.

X may be an array (a memory map included), anything with ``shape``, ``dtype`` and row slicing
(read in row blocks; streamed to a device if the caller says so), a sparse matrix or an operator
(only X· and Xᵀ· are used, on whole fields).
The classes here are one pass over the samples each; none keeps more of X than a row block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from opflow.machine.arrays import (
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
from opflow.operators.algebra import as_operator, is_operator
from opflow.operators.matrix import RowMatrix

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


def check_inputs(
    X: Any, network: ReLUNetwork, name: str = "X", finite: bool = True, empty: bool = False
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
    if is_operator(X) and X.dtype != network.dtype:
        raise TypeError(
            f"{name} is {X.dtype} but the network is {network.dtype}: an operator is "
            "not converted, make it of data of that dtype"
        )
    if is_operator(X):
        return X
    check_place(X, network.readout)
    if not is_rows(X):
        X = X.tocsr() if is_sparse(X) else X
        return check_real(X, name, dtype=network.dtype, finite=finite)
    check_on_disk(X, name, network.dtype)
    if finite:
        rows = host_rows(X)
        for s in row_slices(X.shape[0], X.shape[1] * X.dtype.itemsize, workspace=2**18):
            check_real(input_rows(rows, s), name, finite=True)
    return X


def is_whole(X: Any) -> bool:
    """Whether only whole products X· and Xᵀ· are to be had, or are much cheaper than by rows."""
    return is_sparse(X) or is_operator(X)


def input_rows(X: Any, index: Any) -> Any:
    """Rows of X, an array or sparse; what is on disk is read into host memory."""
    if is_rows(X):
        return RowMatrix(X).rows(index)
    rows = X[index]
    return rows.view(np.ndarray) if isinstance(rows, np.ndarray) else rows  # a memory map's rows


def input_operator(X: Any, symbol: str = "X") -> Operator:
    """X as an operator."""
    return RowMatrix(X, symbol=symbol) if is_rows(X) else as_operator(X, symbol=symbol)


def copied_width(X: Any) -> int:
    """Numbers that a pass holds of X for each row of a block, X not being at hand whole.

    Of what is streamed three blocks: the one in use, the one after and the one before.
    """
    if not is_rows(X):
        return 0
    return int(X.shape[1]) * (3 if isinstance(X, Streamed) else 1)


class RowPass:
    """A pass over row blocks of X; a block is read once for both directions."""

    def __init__(self, X: Any, W: Any, b: Any, accumulate: Any = None) -> None:
        self._X, self._W, self._b = X, W, b
        self.data = X
        self._dtype = accumulate or W.dtype
        self._block: Any = None
        self._total: Any = None

    def rows(self, s: slice, out: Any = None) -> Any:
        """h¹ of some samples, in `out` if that is given; theirs to overwrite."""
        self._block = input_rows(self._X, s)
        return affine(self._block, self._W, self._b, out)

    def collect(self, s: slice, slope: Any) -> None:
        """Take ∂loss/∂h¹ of the samples read last, whose h¹ is not needed any more."""
        part = slope.T @ self._block
        if self._total is None:
            self._total = part.astype(self._dtype, copy=False)
        else:
            self._total += part

    def gradient(self) -> Any:
        """∂loss/∂W¹ of all that was collected."""
        return self._total

    def fork(self) -> RowPass:
        """A pass over other samples at the same time."""
        return RowPass(self._X, self._W, self._b, self._dtype)

    def join(self, other: RowPass) -> None:
        """Take what a fork of this pass collected."""
        self._total += other._total


class HiddenPass:
    """A pass over a stored h¹ (N, n_1), which is given away block by block for the slopes."""

    def __init__(self, hidden: Any) -> None:
        self._hidden = self.data = hidden

    def rows(self, s: slice, out: Any = None) -> Any:
        if out is None:
            return self._hidden[s]
        out[...] = self._hidden[s]
        return out

    def collect(self, s: slice, slope: Any) -> None:
        self._hidden[s] = slope

    def gradient(self) -> Any:
        """The slopes of all samples, (N, n_1)."""
        return self._hidden

    def fork(self) -> HiddenPass:
        """A pass over other samples at the same time: this one, whose rows are apart."""
        return self

    def join(self, other: HiddenPass) -> None:
        """Nothing to take."""


class WholePass(HiddenPass):
    """A pass over an X that is applied whole."""

    def __init__(self, X: Any, W: Any, b: Any) -> None:
        self._operator = input_operator(X)
        super().__init__(affine(self._operator, W, b))

    def gradient(self) -> Any:
        return self._operator.rmatmat(self._hidden).T


def first_pass(X: Any, W: Any, b: Any, accumulate: Any = None) -> RowPass | WholePass:
    """A pass over the inputs, however they can be read."""
    whole = is_whole(X) and X.shape[0]  # none of nothing
    return WholePass(X, W, b) if whole else RowPass(X, W, b, accumulate)


def affine(below: Any, W: Any, b: Any, out: Any = None) -> Any:
    """``below Wᵀ + b``, in `out` if it is given and `below` is an array."""
    h = below @ W.T if is_whole(below) else namespace(W).matmul(below, W.T, out=out)
    if b is not None:
        h += b
    return h
