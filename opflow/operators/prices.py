"""Costs by class of operator, registered beside it: blocks of entries, and memory of products.

The rules here are those of any operator.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

from opflow.operators.operator import Cost, Operator


class Work(NamedTuple):
    """The cost of a sub-block, and the bytes held at once on the way (itself included)."""

    cost: Cost
    held: float


def array_bytes(op: Operator, rows: float, cols: float) -> float:
    """Bytes of an array of `rows` × `cols` in the dtype of `op`."""
    return float(rows) * cols * op.dtype.itemsize


def vector_bytes(op: Operator, columns: int) -> float:
    """Bytes of the operand and the result of a product, each as large as the larger one."""
    return 2 * array_bytes(op, max(op.shape), columns)


@singledispatch
def block_work(op: Operator, rows: int, cols: int) -> Work:
    """What ``op._block`` of `rows` × `cols` entries takes."""
    m, n = op.shape
    whole = array_bytes(op, rows, n)
    if op.row_access:
        return Work(Cost(0.0, whole), whole)
    # One product of the adjoint with `rows` columns of the identity.
    return Work(op.cost(rows), 2 * whole + array_bytes(op, rows, m))


def stored_block(op: Operator, rows: int, cols: int) -> Work:
    """:func:`block_work` of entries that are stored: they are copied."""
    size = array_bytes(op, rows, cols)
    return Work(Cost(0.0, size), size)


def entrywise_block(op: Operator, rows: int, cols: int) -> Work:
    """:func:`block_work` of what combines the blocks of its operands entry by entry."""
    parts = [block_work(part, rows, cols) for part in op.operands]
    size = array_bytes(op, rows, cols)
    cost = sum((part.cost for part in parts), Cost(float(rows * cols * len(parts)), size))
    return Work(cost, 2 * size + max(part.held for part in parts))


@singledispatch
def gram_work(F: Operator, rows: int, cols: int) -> Work:
    """What a sub-block of ``F Fᵀ`` takes."""
    height, width = F.shape
    size = array_bytes(F, rows, cols)
    read = array_bytes(F, rows + cols, width)
    cost = Cost(2.0 * width * rows * cols, read + size)
    held = size + 2 * read
    if F.row_access:
        return Work(cost, held)
    return Work(cost + F.cost(rows + cols), held + array_bytes(F, max(rows, cols), height))


def gram_of_parts(F: Operator, rows: int, cols: int) -> Work:
    """:func:`gram_work` of what adds the blocks of the Grams of its operands."""
    parts = [gram_work(part, rows, cols) for part in F.operands]
    size = array_bytes(F, rows, cols)
    cost = sum((part.cost for part in parts), Cost(0.0, size * (len(parts) - 1)))
    return Work(cost, 2 * size + max(part.held for part in parts))


@singledispatch
def product_bytes(op: Operator, columns: int) -> float:
    """Bytes a product holds at its peak, the result included and the operand not."""
    parts = (product_bytes(part, columns) for part in op.operands)
    return vector_bytes(op, columns) + max(parts, default=0.0)
