"""Entries of sums, multiples, adjoints and casts, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opflow.machine.arrays import Array, Index
from opflow.operators.algebra import Product, Sum
from opflow.operators.composite import Adjoint, Scaled
from opflow.operators.entries import (
    column_squares,
    cross_block,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Operator
from opflow.operators.prices import Work, block_work, entrywise_block, gram_of_parts, gram_work

# Blocks of a product are products with its factors.
entries_are_cheap.register(Product, entries_are_cheap.general)
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


def _of_multiple(rule: Any) -> Callable[..., Array]:
    """The rule for a multiple of an operator, from that for the operator."""

    def scaled(F: Scaled, *arguments: Any) -> Array:
        if not 2.0**-40 < abs(F.scalar) < 2.0**40:  # unscaled squares may leave the range
            return NotImplemented
        return F.scalar**2 * rule(F.parts[0], *arguments)

    return scaled


for rule in (gram_block, gram_diagonal, column_squares):
    rule.register(Scaled, _of_multiple(rule))


@cross_block.register
def _scaled_cross_block(F: Scaled, G: Operator, rows: Index, cols: Index) -> Array:
    if not isinstance(G, Scaled):
        return NotImplemented
    return F.scalar * G.scalar * cross_block(F.parts[0], G.parts[0], rows, cols)
