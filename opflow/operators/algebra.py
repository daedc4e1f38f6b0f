"""The classes of sums and products of operators.

``simplify.py`` builds them.  Tags are theorems: a sum of PSD operators is PSD, and a product is
PSD when it reads ``Jᵀ B J`` with one and the same J.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

from opflow.machine.arrays import Array, Index
from opflow.machine.ranks import RowDistribution
from opflow.operators.composite import Adjoint, Composite, Scaled, common_tags, unify
from opflow.operators.diagonal import Identity
from opflow.operators.entries import gram_diagonal
from opflow.operators.operator import Operator, agreed_space
from opflow.operators.rules import multiple


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
            dims=_agreed([t.dims for t in terms]),
            dimsd=_agreed([t.dimsd for t in terms]),
            **common_tags(terms),
        )

    def _formula(self) -> str:
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

    def _formula(self) -> str:
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
        if self.is_gram:
            return gram_diagonal(self.parts[0])
        return super()._diagonal()

    @property
    def is_gram(self) -> bool:
        """Whether this is ``A Aᵀ`` or ``Aᵀ A``, whose diagonal is that of squares."""
        if self.dtype.kind == "c" or len(self.parts) != 2:
            return False
        first = self.parts[0]
        if first.space.sharded and first.domain.sharded:  # its rows are on no rank whole
            return False
        return are_adjoint(*self.parts)


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
