"""Operators from arrays, sparse matrices and the operators of PyLops and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pylops
import scipy.sparse.linalg as spla

from opflow.machine.arrays import (
    Array,
    Data,
    is_array,
    is_arraylike,
    is_rows,
    is_sparse,
    module_name,
)
from opflow.operators.matrix import Matrix, RowMatrix
from opflow.operators.operator import Operator
from opflow.operators.rules import converted, is_operator


@converted.register(Operator)
def _ours(x: Operator, symbol: str | None) -> Operator:
    return x


@converted.register(pylops.LinearOperator)
@converted.register(spla.LinearOperator)
def _of_another_library(x: object, symbol: str | None) -> Operator:
    return External(x, symbol=symbol)


@converted.register(object)
def _stored(x: Data, symbol: str | None) -> Operator:
    if is_rows(x):
        return RowMatrix(x, symbol=symbol)
    if is_arraylike(x) or is_sparse(x) or isinstance(x, list | tuple):
        return Matrix(x, symbol=symbol)
    raise TypeError(
        f"expected an array, a sparse matrix or a linear operator, not {type(x).__name__}"
    )


class External(Operator):
    """A PyLops or SciPy operator, wrapped so that it composes with opflow operators.

    Its block products are as fast as that library makes them.

    Parameters
    ----------
    op : pylops.LinearOperator or scipy.sparse.linalg.LinearOperator
        Its dtype is the one it declares (complex ones can be composed with, but are not symmetric
        or PSD to us).
    symbol : str, optional
        How :func:`describe` writes it.
    self_adjoint : bool, default False
        Its adjoint is itself, whether it has one of its own or not.

    See Also
    --------
    opflow.as_operator : Makes one, or takes arrays and sparse matrices.
    opflow.Operator : The base class.

    Examples
    --------
    >>> import numpy as np, pylops, opflow as of
    >>> of.External(pylops.Diagonal(np.array([1.0, 2.0]))) @ np.ones(2)
    array([1., 2.])
    """

    def __init__(self, op: Any, *, symbol: str | None = None, self_adjoint: bool = False) -> None:
        dtype = np.dtype(op.dtype if op.dtype is not None else np.float64).newbyteorder("=")
        if dtype not in (np.float32, np.float64, np.complex64, np.complex128):
            raise TypeError(f"{type(op).__name__} has dtype {dtype}; float32 or float64 is needed")
        self.op = op
        self.self_adjoint = self_adjoint
        # SciPy's have none of these
        dims, dimsd, name = (getattr(op, known, None) for known in ("dims", "dimsd", "name"))
        super().__init__(
            (int(op.shape[0]), int(op.shape[1])),
            dtype,
            symbol=symbol or name or type(op).__name__.strip("_"),
            dims=(dims,) if isinstance(dims, int) else dims,  # of some columns, PyLops 2
            dimsd=dimsd,
        )

    @property
    def data(self) -> Array | None:
        """An array of its own on a device, if there is one: the operator is then there."""
        return _device_array(self.op)

    def _matmat(self, X: Array) -> Array:
        return self.op.matmat(X).reshape(self.shape[0], X.shape[1]).astype(X.dtype, copy=False)

    def _rmatmat(self, X: Array) -> Array:
        if self.self_adjoint:
            return self._matmat(X)
        try:
            product = self.op.rmatmat(X)
        except (NotImplementedError, TypeError) as error:
            # what SciPy calls where no adjoint was given
            if isinstance(error, TypeError) and "'NoneType' object is not" not in str(error):
                raise
            raise TypeError(
                f"{self.symbol} of shape {self.shape} has no adjoint: give it rmatvec or rmatmat"
            ) from error
        return product.reshape(self.shape[1], X.shape[1]).astype(X.dtype, copy=False)


def _device_array(op: object, seen: frozenset[int] = frozenset()) -> Array | None:
    """An array on a device among the attributes of an operator of another library."""
    seen |= {id(op)}
    for part in vars(op).values():
        for value in part if isinstance(part, tuple | list) else [part]:
            if is_operator(value):  # an operator of SciPy and its adjoint know each other
                value = None if id(value) in seen else _device_array(value, seen)
            if (is_array(value) or is_sparse(value)) and module_name(value) != "numpy":
                return value
    return None
