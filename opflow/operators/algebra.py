"""Sums, products, multiples, adjoints and casts of operators, simplified as they are built.

The functions (:func:`add`, :func:`compose`, :func:`scale`, :func:`adjoint`) apply the rules:
sums and products are flat, identities are dropped, scalars move out of products, a double
adjoint is undone, zeros vanish from sums and annihilate products, and the adjoint of a symmetric
operator is itself.  The classes only store and apply.

Tags follow from mathematics, never from names: a sum of PSD operators is PSD, a multiple is PSD
for a scalar >= 0, and a product is PSD when it reads ``Jᵀ B J`` with one and the same J.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pylops
import scipy.sparse.linalg as spla

from opflow.machine.arrays import is_array, is_rows, is_sparse, mixed, module_name, namespace
from opflow.machine.ranks import RowDistribution
from opflow.machine.workspace import op_namespace, operator_module
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    cross_block,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost, Operator, agreed_space, check_dtype
from opflow.operators.prices import (
    Work,
    block_work,
    entrywise_block,
    gram_of_parts,
    gram_work,
    stored_block,
)


def is_operator(x: Any) -> bool:
    """Whether `x` is a linear operator of opflow, PyLops or SciPy."""
    return isinstance(x, pylops.LinearOperator | spla.LinearOperator)


def as_operator(x: Any, *, symbol: str | None = None) -> Operator:
    """An opflow operator from an array, a sparse matrix or any PyLops or SciPy operator.

    Parameters
    ----------
    x : operator, array of shape (m, n), or sparse matrix
        Arrays of float32 or float64 are referenced, other numbers converted.
    symbol : str, optional
        How :func:`describe` writes it.

    Examples
    --------
    >>> import numpy as np, pylops, opflow as of
    >>> D = of.as_operator(pylops.FirstDerivative(4, dtype="float64"))
    >>> (D.T @ of.Identity(4) @ D).psd
    True
    """
    from opflow.operators.matrix import Matrix, RowMatrix

    if isinstance(x, Operator):
        return x
    if isinstance(getattr(x, "operator", None), Operator):  # one for PyLops-MPI, made of ours
        return x.operator
    if is_operator(x):
        return External(x, symbol=symbol)
    if is_rows(x):
        return RowMatrix(x, symbol=symbol)
    if is_array(x) or is_sparse(x) or isinstance(x, list | tuple) or hasattr(x, "__array__"):
        return Matrix(x, symbol=symbol)
    raise TypeError(
        f"expected an array, a sparse matrix or a linear operator, not {type(x).__name__}"
    )


def as_term(x: Any) -> Operator | None:
    """`x` as an operator to be added to another; None if that has no meaning."""
    foreign = hasattr(x, "__array__") and not isinstance(x, np.ndarray | np.generic)
    array = foreign or (is_array(x) and x.ndim > 0)
    return as_operator(x) if is_operator(x) or is_sparse(x) or array else None


def unify(operators: Sequence[Operator]) -> list[Operator]:
    """The operators in one dtype: those without stored data take the dtype of the others."""
    dtypes = {op.dtype for op in operators if not op.dtype_free}
    real = {d for d in dtypes if d.kind != "c"}
    if len(real) > 1:
        raise TypeError(
            f"operands have dtypes {', '.join(sorted(map(str, dtypes)))}; ask for the promotion "
            "with .astype(), or build them from data of one dtype"
        )
    if not dtypes:
        dtypes = {np.result_type(*(op.dtype for op in operators))}
    target = np.result_type(*dtypes)
    return [op.astype(target) if op.dtype_free else op for op in _placed(operators)]


def _placed(operators: Sequence[Operator]) -> Sequence[Operator]:
    """The operators on one side; those without data go where the others are."""
    places = {where for op in operators if (where := operator_module(op)) is not None}
    if len(places) > 1:
        raise TypeError(mixed(*(op for op in operators if operator_module(op) is not None)))
    if places <= {"numpy"}:  # where those without data are anyway
        return operators
    return [placed(op, *places) for op in operators]


def placed(op: Operator, where: str) -> Operator:
    """`op`; if it has no data, one that makes its entries in that array module."""
    if operator_module(op) is not None:
        return op
    parts: dict[str, Any] = {}
    for name, part in vars(op).items():
        if isinstance(part, Operator):
            parts[name] = placed(part, where)
        elif isinstance(part, tuple | list) and any(isinstance(x, Operator) for x in part):
            parts[name] = type(part)(placed(x, where) for x in part)
    other = copy.copy(op)
    other.__dict__ = vars(op) | parts | {"_where": where}
    return other


def spread(op: Operator, space: RowDistribution) -> Operator:
    """`op`, if its rows are held as `space` says; an identity can be held so."""
    if op.space.sharded or not space.sharded:
        return op
    if isinstance(op, Scaled):
        return Scaled(op.scalar, spread(op.operands[0], space))
    if not isinstance(op, Identity):
        raise ValueError(
            f"cannot add {type(op).__name__} of shape {op.shape}, which is here as a whole, to an "
            "operator whose rows are sharded"
        )
    other = copy.copy(op)
    other.space = other.domain = space
    return other


# -- rules ------------------------------------------------------------------------------------


def add(*terms: Operator) -> Operator:
    """The lazy sum of operators of one shape."""
    flat = [t for term in terms for t in (term.operands if isinstance(term, Sum) else (term,))]
    if len({t.shape for t in flat}) == 1:  # Sum says what is wrong with other shapes
        flat = [t for t in flat if not isinstance(t, Zero)] or flat[:1]
    return flat[0] if len(flat) == 1 else Sum(flat)


def compose(*factors: Operator) -> Operator:
    """The lazy product of operators, left to right as written."""
    for left, right in itertools.pairwise(factors):
        if left.shape[1] != right.shape[0]:
            raise ValueError(
                f"cannot multiply {type(left).__name__} of shape {left.shape} by "
                f"{type(right).__name__} of shape {right.shape}"
            )
    scalar = 1.0
    flat: list[Operator] = []
    for factor in factors:
        if isinstance(factor, Scaled):
            scalar, factor = scalar * factor.scalar, factor.operands[0]
        flat.extend(factor.operands if isinstance(factor, Product) else [factor])
    if any(isinstance(f, Zero) for f in flat):
        return Zero(flat[0].shape[0], flat[-1].shape[1], unify(flat)[0].dtype)
    data = [f for f in flat if not isinstance(f, Identity)]
    # An identity still has a say in the dtype when nothing else has.
    flat = [f for f in unify(data)] if data else flat[:1]
    return scale(scalar, flat[0] if len(flat) == 1 else Product(flat))


def scale(scalar: Any, op: Operator) -> Operator:
    """The lazy multiple of an operator by a real number."""
    if isinstance(scalar, complex | np.complexfloating):
        raise TypeError("an operator is scaled by a real number, not by a complex one")
    scalar = float(scalar)
    if isinstance(op, Scaled):
        scalar, op = scalar * op.scalar, op.operands[0]
    return op if scalar == 1.0 or isinstance(op, Zero) else Scaled(scalar, op)


def adjoint(op: Operator) -> Operator:
    """The lazy adjoint."""
    if op.symmetric:
        return op
    if isinstance(op, Adjoint):
        return op.operands[0]
    if isinstance(op, Zero):
        return Zero(op.shape[1], op.shape[0], op.dtype)
    if isinstance(op, Sum):
        return add(*(adjoint(t) for t in op.operands))
    if isinstance(op, Product):
        return compose(*(adjoint(f) for f in reversed(op.operands)))
    if isinstance(op, Scaled):
        return scale(op.scalar, adjoint(op.operands[0]))
    return Adjoint(op)


def are_adjoint(a: Operator, b: Operator) -> bool:
    """Whether `a` is known to be the adjoint of `b` (one and the same object, transposed)."""
    return (
        (isinstance(a, Adjoint) and _same(a.operands[0], b))
        or (isinstance(b, Adjoint) and _same(b.operands[0], a))
        or (_same(a, b) and a.symmetric)
    )


def _same(a: Operator, b: Operator) -> bool:
    """Whether `a` is `b`, or the same stored gates after both adopted a dtype."""
    shared = getattr(a, "data", None) if a.dtype_free and type(a) is type(b) else None
    return a is b or (shared is not None and shared is b.data)


def _product_tags(factors: Sequence[Operator]) -> dict[str, bool]:
    """Tags of Fₙᵀ … F₁ᵀ M F₁ … Fₙ: those of the middle, if the factors pair up."""
    half = len(factors) // 2
    pairs = zip(factors[:half], reversed(factors), strict=False)
    if not all(are_adjoint(a, b) for a, b in pairs):
        return {}
    if len(factors) % 2 == 0:
        return {"psd": True}
    return {"psd": factors[half].psd, "symmetric": factors[half].symmetric}


# -- classes ----------------------------------------------------------------------------------


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

    def astype(self, dtype: Any) -> Operator:
        return self if self.dtype == np.dtype(dtype) else _retyped(self, dtype)

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

    def astype(self, dtype: Any) -> Operator:
        return self if self.dtype == np.dtype(dtype) else _retyped(self, dtype)

    def cost(self, columns: int = 1) -> Cost:
        return Cost(0.0, self._vector_bytes(columns))


def _retyped(op: Operator, dtype: Any) -> Operator:
    """The same operator without data in another dtype, and in its place."""
    other = copy.copy(op)
    other.dtype = check_dtype(dtype)
    return other


class _Composite(Operator):
    """An operator made of others."""

    def __init__(self, operands: Sequence[Operator], shape: Any, dtype: Any, **tags: Any) -> None:
        self._operands = tuple(operands)
        super().__init__(shape, dtype, **tags)

    @property
    def operands(self) -> tuple[Operator, ...]:
        return self._operands

    def cost(self, columns: int = 1) -> Cost:
        return sum((op.cost(columns) for op in self.operands), Cost(0.0, 0.0))

    def _with(self, operands: Sequence[Operator]) -> Operator:
        raise NotImplementedError

    def astype(self, dtype: Any) -> Operator:
        if self.dtype_free and self.dtype != np.dtype(dtype):
            return self._with([op.astype(dtype) for op in self.operands])
        return super().astype(dtype)


class Sum(_Composite):
    """``A₁ + A₂ + …``; PSD or symmetric if every term is.  Built by :func:`add`."""

    def __init__(self, terms: Sequence[Operator]) -> None:
        shapes = {t.shape for t in terms}
        if len(shapes) > 1:
            raise ValueError(f"cannot add operators of shapes {sorted(shapes)}")
        space = agreed_space(t.space for t in terms)
        terms = unify([spread(t, space) for t in terms])
        super().__init__(
            terms,
            terms[0].shape,
            np.result_type(*(t.dtype for t in terms)),
            psd=all(t.psd for t in terms),
            symmetric=all(t.symmetric for t in terms),
            dims=_agreed([t.dims for t in terms]),
            dimsd=_agreed([t.dimsd for t in terms]),
        )

    @property
    def symbol(self) -> str:
        return " + ".join(t.symbol for t in self.operands)

    @property
    def _factor_symbol(self) -> str:
        return f"({self.symbol})"

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return all(t.row_access for t in self.operands)

    def _total(self, part: Callable[[Operator], Any]) -> Any:
        first, *others = self.operands
        out = part(first)
        for term in others:
            # In place where possible: the first part is ours, whatever it was made by.
            other = part(term)
            out = out + other if other.dtype != out.dtype else _iadd(out, other)
        return out

    def _matmat(self, X: Any) -> Any:
        return self._total(lambda t: t.matmat(X))

    def _rmatmat(self, X: Any) -> Any:
        return self._total(lambda t: t.rmatmat(X))

    def rows(self, index: Any) -> Any:
        return self._total(lambda t: t.rows(index))

    def _block(self, rows: Any, cols: Any) -> Any:
        return self._total(lambda t: t._block(rows, cols))

    def _diagonal(self) -> Any:
        return self._total(lambda t: t._diagonal())


def _iadd(out: Any, other: Any) -> Any:
    if not getattr(out.flags, "writeable", True) or out.base is not None:
        return out + other  # a view may belong to an operator's data
    out += other
    return out


def _agreed(dims: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The one field shape that is not flat, if the operands agree on it."""
    shaped = {d for d in dims if len(d) > 1}
    return shaped.pop() if len(shaped) == 1 else None


class Product(_Composite):
    """``A₁ A₂ …``, applied right to left.  Built by :func:`compose`."""

    def __init__(self, factors: Sequence[Operator]) -> None:
        super().__init__(
            factors,
            (factors[0].shape[0], factors[-1].shape[1]),
            np.result_type(*(f.dtype for f in factors)),
            dims=factors[-1].dims,
            dimsd=factors[0].dimsd,
            **_product_tags(factors),
        )

    @property
    def space(self) -> RowDistribution:
        return self.operands[0].space

    @property
    def domain(self) -> RowDistribution:
        return self.operands[-1].domain

    @property
    def symbol(self) -> str:
        return " ".join(f._factor_symbol for f in self.operands)

    def _matmat(self, X: Any) -> Any:
        for factor in reversed(self.operands):
            X = factor.matmat(X)
        return X

    def _rmatmat(self, X: Any) -> Any:
        for factor in self.operands:
            X = factor.rmatmat(X)
        return X

    def rows(self, index: Any) -> Any:
        first, *others = self.operands
        left = first.rows(index).T.conj()
        for factor in others:
            left = factor.rmatmat(left)
        return left.T.conj()

    def _diagonal(self) -> Any:
        return gram_diagonal(self.operands[0]) if self.is_gram else super()._diagonal()

    @property
    def is_gram(self) -> bool:
        """Whether this is ``A Aᵀ`` or ``Aᵀ A``, whose diagonal is that of squares."""
        if self.dtype.kind == "c" or len(self.operands) != 2:
            return False
        first = self.operands[0]
        if first.space.sharded and first.domain.sharded:  # its rows are on no rank whole
            return False
        return are_adjoint(*self.operands)


class Scaled(_Composite):
    """``c A``; PSD if A is and c >= 0.  Built by :func:`scale`."""

    def __init__(self, scalar: float, op: Operator) -> None:
        if not math.isfinite(scalar):
            raise ValueError(f"an operator cannot be scaled by {scalar}")
        self.scalar = scalar
        super().__init__(
            [op],
            op.shape,
            op.dtype,
            psd=op.psd and scalar >= 0,
            symmetric=op.symmetric,
            dims=op.dims,
            dimsd=op.dimsd,
        )

    @property
    def symbol(self) -> str:
        (op,) = self.operands
        inner = op._factor_symbol
        return f"-{inner}" if self.scalar == -1 else f"{self.scalar:.4g} {inner}"

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return self.operands[0].row_access

    @property
    def dtype_free(self) -> bool:  # type: ignore[override]
        return self.operands[0].dtype_free

    def _with(self, operands: Sequence[Operator]) -> Operator:
        return Scaled(self.scalar, operands[0])

    def _matmat(self, X: Any) -> Any:
        return self.scalar * self.operands[0].matmat(X)

    def _rmatmat(self, X: Any) -> Any:
        return self.scalar * self.operands[0].rmatmat(X)

    def rows(self, index: Any) -> Any:
        return self.scalar * self.operands[0].rows(index)

    def _block(self, rows: Any, cols: Any) -> Any:
        return self.scalar * self.operands[0]._block(rows, cols)

    def _diagonal(self) -> Any:
        return self.scalar * self.operands[0]._diagonal()


class Adjoint(_Composite):
    """The adjoint of an operator that has no rule of its own.  Built by :func:`adjoint`."""

    def __init__(self, op: Operator) -> None:
        super().__init__([op], (op.shape[1], op.shape[0]), op.dtype, dims=op.dimsd, dimsd=op.dims)
        self.space, self.domain = op.domain, op.space

    @property
    def symbol(self) -> str:
        return f"{self.operands[0].symbol}ᵀ"

    @property
    def dtype_free(self) -> bool:  # type: ignore[override]
        return self.operands[0].dtype_free

    def _with(self, operands: Sequence[Operator]) -> Operator:
        return Adjoint(operands[0])

    def _matmat(self, X: Any) -> Any:
        return self.operands[0].rmatmat(X)

    def _rmatmat(self, X: Any) -> Any:
        return self.operands[0].matmat(X)

    def _block(self, rows: Any, cols: Any) -> Any:
        (op,) = self.operands
        return op._block(cols, rows).T.conj()

    def rows(self, index: Any) -> Any:
        (op,) = self.operands
        return self._block(index, slice(0, op.shape[0])) if op.row_access else super().rows(index)

    def _diagonal(self) -> Any:
        return self.operands[0]._diagonal().conj()


class Cast(_Composite):
    """An operator computed in a wider dtype, because that was asked for."""

    def __init__(self, op: Operator, dtype: Any) -> None:
        if not np.can_cast(op.dtype, dtype, "safe"):
            raise TypeError(f"{op.dtype} to {np.dtype(dtype)} is not an exact promotion")
        super().__init__(
            [op], op.shape, dtype, psd=op.psd, symmetric=op.symmetric, dims=op.dims, dimsd=op.dimsd
        )

    @property
    def symbol(self) -> str:
        return self.operands[0].symbol

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return self.operands[0].row_access

    def _matmat(self, X: Any) -> Any:
        return self.operands[0].matmat(X)

    def _rmatmat(self, X: Any) -> Any:
        return self.operands[0].rmatmat(X)

    def rows(self, index: Any) -> Any:
        if self.operands[0].row_access:
            return self.operands[0].rows(index).astype(self.dtype)
        return super().rows(index)


class HStack(_Composite):
    """Operators side by side, ``[A₁ A₂ …]``: the Jacobian of several layers.

    Parameters
    ----------
    operators : sequence of Operator
        With one number of rows.
    """

    def __init__(self, operators: Sequence[Operator], *, symbol: str | None = None) -> None:
        heights = {op.shape[0] for op in operators}
        if len(heights) != 1:
            raise ValueError(f"operators side by side need one height, not {sorted(heights)}")
        operators = unify(operators)
        self.edges = np.cumsum([0, *(op.shape[1] for op in operators)]).tolist()
        super().__init__(
            operators,
            (heights.pop(), self.edges[-1]),
            np.result_type(*(op.dtype for op in operators)),
            symbol=symbol,
        )

    @property
    def symbol(self) -> str:
        return self._symbol or f"[{' '.join(op.symbol for op in self.operands)}]"

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return all(op.row_access for op in self.operands)

    def _spans(self) -> list[tuple[Operator, slice]]:
        return [
            (op, slice(a, b))
            for op, a, b in zip(self.operands, self.edges[:-1], self.edges[1:], strict=True)
        ]

    def _matmat(self, X: Any) -> Any:
        (op, span), *others = self._spans()
        out = op.matmat(X[span])
        for op, span in others:
            out = out + op.matmat(X[span])
        return out

    def _rmatmat(self, X: Any) -> Any:
        return namespace(X).concatenate([op.rmatmat(X) for op in self.operands])

    def rows(self, index: Any) -> Any:
        parts = [op.rows(index) for op in self.operands]
        return namespace(*parts).concatenate(parts, axis=1)


class External(Operator):
    """An operator of PyLops or SciPy inside our algebra.

    Its block products are as fast as that library makes them; its dtype is the one it declares
    (complex ones can be composed with, but are not symmetric or PSD to us).  With `self_adjoint`,
    its adjoint is itself, whether it has one of its own or not.
    """

    def __init__(self, op: Any, *, symbol: str | None = None, self_adjoint: bool = False) -> None:
        dtype = np.dtype(op.dtype if op.dtype is not None else np.float64).newbyteorder("=")
        if dtype not in (np.float32, np.float64, np.complex64, np.complex128):
            raise TypeError(f"{type(op).__name__} has dtype {dtype}; float32 or float64 is needed")
        self.op, self.self_adjoint = op, self_adjoint
        dims = getattr(op, "dims", None)
        super().__init__(
            (int(op.shape[0]), int(op.shape[1])),
            dtype,
            symbol=symbol or getattr(op, "name", None) or type(op).__name__.strip("_"),
            dims=(dims,) if isinstance(dims, int) else dims,  # of some columns, PyLops 2
            dimsd=getattr(op, "dimsd", None),
        )

    @property
    def data(self) -> Any:
        """An array of its own on a device, if there is one: the operator is then there."""
        return _device_array(self.op)

    def _matmat(self, X: Any) -> Any:
        return self._block_product(self.op.matmat, X, self.shape[0])

    def _rmatmat(self, X: Any) -> Any:
        if self.self_adjoint:
            return self._matmat(X)
        try:
            return self._block_product(self.op.rmatmat, X, self.shape[1])
        except (NotImplementedError, TypeError) as error:
            # what SciPy calls where no adjoint was given
            if isinstance(error, TypeError) and "'NoneType' object is not" not in str(error):
                raise
            raise TypeError(
                f"{self.symbol} of shape {self.shape} has no adjoint: give it rmatvec or rmatmat"
            ) from error

    def _block_product(self, product: Callable[[Any], Any], X: Any, height: int) -> Any:
        dtype, shape = self._working(X), (height, X.shape[1])
        if X.shape[1] == 0:  # PyLops stacks columns and cannot stack none
            return namespace(X).empty(shape, dtype=dtype)
        return product(X).reshape(shape).astype(dtype, copy=False)


def _device_array(op: Any) -> Any:
    """An array on a device among the attributes of an operator of another library."""
    for part in getattr(op, "__dict__", {}).values():
        for value in part if isinstance(part, tuple | list) else [part]:
            found = value if is_array(value) or is_sparse(value) else None
            if is_operator(value):
                found = _device_array(value)
            if found is not None and module_name(found) != "numpy":
                return found
    return None


# -- entries and their prices ---------------------------------------------------------------------

for _kind in (Sum, Scaled, Adjoint, Cast, HStack):
    entries_are_cheap.register(_kind, cheap_in_operands)
for _kind in (Sum, Scaled):
    block_work.register(_kind, entrywise_block)
for _kind in (Sum, Scaled, HStack):
    gram_work.register(_kind, gram_of_parts)
block_work.register(Identity, stored_block)


@block_work.register
def _adjoint_work(op: Adjoint, rows: int, cols: int) -> Work:
    return block_work(op.operands[0], cols, rows)


@gram_diagonal.register
def _adjoint_gram_diagonal(F: Adjoint, weights: Any = None) -> Any:
    if weights is not None:
        return gram_diagonal.dispatch(Operator)(F, weights)
    return column_squares(F.operands[0])


@column_squares.register
def _adjoint_column_squares(F: Adjoint) -> Any:
    return gram_diagonal(F.operands[0])


def _moderate(op: Scaled) -> bool:
    """Whether squares of the unscaled entries stay in range if those of the scaled ones do."""
    return 2.0**-40 < abs(op.scalar) < 2.0**40


@gram_block.register
def _scaled_gram_block(F: Scaled, rows: Any, cols: Any, weights: Any = None) -> Any:
    if not _moderate(F):
        return gram_block.dispatch(Operator)(F, rows, cols, weights)
    return F.scalar**2 * gram_block(F.operands[0], rows, cols, weights)


@gram_diagonal.register
def _scaled_gram_diagonal(F: Scaled, weights: Any = None) -> Any:
    if not _moderate(F):
        return gram_diagonal.dispatch(Operator)(F, weights)
    return F.scalar**2 * gram_diagonal(F.operands[0], weights)


@column_squares.register
def _scaled_column_squares(F: Scaled) -> Any:
    if not _moderate(F):
        return column_squares.dispatch(Operator)(F)
    return F.scalar**2 * column_squares(F.operands[0])


@cross_block.register
def _scaled_cross_block(F: Scaled, G: Operator, rows: Any, cols: Any) -> Any:
    if not isinstance(G, Scaled):
        return cross_block.dispatch(Operator)(F, G, rows, cols)
    return F.scalar * G.scalar * cross_block(F.operands[0], G.operands[0], rows, cols)


@gram_block.register
def _stack_gram_block(F: HStack, rows: Any, cols: Any, weights: Any = None) -> Any:
    parts = ((op, None if weights is None else weights[span]) for op, span in F._spans())
    return sum(gram_block(op, rows, cols, part) for op, part in parts)


@gram_diagonal.register
def _stack_gram_diagonal(F: HStack, weights: Any = None) -> Any:
    parts = ((op, None if weights is None else weights[span]) for op, span in F._spans())
    return sum(gram_diagonal(op, part) for op, part in parts)


@column_squares.register
def _stack_column_squares(F: HStack) -> Any:
    parts = [column_squares(op) for op in F.operands]
    return namespace(*parts).concatenate(parts)


@cross_block.register
def _stack_cross_block(F: HStack, G: Operator, rows: Any, cols: Any) -> Any:
    if not isinstance(G, HStack) or F.edges != G.edges:
        return cross_block.dispatch(Operator)(F, G, rows, cols)
    pairs = zip(F.operands, G.operands, strict=True)
    return sum(cross_block(left, right, rows, cols) for left, right in pairs)
