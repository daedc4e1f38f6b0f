"""Entries of sums, multiples, adjoints and casts, and what they cost."""

from __future__ import annotations

from opflow.machine.arrays import Array, Index
from opflow.operators.algebra import Sum
from opflow.operators.composite import Adjoint, Cast, Scaled
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    cross_block,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Operator
from opflow.operators.prices import Work, block_work, entrywise_block, gram_of_parts, gram_work

for kind in (Sum, Scaled, Adjoint, Cast):
    entries_are_cheap.register(kind, cheap_in_operands)
for kind in (Sum, Scaled):
    block_work.register(kind, entrywise_block)
    gram_work.register(kind, gram_of_parts)


@block_work.register
def _adjoint_work(op: Adjoint, rows: int, cols: int) -> Work:
    return block_work(op.parts[0], cols, rows)


@gram_diagonal.register
def _adjoint_gram_diagonal(F: Adjoint, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    return column_squares(F.parts[0])


@column_squares.register
def _adjoint_column_squares(F: Adjoint) -> Array:
    return gram_diagonal(F.parts[0])


def _moderate(op: Scaled) -> bool:
    """Whether squares of the unscaled entries stay in range if those of the scaled ones do."""
    return 2.0**-40 < abs(op.scalar) < 2.0**40


@gram_block.register
def _scaled_gram_block(F: Scaled, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    if not _moderate(F):
        return NotImplemented
    return F.scalar**2 * gram_block(F.parts[0], rows, cols, weights)


@gram_diagonal.register
def _scaled_gram_diagonal(F: Scaled, weights: Array | None = None) -> Array:
    if not _moderate(F):
        return NotImplemented
    return F.scalar**2 * gram_diagonal(F.parts[0], weights)


@column_squares.register
def _scaled_column_squares(F: Scaled) -> Array:
    if not _moderate(F):
        return NotImplemented
    return F.scalar**2 * column_squares(F.parts[0])


@cross_block.register
def _scaled_cross_block(F: Scaled, G: Operator, rows: Index, cols: Index) -> Array:
    if not isinstance(G, Scaled):
        return NotImplemented
    return F.scalar * G.scalar * cross_block(F.parts[0], G.parts[0], rows, cols)
