"""Operators as other libraries take them: dense and sparse matrices, SciPy, NumPy and PyLops."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pylops
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, namespace
from opflow.machine.workspace import dense_allowed, operator_module, row_slices

if TYPE_CHECKING:
    from opflow.operators.operator import Operator

    class _PyLops:  # has no types, and would make an operator Any
        shape: tuple[int, int]
        dtype: np.dtype[Any]
        T: Operator
        H: Operator

        _any: Any = None
        dot = conj = trace = __truediv__ = _transpose = _any

        def __init__(self, **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
else:
    _PyLops = pylops.LinearOperator


class Interop(_PyLops):
    """The conversions of an operator, and what keeps other libraries from forming it unasked."""

    #: makes ``ndarray @ op`` call our ``__rmatmul__`` instead of looping over objects
    __array_ufunc__ = None

    def todense(self, backend: str | None = None, memory: float | str | None = None) -> Array:
        """The dense matrix, formed in blocks.

        Parameters
        ----------
        backend : str, optional
            Accepted for PyLops's sake; the array module follows the operator's data.
        memory : float or str, optional
            Bytes the matrix may take (``"2GB"``); half of what is free by default.

        Raises
        ------
        MemoryError
            Before anything is allocated, if the matrix does not fit.
        """
        m, n = self.shape
        dense_allowed(self.shape, self.dtype, memory, operator_module(self))
        out: Any = None
        for s in row_slices(m, 3 * n * self.dtype.itemsize):
            part = self._block(s, slice(0, n))
            if out is None:
                out = namespace(part).empty((m, n), dtype=self.dtype)
            out[s] = part
        return out

    def tosparse(self) -> sp.csr_matrix:
        """The matrix in compressed rows, within the memory check of :meth:`todense`."""
        return sp.csr_matrix(np.asarray(self))

    def to_scipy(self) -> spla.LinearOperator:
        """A SciPy ``LinearOperator`` with block products (host data only)."""
        return spla.LinearOperator(
            self.shape,
            matvec=self.matvec,
            rmatvec=self.rmatvec,
            matmat=self.matmat,
            rmatmat=self.rmatmat,
            dtype=self.dtype,
        )

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        frame = sys._getframe(1)
        caller = frame.f_globals.get("__name__", "")
        # SciPy 1.18 converts by a module of its own
        while frame.f_back is not None and caller.startswith(("scipy._external.", "scipy._lib.")):
            frame = frame.f_back
            caller = frame.f_globals.get("__name__", "")
        if caller == "scipy.sparse.linalg._interface":  # ``scipy_op @ op``
            raise TypeError(
                "SciPy would form the operator: write opflow.as_operator(scipy_op) @ "
                "op, which stays lazy, or scipy_op @ op.todense()"
            )
        # ``sparse @ op``: SciPy asks for an array, and leaves the product to us if it is an object
        if caller.startswith("scipy.sparse._"):
            unknown = np.empty((), dtype=object)
            unknown[()] = self
            return unknown
        return np.asarray(self.todense(), dtype=dtype)

    def cond(self, *args: object, **options: object) -> NoReturn:
        """The condition number is :func:`opflow.spectral.condition_number`."""
        raise NotImplementedError("call opflow.spectral.condition_number(op)")

    def eigs(self, *args: object, **options: object) -> NoReturn:
        """Eigenvalues are :func:`opflow.spectral.eigsh`, singular values ``svds``."""
        raise NotImplementedError("call opflow.spectral.eigsh(op, k), or svds(op, k) of any op")
