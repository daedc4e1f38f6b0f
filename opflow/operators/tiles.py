"""Products from exact sub-blocks: a tile of the matrix at a time, formed, applied and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import iadd
from typing import NamedTuple

import numpy as np

from opflow.machine import threads, workspace
from opflow.machine.arrays import Array, Data, namespace
from opflow.machine.threads import over_items
from opflow.machine.workspace import block_module, op_namespace, row_data, tile_side, tiles
from opflow.operators.diagonal import Identity
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import array_bytes, block_work, vector_bytes


class TilePlan(NamedTuple):
    """How all entries are formed: in tiles of `rows` × `cols`, at this cost, holding so much."""

    rows: int
    cols: int
    cost: Cost
    #: bytes
    held: float


def plan(op: Operator, rows: int, cols: int) -> TilePlan:
    """The price of all tiles of this size (of the symmetric half, if they are square)."""
    m, n = op.shape
    rows = min(rows, m)
    cols = min(cols, n)
    work = block_work(op, rows, cols)
    entries = float(m) * n
    if op.symmetric and rows == cols:
        entries /= 2  # of a tile on the diagonal, too: A Aᵀ is computed by symmetry
    return TilePlan(rows, cols, work.cost.times(entries / (rows * cols)), work.held)


def tile_plan(op: Operator) -> TilePlan:
    """Square tiles within the workspace."""
    side = tile_side(3 * op.dtype.itemsize, op.shape[1], block_module(op))
    return plan(op, side, side)


def tiled_cost(op: Operator, columns: int) -> Cost:
    """One product through tiles: forming them, and applying each while it is in cache."""
    m, n = op.shape
    stored = sum(part.cost(0).bytes for part in op.operands) + op._vector_bytes(columns)
    # Entries are formed anew in every product, but for the stored ones: those are read.
    return tile_plan(op).cost + Cost(2.0 * m * n * columns, stored)


def tiles_bytes(op: Operator, columns: int) -> float:
    """What :func:`tiled_product` holds besides the result: tiles, and sums of the other threads."""
    more = (threads.count() - 1) * _held_by_thread(op, columns)
    return tile_plan(op).held + min(more, workspace.thread_bytes() + workspace.workspace_bytes())


def tiled_product_bytes(op: Operator, columns: int) -> float:
    """`product_bytes` of an operator that multiplies by :func:`tiled_product`."""
    return vector_bytes(op, columns) + tiles_bytes(op, columns)


def _held_by_thread(op: Operator, columns: int) -> float:
    return tile_plan(op).held + array_bytes(op, max(op.shape), columns)


def tiled_product(op: Operator, X: Array, adjoint: bool = False) -> Array:
    """``op @ X`` (or its adjoint) from exact sub-blocks, forming one tile a thread at a time."""
    m, n = op.shape
    columns = X.shape[1]
    side = tile_side(3 * op.dtype.itemsize, n, block_module(op))

    def apply(mine: Iterator[tuple[slice, slice]]) -> Array:
        out = namespace(X).zeros((op.shape[adjoint], columns), dtype=X.dtype)
        for r, c in mine:
            tile = op._block(r, c)
            if adjoint and not op.symmetric:
                out[c] += tile.T.conj() @ X[r]
            else:
                out[r] += tile @ X[c]
                if op.symmetric and r != c:
                    out[c] += tile.T.conj() @ X[r]
            del tile  # before the next one is formed
        return out

    def pieces() -> Iterator[tuple[slice, slice]]:
        return tiles(m, n, op.symmetric, side)

    if not all(isinstance(leaf, np.ndarray) for leaf in leaves(op)):
        return apply(pieces())  # to price sparse data would bring numbers to the host
    held = _held_by_thread(op, columns)
    return reduce(iadd, over_items(pieces, apply, tiled_cost(op, columns).flops, sums=held))


def leaves(op: Operator) -> Iterator[Data | None]:
    """What the entries of an operator are read of; None for what is not known to be an array."""
    for part in op.operands:
        yield from leaves(part)
    if not (op.operands or isinstance(op, Identity)):
        yield row_data(op)


def stand_in(op: Operator) -> Matrix:
    """A dense matrix of the shape, dtype and tags of `op`, which occupies no memory."""
    xp = op_namespace(op)
    zero = xp.broadcast_to(xp.zeros((), dtype=op.dtype), op.shape)
    return Matrix(zero, symmetric=op.symmetric, psd=op.psd, symbol=op.symbol)
