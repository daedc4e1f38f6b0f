"""Entries of Grams ``F diag(w) Fᵀ`` and of products ``F Gᵀ``, asked of the factors.

Each function has a rule for any operator, which reads rows, and rules that the classes register
beside themselves where rows are so wide that they should not be formed.  A rule that does not
apply to its arguments returns ``NotImplemented``, and leaves them to the general one.
"""

from __future__ import annotations

from opflow.machine.arrays import Array, Index, namespace
from opflow.machine.streams import prefetched
from opflow.machine.workspace import operator_module, row_slices, selector
from opflow.operators.by_class import by_class
from opflow.operators.operator import Operator


@by_class
def entries_are_cheap(op: Operator) -> bool:
    """Whether sub-blocks are made of stored data, not of products with the identity."""
    return op.row_access and not op.operands


def cheap_in_operands(op: Operator) -> bool:
    """The answer of a class that makes its sub-blocks of those of its operands."""
    return all(map(entries_are_cheap, op.operands))


@by_class
def gram_product(F: Operator, X: Array) -> Array:
    """``F Fᵀ X``."""
    return F._matmat(F._rmatmat(X))


@by_class
def gram_block(F: Operator, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    """The sub-block ``[rows][:, cols]`` of ``F diag(w) Fᵀ``."""
    left = right = F.rows(rows)
    if rows is not cols:
        right = F.rows(cols)
    if weights is not None:
        left = left * weights
    return F.domain.total(left @ right.T)


@by_class
def gram_diagonal(F: Operator, weights: Array | None = None) -> Array:
    """The diagonal of ``F diag(w) Fᵀ``."""
    parts = []
    row = 3 * F.shape[1] * F.dtype.itemsize
    for s in prefetched(row_slices(F.shape[0], row, where=operator_module(F)), F):
        squares = F.rows(s) ** 2
        parts.append(squares.sum(axis=1) if weights is None else squares @ weights)
    return F.domain.total(namespace(*parts).concatenate(parts))


@by_class
def column_squares(F: Operator) -> Array:
    """The diagonal of ``Fᵀ F``: ``Σ_i F_ij²``."""
    m, n = F.shape
    if F.row_access:
        slices = prefetched(row_slices(m, 3 * n * F.dtype.itemsize), F)
        return sum((F.rows(s) ** 2).sum(axis=0) for s in slices)
    slices = row_slices(n, 3 * max(m, n) * F.dtype.itemsize)
    parts = [(F._matmat(selector(F, s, n)) ** 2).sum(axis=0) for s in slices]
    return F.space.total(namespace(*parts).concatenate(parts))


@by_class
def cross_block(F: Operator, G: Operator, rows: Index, cols: Index) -> Array:
    """The sub-block ``[rows][:, cols]`` of ``F Gᴴ``."""
    return F.domain.total(F.rows(rows) @ G.rows(cols).T.conj())


@by_class
def cross_diagonal(F: Operator, G: Operator) -> Array:
    """The diagonal of ``F Gᴴ``."""
    slices = row_slices(F.shape[0], 3 * F.shape[1] * F.dtype.itemsize)
    parts = [(F.rows(s) * G.rows(s).conj()).sum(axis=1) for s in slices]
    return F.domain.total(namespace(*parts).concatenate(parts))
