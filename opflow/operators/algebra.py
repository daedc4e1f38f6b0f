"""The classes of sums, products, multiples, adjoints and casts of operators.

``simplify.py`` builds them.  Tags are theorems: a sum of PSD operators is PSD, a multiple is PSD
for a scalar >= 0, and a product is PSD when it reads ``Jᵀ B J`` with one and the same J.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Index, mixed, module_name
from opflow.machine.ranks import RowDistribution
from opflow.machine.workspace import operator_module
from opflow.operators.diagonal import Identity
from opflow.operators.entries import gram_diagonal
from opflow.operators.operator import Cost, Operator, agreed_space, placed
from opflow.operators.rules import multiple


def unify(operators: Sequence[Operator]) -> list[Operator]:
    """The operators in one dtype and place: those without data adopt the dtype of the others.

    If any is complex, all become complex: `_matmat` then sees vectors of its operator's own kind.
    """
    dtypes = {op.dtype for op in operators if not op.dtype_free}
    if len({dtype for dtype in dtypes if dtype.kind != "c"}) > 1:
        raise TypeError(
            f"operands have dtypes {', '.join(sorted(map(str, dtypes)))}; ask for the promotion "
            "with .astype(), or build them from data of one dtype"
        )
    target = np.result_type(*(dtypes or {op.dtype for op in operators}))
    held = [op for op in operators if operator_module(op) is not None]
    where = {module_name(op) for op in held}
    if len(where) > 1:
        raise TypeError(mixed(*held))
    if where - {"numpy"}:  # operators without data are on the host
        operators = [placed(op, *where) for op in operators]
    return [op.astype(target) for op in operators]


class Composite(Operator):
    """An operator made of others."""

    def __init__(
        self, operands: Sequence[Operator], shape: tuple[int, int], dtype: DTypeLike, **known: Any
    ) -> None:
        self.parts = tuple(operands)
        super().__init__(shape, dtype, **known)

    @property
    def operands(self) -> tuple[Operator, ...]:
        return self.parts

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        """Whether rows can be read at the cost of the memory they occupy."""
        return all(part.row_access for part in self.parts)

    def cost(self, columns: int = 1) -> Cost:
        return sum((part.cost(columns) for part in self.parts), Cost(0.0, 0.0))


class Sum(Composite):
    """The lazy sum ``A₁ + A₂ + …``, made by ``+``; PSD or symmetric if every term is.

    Parameters
    ----------
    terms : sequence of Operator
        Of one shape.

    See Also
    --------
    opflow.Product : Lazy product.
    opflow.Scaled : Lazy multiple.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Gram(np.eye(2)) + of.Identity(2)
    <2x2 Sum M Mᵀ + I float64 psd>
    """

    def __init__(self, terms: Sequence[Operator]) -> None:
        shapes = {t.shape for t in terms}
        if len(shapes) > 1:
            raise ValueError(f"cannot add operators of shapes {sorted(shapes)}")
        space = agreed_space(t.space for t in terms)
        terms = unify([distributed(t, space) for t in terms])
        super().__init__(
            terms,
            terms[0].shape,
            terms[0].dtype,
            psd=all(t.psd for t in terms),
            symmetric=all(t.symmetric for t in terms),
            dims=_agreed([t.dims for t in terms]),
            dimsd=_agreed([t.dimsd for t in terms]),
        )

    @property
    def symbol(self) -> str:
        return " + ".join(t.symbol for t in self.parts)

    @property
    def _factor_symbol(self) -> str:
        return f"({self.symbol})"

    def _matmat(self, X: Array) -> Array:
        return _total(t._matmat(X) for t in self.parts)

    def _rmatmat(self, X: Array) -> Array:
        return _total(t._rmatmat(X) for t in self.parts)

    def rows(self, index: Index) -> Array:
        return _total(t.rows(index) for t in self.parts)

    def _block(self, rows: Index, cols: Index) -> Array:
        return _total(t._block(rows, cols) for t in self.parts)

    def _diagonal(self) -> Array:
        return _total(t._diagonal() for t in self.parts)


def _total(arrays: Iterable[Array]) -> Array:
    """The sum of at least two arrays, which may belong to somebody else: it is a new one."""
    arrays = iter(arrays)
    total = next(arrays) + next(arrays)
    for array in arrays:
        total = total + array if array.dtype != total.dtype else operator.iadd(total, array)
    return total


def _agreed(dims: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The one field shape that is not flat, if the operands agree on it."""
    shaped = {d for d in dims if len(d) > 1}
    return shaped.pop() if len(shaped) == 1 else None


class Product(Composite):
    """The lazy product ``A₁ A₂ …``, made by ``@``; applied right to left.

    Parameters
    ----------
    factors : sequence of Operator

    See Also
    --------
    opflow.Sum : Lazy sum.
    opflow.pullback : ``Jᵀ B J``, a product that keeps the tags of B.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> W = of.Weight(np.ones((2, 3)))
    >>> W.T @ W
    <3x3 Product Wᵀ W float64 psd>
    """

    def __init__(self, factors: Sequence[Operator]) -> None:
        super().__init__(
            factors,
            (factors[0].shape[0], factors[-1].shape[1]),
            factors[0].dtype,
            dims=factors[-1].dims,
            dimsd=factors[0].dimsd,
            **_product_tags(factors),
        )
        self.space = factors[0].space
        self.domain = factors[-1].domain

    row_access = False

    @property
    def symbol(self) -> str:
        return " ".join(f._factor_symbol for f in self.parts)

    def _matmat(self, X: Array) -> Array:
        for factor in reversed(self.parts):
            X = factor._matmat(X)
        return X

    def _rmatmat(self, X: Array) -> Array:
        for factor in self.parts:
            X = factor._rmatmat(X)
        return X

    def rows(self, index: Index) -> Array:
        left = self.parts[0].rows(index).T.conj()
        for factor in self.parts[1:]:
            left = factor.rmatmat(left)
        return left.T.conj()

    def _diagonal(self) -> Array:
        return gram_diagonal(self.parts[0]) if self.is_gram else super()._diagonal()

    @property
    def is_gram(self) -> bool:
        """Whether this is ``A Aᵀ`` or ``Aᵀ A``, whose diagonal is that of squares."""
        if self.dtype.kind == "c" or len(self.parts) != 2:
            return False
        first = self.parts[0]
        if first.space.sharded and first.domain.sharded:  # its rows are on no rank whole
            return False
        return are_adjoint(*self.parts)


class Scaled(Composite):
    """The lazy multiple ``c A``, made by ``*``; PSD if A is and c >= 0.

    Parameters
    ----------
    scalar : float
    op : Operator

    See Also
    --------
    opflow.Sum : Lazy sum.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> 2 * of.Gram(np.eye(2))
    <2x2 Scaled 2 M Mᵀ float64 psd>
    """

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
        inner = self.parts[0]._factor_symbol
        return f"-{inner}" if self.scalar == -1 else f"{self.scalar:.4g} {inner}"

    @property
    def dtype_free(self) -> bool:  # type: ignore[override]
        """Whether the dtype is a choice, not a property of stored data."""
        return self.parts[0].dtype_free

    def _matmat(self, X: Array) -> Array:
        return self.scalar * self.parts[0]._matmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.scalar * self.parts[0]._rmatmat(X)

    def rows(self, index: Index) -> Array:
        return self.scalar * self.parts[0].rows(index)

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.scalar * self.parts[0]._block(rows, cols)

    def _diagonal(self) -> Array:
        return self.scalar * self.parts[0]._diagonal()


class Adjoint(Composite):
    """The lazy adjoint of an operator that has no rule of its own, made by ``.T`` or ``.H``.

    Parameters
    ----------
    op : Operator

    See Also
    --------
    opflow.Product : Lazy product.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Weight(np.ones((2, 3))).T
    <3x2 Adjoint Wᵀ float64>
    """

    row_access = False

    def __init__(self, op: Operator) -> None:
        super().__init__([op], (op.shape[1], op.shape[0]), op.dtype, dims=op.dimsd, dimsd=op.dims)
        self.space = op.domain
        self.domain = op.space

    @property
    def symbol(self) -> str:
        return f"{self.parts[0].symbol}ᵀ"

    @property
    def dtype_free(self) -> bool:  # type: ignore[override]
        """Whether the dtype is a choice, not a property of stored data."""
        return self.parts[0].dtype_free

    def _matmat(self, X: Array) -> Array:
        return self.parts[0]._rmatmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.parts[0]._matmat(X)

    def rows(self, index: Index) -> Array:
        op = self.parts[0]
        return self._block(index, slice(0, op.shape[0])) if op.row_access else super().rows(index)

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.parts[0]._block(cols, rows).T.conj()

    def _diagonal(self) -> Array:
        return self.parts[0]._diagonal().conj()


class Cast(Composite):
    """An operator computed in a wider dtype, made by :meth:`Operator.astype`.

    Parameters
    ----------
    op : Operator
    dtype : dtype

    See Also
    --------
    opflow.as_operator : Operators from arrays, of the dtype these have.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Matrix(np.eye(2, dtype="float32")).astype("float64")
    <2x2 Cast M float64>
    """

    def __init__(self, op: Operator, dtype: DTypeLike) -> None:
        if not np.can_cast(op.dtype, dtype, "safe"):
            raise TypeError(f"{op.dtype} to {np.dtype(dtype)} is not an exact promotion")
        super().__init__(
            [op], op.shape, dtype, psd=op.psd, symmetric=op.symmetric, dims=op.dims, dimsd=op.dimsd
        )

    @property
    def symbol(self) -> str:
        return self.parts[0].symbol

    # Vectors may be complex where the operator is real: its own products take care of that.

    def _matmat(self, X: Array) -> Array:
        return self.parts[0].matmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.parts[0].rmatmat(X)

    def rows(self, index: Index) -> Array:
        op = self.parts[0]
        return op.rows(index).astype(self.dtype) if op.row_access else super().rows(index)


def distributed(op: Operator, space: RowDistribution) -> Operator:
    """`op`, if its rows are held as `space` says; an identity can be held so."""
    if op.space.sharded or not space.sharded:
        return op
    if isinstance(op, Scaled):
        return multiple(distributed(op.parts[0], space), op.scalar)
    if not isinstance(op, Identity):
        raise ValueError(
            f"cannot add {type(op).__name__} of shape {op.shape}, which is here as a whole, to an "
            "operator whose rows are sharded"
        )
    return op._changed(space=space, domain=space)


def are_adjoint(a: Operator, b: Operator) -> bool:
    """Whether `a` is known to be the adjoint of `b` (one and the same object, transposed)."""
    return (
        (isinstance(a, Adjoint) and _same(a.parts[0], b))
        or (isinstance(b, Adjoint) and _same(b.parts[0], a))
        or (_same(a, b) and a.symmetric)
    )


def _same(a: Operator, b: Operator) -> bool:
    """Whether `a` is `b`, or the same stored gates after both adopted a dtype."""
    if a.dtype_free and type(a) is type(b) and a.data is not None:
        return a.data is b.data
    return a is b


def _product_tags(factors: Sequence[Operator]) -> dict[str, bool]:
    """Tags of Fₙᵀ … F₁ᵀ M F₁ … Fₙ: those of the middle, if the factors pair up."""
    half = len(factors) // 2
    pairs = zip(factors[:half], reversed(factors), strict=False)
    if not all(are_adjoint(a, b) for a, b in pairs):
        return {}
    if len(factors) % 2 == 0:
        return {"psd": True}
    return {"psd": factors[half].psd, "symmetric": factors[half].symmetric}
