"""Sums, products, multiples, adjoints and casts of operators, simplified as they are built.

:func:`add`, :func:`compose`, :func:`scale` and :func:`adjoint` flatten sums and products, drop
identities, move scalars out of products, undo a double adjoint, drop zeros from sums, make a
product with a zero zero, and return a symmetric operator as its own adjoint.  The classes only
store and apply.

Tags follow from mathematics, never from names: a sum of PSD operators is PSD, a multiple is PSD
for a scalar >= 0, and a product is PSD when it reads ``Jᵀ B J`` with one and the same J.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import mixed, module_name
from opflow.machine.ranks import RowDistribution
from opflow.machine.workspace import operator_module
from opflow.operators.diagonal import Identity, Zero
from opflow.operators.operator import Cost, Operator, agreed_space, placed
from opflow.operators.rules import add, adjoint, cast, compose, multiple
from opflow.operators.rules import as_operator as as_operator
from opflow.operators.rules import is_operator as is_operator
from opflow.operators.rules import scale as scale


def unify(operators: Sequence[Operator]) -> list[Operator]:
    """The operators in one dtype and one place: those without stored data adopt the others'."""
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
    return [op.astype(target) if op.dtype_free else op for op in operators]


def distributed(op: Operator, space: RowDistribution) -> Operator:
    """`op`, if its rows are held as `space` says; an identity can be held so."""
    if op.space.sharded or not space.sharded:
        return op
    if isinstance(op, Scaled):
        return multiple(distributed(op.operands[0], space), op.scalar)
    if not isinstance(op, Identity):
        raise ValueError(
            f"cannot add {type(op).__name__} of shape {op.shape}, which is here as a whole, to an "
            "operator whose rows are sharded"
        )
    return op._changed(space=space, domain=space)


# -- classes ---------------------------------------------------------------------------------


class Composite(Operator):
    """An operator made of others."""

    def __init__(self, operands: Sequence[Operator], shape: Any, dtype: Any, **tags: Any) -> None:
        self._operands = tuple(operands)
        super().__init__(shape, dtype, **tags)

    @property
    def operands(self) -> tuple[Operator, ...]:
        return self._operands

    def cost(self, columns: int = 1) -> Cost:
        return sum((op.cost(columns) for op in self.operands), Cost(0.0, 0.0))


class Sum(Composite):
    """``A₁ + A₂ + …``; PSD or symmetric if every term is.  Built by :func:`add`."""

    def __init__(self, terms: Sequence[Operator]) -> None:
        shapes = {t.shape for t in terms}
        if len(shapes) > 1:
            raise ValueError(f"cannot add operators of shapes {sorted(shapes)}")
        space = agreed_space(t.space for t in terms)
        terms = unify([distributed(t, space) for t in terms])
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


class Product(Composite):
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
        return self.operands[0]._gram_diagonal(None) if self.is_gram else super()._diagonal()

    @property
    def is_gram(self) -> bool:
        """Whether this is ``A Aᵀ`` or ``Aᵀ A``, whose diagonal is that of squares."""
        if self.dtype.kind == "c" or len(self.operands) != 2:
            return False
        first = self.operands[0]
        if first.space.sharded and first.domain.sharded:  # its rows are on no rank whole
            return False
        return are_adjoint(*self.operands)


class Scaled(Composite):
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

    def _cross_block(self, other: Operator, rows: Any, cols: Any) -> Any:
        if not isinstance(other, Scaled):
            return super()._cross_block(other, rows, cols)
        block = self.operands[0]._cross_block(other.operands[0], rows, cols)
        return self.scalar * other.scalar * block

    # Squares of what a large or a small scalar brings near one may be out of range by themselves:
    # rows are scaled first then, as wide as they are.

    @property
    def _moderate(self) -> bool:
        return 2.0**-40 < abs(self.scalar) < 2.0**40

    def _gram_block(self, rows: Any, cols: Any, weights: Any) -> Any:
        if not self._moderate:
            return super()._gram_block(rows, cols, weights)
        return self.scalar**2 * self.operands[0]._gram_block(rows, cols, weights)

    def _gram_diagonal(self, weights: Any) -> Any:
        if not self._moderate:
            return super()._gram_diagonal(weights)
        return self.scalar**2 * self.operands[0]._gram_diagonal(weights)

    def _column_squares(self) -> Any:
        if not self._moderate:
            return super()._column_squares()
        return self.scalar**2 * self.operands[0]._column_squares()


class Adjoint(Composite):
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

    def _gram_diagonal(self, weights: Any) -> Any:
        if weights is not None:
            return super()._gram_diagonal(weights)
        return self.operands[0]._column_squares()

    def _column_squares(self) -> Any:
        return self.operands[0]._gram_diagonal(None)


class Cast(Composite):
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


# -- rules ------------------------------------------------------------------------------------


@add.register(Operator)
def _add(*terms: Operator) -> Operator:
    flat = [t for term in terms for t in (term.operands if isinstance(term, Sum) else (term,))]
    if len({t.shape for t in flat}) == 1:  # Sum says what is wrong with other shapes
        flat = [t for t in flat if not isinstance(t, Zero)] or flat[:1]
    return flat[0] if len(flat) == 1 else Sum(flat)


@compose.register(Operator)
def _compose(*factors: Operator) -> Operator:
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
            scalar *= factor.scalar
            factor = factor.operands[0]
        flat.extend(factor.operands if isinstance(factor, Product) else [factor])
    if any(isinstance(f, Zero) for f in flat):
        return Zero(flat[0].shape[0], flat[-1].shape[1], unify(flat)[0].dtype)
    data = [f for f in flat if not isinstance(f, Identity)]
    # An identity still has a say in the dtype when nothing else has.
    flat = unify(data) if data else flat[:1]
    return multiple(flat[0] if len(flat) == 1 else Product(flat), scalar)


@multiple.register(Operator)
def _multiple(op: Operator, scalar: float) -> Operator:
    if isinstance(op, Scaled):
        scalar *= op.scalar
        op = op.operands[0]
    return op if scalar == 1.0 or isinstance(op, Zero) else Scaled(scalar, op)


@adjoint.register(Operator)
def _adjoint(op: Operator) -> Operator:
    if op.symmetric:
        return op
    if isinstance(op, Adjoint):
        return op.operands[0]
    if isinstance(op, Zero):
        return Zero(op.shape[1], op.shape[0], op.dtype)
    if isinstance(op, Sum):
        return add(*map(adjoint, op.operands))
    if isinstance(op, Product):
        return compose(*map(adjoint, reversed(op.operands)))
    if isinstance(op, Scaled):
        return multiple(adjoint(op.operands[0]), op.scalar)
    return Adjoint(op)


@cast.register(Operator)
def _cast(op: Operator, dtype: DTypeLike) -> Operator:
    return Cast(op, dtype)


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
