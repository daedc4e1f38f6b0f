"""The base class of every operator: block products first, tags, sub-blocks and lazy rules.

A subclass states its shape, dtype and tags in ``__init__`` and implements `_matmat` and
`_rmatmat` on real two-dimensional arrays; everything else (vectors, complex vectors, operator
algebra, dense references, SciPy and PyLops interoperation, cost, description) is here.
"""

from __future__ import annotations

import copy
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
import pylops
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from opflow.machine.arrays import (
    Array,
    as_array,
    in_dtype,
    is_array,
    is_sparse,
    mixed,
    module_name,
    namespace,
    to_device_of,
)
from opflow.machine.cost import Cost
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.threads import cached_property
from opflow.machine.workspace import (
    dense_allowed,
    op_namespace,
    operator_module,
    row_slices,
    selector,
)
from opflow.operators import rules
from opflow.operators.describe import Description, describe

if TYPE_CHECKING:

    class _PyLops:  # has no types, and would make an operator Any
        shape: tuple[int, int]
        dtype: np.dtype[Any]
        T: Operator
        H: Operator

        _any: Any = None
        dot = conj = trace = __truediv__ = _matmat = _rmatmat = _transpose = _any

        def __init__(self, **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
else:
    _PyLops = pylops.LinearOperator


def _as_ours(name: str) -> Any:
    """A method of PyLops that gives an operator, which becomes one of ours."""

    def method(self: Operator, *args: Any, **options: Any) -> Operator:
        return rules.as_operator(getattr(super(Operator, self), name)(*args, **options))

    return method


class Operator(_PyLops):
    r"""A lazy linear operator with native block products.

    Subclasses implement ``_matmat(X)`` and ``_rmatmat(X)``, which always get a real array of
    two dimensions whose dtype is at least the operator's own.

    Parameters
    ----------
    shape : tuple of int
        (rows, columns).
    dtype : dtype
        float32 or float64 (complex only for wrapped operators of other libraries).
    symmetric, psd : bool
        What is *known*: `psd` implies `symmetric`; ``False`` means not known.
    symbol : str, optional
        How :func:`describe` writes this operator.
    dims, dimsd : tuple of int, optional
        Shapes of input and output fields, as in PyLops.

    Notes
    -----
    Operators are immutable after construction and can be shared between threads (the product
    counters inherited from PyLops are then approximate) and pickled.

    Real operators applied to complex vectors act on the real and the imaginary part; integer
    vectors are cast to the operator's dtype.  A float32 operator applied to a float64 vector
    computes in float64.

    A vector gives a vector and a block of shape (n, columns) a block; an array of shape `dims`
    that is neither is a field and gives a field of shape `dimsd`.

    With an opflow operator on the left, or a NumPy, SciPy-sparse or SciPy operator on the other
    side of ``+``, the result is an opflow operator.  Python gives ``pylops_op @ op`` to PyLops,
    which returns a PyLops operator that still uses our block products; wrap the left side with
    :func:`as_operator` to get an opflow operator.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.array([[1.0, 0.0], [1.0, 1.0]])) + 0.5 * of.Identity(2)
    >>> K @ np.array([1.0, 1.0])
    array([2.5, 3.5])
    >>> K.psd, (-K).psd
    (True, False)
    """

    #: rows can be read at the cost of the memory they occupy
    row_access: bool = False
    #: whether rows are read of stored data, so that several threads may ask for them
    rows_stored: bool = True
    #: stored as a sparse matrix
    sparse: bool = False
    #: the dtype is a choice, not a property of stored data (identity, gates)
    dtype_free: bool = False
    #: stored data, if it has any of its own
    data: Any = None
    #: functions that build other forms of this very operator, by name
    _alternatives: Mapping[str, Callable[[], Operator]] = {}
    #: makes ``ndarray @ op`` call our ``__rmatmul__`` instead of looping over objects
    __array_ufunc__ = None

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: Any,
        *,
        symmetric: bool = False,
        psd: bool = False,
        symbol: str | None = None,
        dims: tuple[int, ...] | None = None,
        dimsd: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(dtype=check_dtype(dtype), shape=shape, dims=dims, dimsd=dimsd)
        self.psd = bool(psd)
        self.symmetric = bool(symmetric or psd)
        self._symbol = symbol

    # -- what a subclass says about itself ------------------------------------------------

    @property
    def operands(self) -> tuple[Operator, ...]:
        """The operators this one is made of."""
        return ()

    @cached_property
    def space(self) -> RowDistribution:
        """How the rows of a product are held: here, or a part by every rank."""
        return agreed_space(op.space for op in self.operands)

    @cached_property
    def domain(self) -> RowDistribution:
        """How the rows of the vectors that it multiplies are held."""
        return agreed_space(op.domain for op in self.operands)

    @property
    def symbol(self) -> str:
        """How this operator is written in a formula."""
        return self._symbol or type(self).__name__

    @property
    def _factor_symbol(self) -> str:
        """How it is written as a factor of a product: a sum in brackets."""
        return self.symbol

    def cost(self, columns: int = 1) -> Cost:
        """Flops and bytes of one product with `columns` vectors.

        Returns
        -------
        Cost
            ``(flops, bytes)``; the bytes are those moved between memory and processor if each
            operand is read once.
        """
        return Cost(2.0 * self.shape[0] * self.shape[1] * columns, self._vector_bytes(columns))

    def _vector_bytes(self, columns: int) -> float:
        return float(sum(self.shape)) * columns * self.dtype.itemsize

    def alternatives(self) -> dict[str, Operator]:
        """Other forms of this operator that :func:`materialise` may choose, by name."""
        return {name: build() for name, build in self._alternatives.items()}

    # -- products -------------------------------------------------------------------------

    def _matmat(self, X: Any) -> Any:
        if type(self)._matvec is Operator._matvec:
            raise NotImplementedError(f"{type(self).__name__} has no product: define _matmat")
        return super()._matmat(X)

    def _rmatmat(self, X: Any) -> Any:
        if self.symmetric:
            return self._matmat(X)
        if type(self)._rmatvec is Operator._rmatvec:
            raise NotImplementedError(
                f"{type(self).__name__} has no adjoint: define _rmatmat, or make it symmetric"
            )
        return super()._rmatmat(X)

    def _matvec(self, x: Any) -> Any:
        return self._matmat(x.reshape(-1, 1)).reshape(-1)

    def _rmatvec(self, x: Any) -> Any:
        return self._rmatmat(x.reshape(-1, 1)).reshape(-1)

    def matvec(self, x: Any) -> Array:
        """``self @ x`` for a vector of shape (n,) or (n, 1)."""
        return self._apply(self._matvec, x, self._columns, self._rows, vector=True)

    def rmatvec(self, x: Any) -> Array:
        """``self.H @ x`` for a vector of shape (m,) or (m, 1)."""
        return self._apply(self._rmatvec, x, self._rows, self._columns, vector=True)

    def matmat(self, X: Any) -> Array:
        """``self @ X`` for a block of vectors, shape (n, columns)."""
        return self._apply(self._matmat, X, self._columns, self._rows)

    def rmatmat(self, X: Any) -> Array:
        """``self.H @ X`` for a block of vectors, shape (m, columns)."""
        return self._apply(self._rmatmat, X, self._rows, self._columns)

    @property
    def _rows(self) -> int:
        """Rows of a product that are held here: all of them, unless they are sharded."""
        return self.space.here(self.shape[0])

    @property
    def _columns(self) -> int:
        return self.domain.here(self.shape[1])

    def _apply(self, product: Any, x: Any, size: int, height: int, vector: bool = False) -> Any:
        if type(x) is not np.ndarray or not x.dtype.isnative:
            x = self._operand(x)
        shapes = f"({size},) or ({size}, 1)" if vector else f"({size}, columns)"
        # (n, 1) is a vector too, and a block is nothing else
        fits = (x.ndim == 2 and (x.shape[1] == 1 or not vector)) or (vector and x.ndim == 1)
        if not fits or x.shape[0] != size:
            raise ValueError(
                f"the operand has shape {x.shape} but {type(self).__name__} of shape "
                f"{self.shape} expects {shapes}"
            )
        if operator_module(self) not in (None, module_name(x)):
            raise TypeError(mixed(self, x))
        if x.ndim == 2 and x.shape[1] == 0:  # no column to reshape by
            return namespace(x).empty((height, 0), dtype=self._working(x))
        if x.dtype == self.dtype or x.dtype.kind == self.dtype.kind == "c":
            out = product(x.astype(self._working(x), copy=False))
        elif x.dtype.kind == "c":
            working = self._working(x.real)
            real = product(in_dtype(x.real, "the operand", working))
            out = real + 1j * product(in_dtype(x.imag, "the operand", working))
        else:
            out = product(in_dtype(x, "the operand", self._working(x)))
        return out.reshape(height, *x.shape[1:])

    def _operand(self, x: Any) -> Any:
        """`x` as an array; a sequence where the operator is."""
        if not (hasattr(x, "dtype") or hasattr(x, "__array__")):
            x = op_namespace(self).asarray(x)
        return as_array(x, "the operand")

    def _working(self, x: Any) -> np.dtype[Any]:
        return np.result_type(self.dtype, x.dtype) if x.dtype.char in "efdFD" else self.dtype

    # -- parts ----------------------------------------------------------------------------

    def rows(self, index: Any) -> Any:
        """Dense rows, shape (b, columns); `index` is a slice or an integer array.

        Costs b products with the adjoint unless `row_access` is true.  Rows of stored data are
        views of it, which cannot be written through on the host; :meth:`block` gives copies.
        """
        return self._rmatmat(selector(self, index, self.shape[0])).T.conj()

    def block(self, rows: Any, cols: Any) -> Array:
        """The exact dense sub-block ``A[rows][:, cols]``.

        Parameters
        ----------
        rows, cols : slice, int array or boolean array

        Returns
        -------
        array of shape (len(rows), len(cols))

        Notes
        -----
        Cheap where the structure allows it (matrices, Grams, Hadamard products and what is
        built of them by sums and multiples): flops and bytes of the block alone.  Otherwise it
        costs one product a row.

        Examples
        --------
        >>> import numpy as np, opflow as of
        >>> of.Gram(np.array([[1.0, 2.0], [3.0, 4.0]])).block([1], slice(None))
        array([[11., 25.]])
        """
        named = zip((rows, cols), self.shape, ("rows", "cols"), strict=True)
        indices = tuple(_checked_index(*index) for index in named)
        where = operator_module(self)
        if any(module_name(i) != "numpy" for i in indices if not isinstance(i, slice)):
            if where == "numpy":
                raise TypeError(mixed(self, *(i for i in indices if not isinstance(i, slice))))
            where = "cupy"  # where the entries of an operator without data are wanted
        if where in (None, "numpy"):
            block = self._block(*indices)
        else:
            op = placed(self, where)
            xp = sys.modules[where]
            block = op._block(*(i if isinstance(i, slice) else xp.asarray(i) for i in indices))
        return block if block.flags.owndata else block.copy()  # for the caller to write to

    def __getitem__(self, key: Any) -> Array:
        """Exact entries, as indexing the dense matrix gives them, for the price of :meth:`block`.

        Raises ``MemoryError`` if what has to be formed does not fit in half of the free memory.
        """
        where = operator_module(self)
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) in (1, 2) and all(isinstance(k, slice) for k in keys):
            rows, cols = [*keys, slice(None)][:2]
            size = len(range(self.shape[0])[rows]), len(range(self.shape[1])[cols])
            dense_allowed(size, self.dtype, None, where)
            return self.block(rows, cols)
        # NumPy tells the row and the column of every entry that is asked for
        grid = (np.arange(self.shape[0])[:, None], np.arange(self.shape[1]))
        at = [np.broadcast_to(axis, self.shape)[key] for axis in grid]
        (rows, i), (cols, j) = (np.unique(part, return_inverse=True) for part in at)
        dense_allowed((rows.size, cols.size), self.dtype, None, where)
        block = self.block(rows, cols)
        return block[
            to_device_of(i.reshape(at[0].shape), block), to_device_of(j.reshape(at[1].shape), block)
        ]

    def _block(self, rows: Any, cols: Any) -> Any:
        return self.rows(rows)[:, cols]

    def diagonal(self) -> Array:
        """The exact diagonal of a square operator, shape (n,).

        Costs O(n · width) where the structure gives it, n products where it does not.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"diagonal needs a square operator, this one has shape {self.shape}")
        return self._diagonal()

    def _diagonal(self) -> Any:
        parts = [
            self._block(s, s).diagonal().copy()  # a view would keep the whole block
            for s in row_slices(self.shape[0], 3 * self.shape[1] * self.dtype.itemsize)
        ]
        return namespace(*parts).concatenate(parts)

    def trace(
        self, neval: int | None = None, method: str | None = None, backend: str = "numpy", **kw: Any
    ) -> np.floating[Any]:
        """The exact trace; a named `method` asks PyLops for one of its estimators instead."""
        if method is None and neval is None:
            return self.space.total(self.diagonal().sum())
        return super().trace(neval=neval, method=method, backend=backend, **kw)

    # -- conversions ----------------------------------------------------------------------

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

    def tosparse(self) -> Any:
        """The matrix in compressed rows, within the memory check of :meth:`todense`."""
        return sp.csr_matrix(np.asarray(self))

    def cond(self, *args: Any, **options: Any) -> NoReturn:
        """The condition number is :func:`opflow.spectral.condition_number`."""
        raise NotImplementedError("call opflow.spectral.condition_number(op)")

    def eigs(self, *args: Any, **options: Any) -> NoReturn:
        """Eigenvalues are :func:`opflow.spectral.eigsh`, singular values ``svds``."""
        raise NotImplementedError("call opflow.spectral.eigsh(op, k), or svds(op, k) of any op")

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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
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

    def astype(self, dtype: Any) -> Operator:
        """This operator declared (and computed) in a wider dtype.

        Raises
        ------
        TypeError
            If the promotion is not exact (float64 to float32).
        """
        if self.dtype == np.dtype(dtype):
            return self
        if not self.dtype_free:
            return rules.cast(self, dtype)
        return self._changed(lambda part: part.astype(dtype), dtype=check_dtype(dtype))

    def _changed(
        self, change: Callable[[Operator], Operator] | None = None, **attributes: object
    ) -> Operator:
        """A copy with other attributes, and with `change` applied to the operators it holds."""
        other = copy.copy(self)
        if change is not None:
            for name, part in vars(self).items():
                if isinstance(part, Operator):
                    vars(other)[name] = change(part)
                elif isinstance(part, tuple) and part and isinstance(part[0], Operator):
                    vars(other)[name] = tuple(map(change, part))
        vars(other).update(attributes)
        return other

    def describe(self) -> Description:
        """The expression tree; see :func:`opflow.describe`."""
        return describe(self)

    def __repr__(self) -> str:
        tags = " psd" if self.psd else " symmetric" if self.symmetric else ""
        m, n = self.shape
        return f"<{m}x{n} {type(self).__name__} {self.symbol} {self.dtype}{tags}>"

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()

    # -- algebra --------------------------------------------------------------------------

    def dot(self, x: Any) -> Any:
        """Product with an operator (lazy), a scalar (lazy) or an array."""
        if rules.is_operator(x) or is_sparse(x):
            return rules.compose(self, rules.as_operator(x))
        if _is_scalar(x):
            return rules.scale(x, self)
        x = self._operand(x)
        # A vector gives a vector and a block a block, whatever `dims` and `dimsd` are; only what
        # can be neither is a field.
        fields = (x.shape, x.shape[:-1]) if x.ndim > 2 else (x.shape,)
        if self.dims in fields and x.ndim > 1 and (x.ndim > 2 or x.shape[0] != self.shape[1]):
            return super().dot(x)
        return self.matvec(x) if x.ndim == 1 else self.matmat(x)

    @overload
    def __matmul__(self, other: Operator) -> Operator: ...

    @overload
    def __matmul__(self, other: Any) -> Array: ...

    def __matmul__(self, other: Any) -> Any:
        if _is_scalar(other):
            raise ValueError("a scalar is not allowed with @, use * instead")
        return self.dot(other)

    def __mul__(self, other: Any) -> Any:
        return self.dot(other)

    def __rmul__(self, other: Any) -> Operator:
        return self.dot(other) if _is_scalar(other) else self.__rmatmul__(other)

    def __rmatmul__(self, other: Any) -> Any:
        if rules.is_operator(other) or is_sparse(other):
            return rules.compose(rules.as_operator(other), self)
        if hasattr(other, "__array__") or is_array(other):
            other = as_array(other, "the operand")
            return self.T.dot(other.T).T if other.ndim in (1, 2) else NotImplemented
        return NotImplemented

    def __add__(self, other: Any) -> Operator:
        if _is_scalar(other) and other == 0:  # what sum() starts from
            return self
        term = rules.as_term(other)
        return NotImplemented if term is None else rules.add(self, term)

    def __radd__(self, other: Any) -> Operator:
        return self.__add__(other)

    def __neg__(self) -> Operator:
        return self.dot(-1.0)

    def __sub__(self, other: Any) -> Operator:
        # -1 times an operator of SciPy is float64, whatever that is
        term = rules.as_term(other)
        return self.__add__(other if term is None else rules.scale(-1, term))

    def __rsub__(self, other: Any) -> Operator:
        return (-self).__add__(other)

    def __truediv__(self, other: Any, *args: Any, **options: Any) -> Any:
        """``self / scalar``, or the least-squares solution of ``self x = other`` of PyLops."""
        if _is_scalar(other):
            return self.dot(1.0 / other)
        return super().__truediv__(self._operand(other), *args, **options)

    def __pow__(self, power: int) -> Operator:
        if not isinstance(power, numbers.Integral) or power < 0:
            raise ValueError(f"power must be a non-negative integer, not {power!r}")
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"power needs a square operator, this one has shape {self.shape}")
        if power == 0:
            return rules.identity(self)
        return rules.compose(*[self] * int(power))

    def conj(self) -> Operator:
        """The complex conjugate: a real operator itself."""
        return self if self.dtype.kind != "c" else rules.as_operator(super().conj())

    apply_columns, toimag, toreal = map(_as_ours, ("apply_columns", "toimag", "toreal"))

    def _adjoint(self) -> Operator:
        return rules.adjoint(self)

    def _transpose(self) -> Operator:
        real = self.dtype.kind != "c"
        return self._adjoint() if real else rules.as_operator(super()._transpose())


def placed(op: Operator, where: str) -> Operator:
    """`op`; if it has no data, a copy that makes its entries in that array module."""
    if operator_module(op) is not None:
        return op
    return op._changed(lambda part: placed(part, where), _where=where)


def bracketed(op: Operator) -> str:
    """The symbol of `op` where it has to be one thing."""
    return f"({op.symbol})" if " " in op.symbol else op.symbol


def agreed_space(spaces: Iterable[RowDistribution]) -> RowDistribution:
    """The one of the spaces that is sharded, if one is."""
    return next((space for space in spaces if space.sharded), LOCAL)


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """`dtype` as NumPy's, if products can be computed in it; else ``TypeError``."""
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype not in (np.float32, np.float64, np.complex64, np.complex128):
        raise TypeError(f"dtype must be float32 or float64, not {dtype}")
    return dtype


def _is_scalar(x: Any) -> bool:
    return isinstance(x, numbers.Number | np.generic) or (is_array(x) and x.ndim == 0)


def _checked_index(index: Any, size: int, name: str) -> Any:
    """A slice with step, or an integer array, inside ``range(size)``."""
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        # A backward slice that reaches row 0 stops at -1, which would mean the last row.
        return slice(start, stop if stop >= 0 else None, step if step != 1 else None)
    index = as_array(index, name)
    if index.ndim != 1:
        raise ValueError(f"{name} must be a slice or one-dimensional, not of shape {index.shape}")
    if index.dtype == np.bool_:
        if index.shape != (size,):
            raise ValueError(f"{name} has {index.shape[0]} booleans for {size} {name}")
        index = index.nonzero()[0]
    if index.size == 0:
        return slice(0, 0)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, not {index.dtype}")
    if int(index.min()) < -size or int(index.max()) >= size:
        raise IndexError(f"{name} runs from {index.min()} to {index.max()}, outside 0..{size - 1}")
    return index % size
