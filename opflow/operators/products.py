"""Products of operators with vectors and blocks of them: one place checks what a caller gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.machine.arrays import (
    Array,
    Data,
    as_array,
    in_dtype,
    is_arraylike,
    mixed,
    module_name,
    namespace,
)
from opflow.machine.workspace import op_namespace, operator_module
from opflow.operators.interop import Interop


class Products(Interop):
    """The public products, made of `_matmat` and `_rmatmat`."""

    def _matmat(self, X: Array) -> Array:
        if type(self)._matvec is Products._matvec:
            raise NotImplementedError(f"{type(self).__name__} has no product: define _matmat")
        return namespace(X).stack([self._matvec(x) for x in X.T], axis=-1)

    def _rmatmat(self, X: Array) -> Array:
        if self.symmetric:
            return self._matmat(X)
        if type(self)._rmatvec is Products._rmatvec:
            raise NotImplementedError(
                f"{type(self).__name__} has no adjoint: define _rmatmat, or make it symmetric"
            )
        return namespace(X).stack([self._rmatvec(x) for x in X.T], axis=-1)

    def _matvec(self, x: Array) -> Array:
        return self._matmat(x.reshape(-1, 1)).reshape(-1)

    def _rmatvec(self, x: Array) -> Array:
        return self._rmatmat(x.reshape(-1, 1)).reshape(-1)

    def matvec(self, x: Data) -> Array:
        """``self @ x`` for a vector of shape (n,) or (n, 1)."""
        return self._apply(self._matmat, x, self._columns, self._rows, vector=True)

    def rmatvec(self, x: Data) -> Array:
        """``self.H @ x`` for a vector of shape (m,) or (m, 1)."""
        return self._apply(self._rmatmat, x, self._rows, self._columns, vector=True)

    def matmat(self, X: Data) -> Array:
        """``self @ X`` for a block of vectors, shape (n, columns)."""
        return self._apply(self._matmat, X, self._columns, self._rows)

    def rmatmat(self, X: Data) -> Array:
        """``self.H @ X`` for a block of vectors, shape (m, columns)."""
        return self._apply(self._rmatmat, X, self._rows, self._columns)

    @property
    def _rows(self) -> int:
        """Rows of a product that are held here: all of them, unless they are sharded."""
        return self.space.here(self.shape[0])

    @property
    def _columns(self) -> int:
        return self.domain.here(self.shape[1])

    def _apply(
        self, product: Callable[[Any], Any], x: Data, size: int, height: int, vector: bool = False
    ) -> Array:
        """`product` of what a caller gave: all checks are here, and operands need no other.

        Operators that are made of others call `_matmat` and `_rmatmat` of these directly.
        """
        if type(x) is not np.ndarray or not x.dtype.isnative:
            x = self._operand(x)
        columns = x.shape[1:]
        # (n, 1) is a vector too, and a block is nothing else
        fits = columns in ((), (1,)) if vector else len(columns) == 1
        if not fits or x.shape[:1] != (size,):
            shapes = f"({size},) or ({size}, 1)" if vector else f"({size}, columns)"
            raise ValueError(
                f"the operand has shape {x.shape} but {type(self).__name__} of shape "
                f"{self.shape} expects {shapes}"
            )
        if operator_module(self) not in (None, module_name(x)):
            raise TypeError(mixed(self, x))
        working = self.dtype
        if x.dtype != working:
            if x.dtype.kind == "c" != working.kind:
                parts = (self._apply(product, x, size, height, vector) for x in (x.real, x.imag))
                return next(parts) + 1j * next(parts)
            if x.dtype.char in "efdFD":  # of a wider `x`, in its dtype
                working = np.result_type(working, x.dtype)
            x = x.astype(working) if x.dtype.kind == "c" else in_dtype(x, "the operand", working)
        if columns == (0,):  # no column to reshape by
            return namespace(x).empty((height, 0), dtype=working)
        return product(x.reshape(size, 1) if columns == () else x).reshape(height, *columns)

    def _operand(self, x: Data) -> Array:
        """`x` as an array; a sequence where the operator is."""
        if not (hasattr(x, "dtype") or is_arraylike(x)):
            x = op_namespace(self).asarray(x)
        return as_array(x, "the operand")
