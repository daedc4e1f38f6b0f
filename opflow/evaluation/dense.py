"""What the entries of an operator cost, and two evaluations made of them: in tiles, and dense.

:func:`block_work` says, class by class, what a sub-block costs in time and in memory; tiles and
dense matrices are priced, and kept within a memory budget, by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from opflow.machine import threads, workspace
from opflow.machine.arrays import namespace
from opflow.machine.cost import MachineProfile
from opflow.machine.threads import bytes_over_rows, over_items
from opflow.machine.workspace import (
    block_rows,
    dense_allowed,
    op_namespace,
    operator_module,
    parse_memory,
    row_data,
    row_slices,
    tile_side,
    tiles,
)
from opflow.operators.algebra import Adjoint, Identity, Scaled, Sum
from opflow.operators.gates import PackedGates
from opflow.operators.gram import Gram, GramVelocity
from opflow.operators.khatri_rao import Hadamard, KhatriRao
from opflow.operators.matrix import Matrix, RowMatrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.scaled_gates import ScaledGates
from opflow.operators.stack import HStack

#: flops that building one entry of a sparse-times-sparse product costs beyond its
#: multiplications, and how much slower than sparse-times-dense those are
SPARSE_ENTRY, SPARSE_PAIR = 0.5, 30.0


class Work(NamedTuple):
    """The cost of a sub-block, and the bytes held at once on the way (itself included)."""

    cost: Cost
    held: float


def _pass(op: Operator, rows: float, cols: float) -> float:
    return float(rows) * cols * op.dtype.itemsize


@singledispatch
def block_work(op: Operator, rows: int, cols: int) -> Work:
    """What ``op._block`` of `rows` × `cols` entries takes."""
    m, n = op.shape
    whole = _pass(op, rows, n)
    if op.row_access:
        return Work(Cost(0.0, whole), whole)
    # One product of the adjoint with `rows` columns of the identity.
    return Work(op.cost(rows), 2 * whole + _pass(op, rows, m))


@block_work.register(Identity)
@block_work.register(Matrix)
def _stored(op: Operator, rows: int, cols: int) -> Work:
    size = _pass(op, rows, cols)
    return Work(Cost(0.0, size), size)


@block_work.register
def _adjoint(op: Adjoint, rows: int, cols: int) -> Work:
    return block_work(op.operands[0], cols, rows)


@block_work.register(Sum)
@block_work.register(Scaled)
@block_work.register(Hadamard)
def _entrywise(op: Operator, rows: int, cols: int) -> Work:
    parts = [block_work(part, rows, cols) for part in op.operands]
    size = _pass(op, rows, cols)
    cost = sum((part.cost for part in parts), Cost(float(rows * cols * len(parts)), size))
    return Work(cost, 2 * size + max(part.held for part in parts))


@block_work.register
def _gram(op: Gram, rows: int, cols: int) -> Work:
    work = gram_work(op.factor, rows, cols)
    weighted = 0.0 if op.weights is None else _pass(op, rows, op.factor.shape[1])
    return Work(work.cost, work.held + weighted)


@block_work.register
def _gram_velocity(op: GramVelocity, rows: int, cols: int) -> Work:
    works = [gram_work(F, rows, cols) for F in op.operands]
    size = _pass(op, rows, cols)
    cost = works[0].cost + works[1].cost + (0.0, size)
    return Work(cost, 2 * size + 2 * max(work.held for work in works))


@singledispatch
def gram_work(F: Operator, rows: int, cols: int) -> Work:
    """What a sub-block of ``F Fᵀ`` takes."""
    height, width = F.shape
    size, read = _pass(F, rows, cols), _pass(F, rows + cols, width)
    flops = 2.0 * width * rows * cols
    if F.row_access:
        return Work(Cost(flops, read + size), size + 2 * read)
    return Work(
        Cost(flops, read + size) + F.cost(rows + cols),
        size + 2 * read + _pass(F, max(rows, cols), height),
    )


@gram_work.register
def _of_matrix(F: Matrix, rows: int, cols: int) -> Work:
    height, width = F.shape
    size = _pass(F, rows, cols)
    if not F.sparse:
        read = _pass(F, rows + cols, width)
        held = size + (read if isinstance(F, RowMatrix) else 0.0)  # rows on disk are copied
        return Work(Cost(2.0 * width * rows * cols, read + size), held)
    share = rows * cols / height**2
    flops = 2.0 * SPARSE_PAIR * F.pairs * share + SPARSE_ENTRY * rows * cols
    slabs = (rows + cols) / height * F.cost(0).bytes
    # The product is sparse first, with its indices, whatever it holds.
    return Work(Cost(flops, slabs + size, flops), 4 * size + 2 * slabs + 16.0 * rows * cols)


@gram_work.register
def _of_khatri_rao(F: KhatriRao, rows: int, cols: int) -> Work:
    left, right = gram_work(F.A, rows, cols), gram_work(F.B, rows, cols)
    size = _pass(F, rows, cols)
    copies = 0.0 if F.repeat == 1 else _pass(F, rows + cols, F.B.shape[1])
    cost = left.cost + right.cost + (float(rows * cols), size)
    return Work(cost, max(left.held, size + right.held + copies))


@gram_work.register(Sum)
@gram_work.register(Scaled)
@gram_work.register(HStack)
def _of_parts(F: Operator, rows: int, cols: int) -> Work:
    parts = [gram_work(part, rows, cols) for part in F.operands]
    size = _pass(F, rows, cols)
    cost = sum((part.cost for part in parts), Cost(0.0, size * (len(parts) - 1)))
    return Work(cost, 2 * size + max(part.held for part in parts))


class Plan(NamedTuple):
    """How all entries are formed: in tiles of `rows` × `cols`, at this cost, holding so much."""

    rows: int
    cols: int
    cost: Cost
    held: float


def plan(op: Operator, rows: int, cols: int) -> Plan:
    """Price all tiles of this size (the symmetric half, if they are square)."""
    m, n = op.shape
    rows, cols = min(rows, m), min(cols, n)
    work = block_work(op, rows, cols)
    entries = float(m) * n
    if op.symmetric and rows == cols:
        entries /= 2  # of a tile on the diagonal, too: A Aᵀ is computed by symmetry
    return Plan(rows, cols, work.cost.times(entries / (rows * cols)), work.held)


def tile_plan(op: Operator) -> Plan:
    """Square tiles within the workspace."""
    side = tile_side(3 * op.dtype.itemsize, op.shape[1])
    return plan(op, side, side)


def tiled_cost(op: Operator, columns: int) -> Cost:
    """One product through tiles: forming them, and applying each while it is in cache."""
    forming = tile_plan(op).cost
    m, n = op.shape
    stored = sum(part.cost(0).bytes for part in op.operands) + op._vector_bytes(columns)
    # Entries are formed anew in every product, but for the stored ones: those are read.
    return forming + Cost(2.0 * m * n * columns, stored)


def dense_plan(op: Operator, budget: float = math.inf) -> Plan:
    """The cheaper of square tiles and whole rows, made smaller until the budget holds them.

    `held` counts the matrix and the temporaries.
    """
    nominal = MachineProfile()
    size = _pass(op, *op.shape)
    slab = block_rows(3 * _pass(op, 1, op.shape[1]))
    choice = min(
        tile_plan(op),
        plan(op, slab, op.shape[1]),
        key=lambda plan: nominal.seconds(plan.cost, op.dtype),
    )
    while True:
        # Mirroring may copy a tile once more.
        held = size + choice.held + _pass(op, choice.rows, choice.cols)
        if held <= budget or size > budget or choice.rows == 1:
            return choice._replace(held=held)
        rows = choice.rows // 2
        choice = plan(op, rows, rows if choice.cols == choice.rows else choice.cols)


def dense(op: Operator, memory: float | str | None = None) -> Any:
    """The dense matrix, in blocks; of a symmetric operator half is computed and mirrored.

    Raises
    ------
    MemoryError
        If the matrix and what forming it takes do not fit in `memory`; nothing was allocated.
    """
    budget = parse_memory(memory, operator_module(op))
    dense_allowed(op.shape, op.dtype, budget)
    rows, cols, cost, held = dense_plan(op, budget)
    if held > budget:
        raise MemoryError(
            f"forming a dense {op.shape[0]} x {op.shape[1]} {op.dtype} matrix takes "
            f"{held / 1e9:.3g} GB, over the budget of {budget / 1e9:.3g} GB"
        )
    m, n = op.shape
    out = op_namespace(op).empty(op.shape, dtype=op.dtype)

    def pieces() -> Iterable[tuple[slice, slice]]:
        if rows == cols:
            return tiles(m, n, op.symmetric, rows)
        return ((r, slice(r.start if op.symmetric else 0, n)) for r in row_slices(m, 1, rows))

    def form(mine: Iterator[tuple[slice, slice]]) -> None:
        for r, c in mine:
            out[r, c] = tile = op._block(r, c)
            if op.symmetric and r != c:
                below = slice(r.stop, c.stop) if r.start == c.start else c
                out[below, r] = tile[:, below.start - c.start :].T.conj()
            del tile  # before the next one is formed

    passing = held - out.nbytes  # what one tile takes on the way
    fits = held + (threads.count() - 1) * passing <= budget
    over_items(pieces, form, cost.flops, *_leaves(op), sums=passing if fits else math.inf)
    return out


@singledispatch
def product_bytes(op: Operator, columns: int) -> float:
    """Bytes a product holds at its peak, the result included and the operand not."""
    vectors = 2.0 * max(op.shape) * columns * op.dtype.itemsize
    return vectors + max((product_bytes(part, columns) for part in op.operands), default=0.0)


@product_bytes.register
def _khatri_rao_bytes(op: KhatriRao, columns: int) -> float:
    # Operand and result of the GEMM, in the other order and summed over row blocks.
    item = op.dtype.itemsize
    scaled, gemm = op._sides()
    rows = float(op.B.shape[0]) * ((columns + op.repeat) * scaled.shape[1] + gemm.shape[1]) * item
    sums = 2.0 * op.shape[1] * columns * item
    blocks = bytes_over_rows(2 * rows, sums) if gemm.row_access else 2 * rows
    return 3.0 * max(op.shape) * columns * item + blocks


@product_bytes.register(PackedGates)
@product_bytes.register(ScaledGates)
def _gates_bytes(op: Operator, columns: int) -> float:
    # Unpacked as bytes, then in the dtype of the product.
    block = min(_pass(op, *op.shape), workspace.workspace_bytes()) * (1 + 1 / op.dtype.itemsize)
    return 2.0 * max(op.shape) * columns * op.dtype.itemsize + block


@product_bytes.register(Hadamard)
def _tiles_bytes(op: Operator, columns: int) -> float:
    return 2.0 * max(op.shape) * columns * op.dtype.itemsize + tiles_bytes(op, columns)


def tiles_bytes(op: Operator, columns: int) -> float:
    """What :func:`tiled_product` holds besides the result: tiles, and sums of the other threads."""
    more = (threads.count() - 1) * _held_by_thread(op, columns)
    return tile_plan(op).held + min(more, workspace.thread_bytes() + workspace.workspace_bytes())


def _held_by_thread(op: Operator, columns: int) -> float:
    return tile_plan(op).held + float(max(op.shape)) * columns * op.dtype.itemsize


def tiled_product(op: Operator, X: Any, adjoint: bool = False) -> Any:
    """``op @ X`` (or its adjoint) from exact sub-blocks, forming one tile a thread at a time."""
    (m, n), columns = op.shape, X.shape[1]
    side = tile_side(3 * op.dtype.itemsize, n)

    def apply(mine: Iterator[tuple[slice, slice]]) -> Any:
        out = namespace(X).zeros((n if adjoint else m, columns), dtype=X.dtype)
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

    if not all(isinstance(leaf, np.ndarray) for leaf in _leaves(op)):
        return apply(pieces())  # to price sparse data would bring numbers to the host
    total, *others = over_items(
        pieces, apply, tiled_cost(op, columns).flops, sums=_held_by_thread(op, columns)
    )
    for other in others:
        total += other
    return total


def _leaves(op: Operator) -> Iterator[Any]:
    """What the entries of an operator are read of; None for what is not known to be an array."""
    for part in op.operands:
        yield from _leaves(part)
    if not (op.operands or isinstance(op, Identity)):
        yield row_data(op)


class Tiled(Operator):
    """An operator evaluated from its exact sub-blocks, one tile a thread at a time.

    Parameters
    ----------
    op : Operator
        Whose :meth:`Operator.block` is cheap (a Gram, a Hadamard product, sums of them).

    Notes
    -----
    A product forms every tile (only the symmetric half where that is known) and applies it to
    all columns: N²·(flops an entry)/2 + 2·N² a column, no N × N array.  Wins over the factored
    form for many columns at once.
    """

    def __init__(self, op: Operator) -> None:
        self.op = op
        super().__init__(
            op.shape, op.dtype, symmetric=op.symmetric, psd=op.psd, dims=op.dims, dimsd=op.dimsd
        )

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.op,)

    @property
    def symbol(self) -> str:
        return f"tiled({self.op.symbol})"

    def cost(self, columns: int = 1) -> Cost:
        return tiled_cost(self.op, columns)

    def _matmat(self, X: Any) -> Any:
        return tiled_product(self.op, X)

    def _rmatmat(self, X: Any) -> Any:
        return tiled_product(self.op, X, adjoint=True)

    def _block(self, rows: Any, cols: Any) -> Any:
        return self.op._block(rows, cols)

    def _diagonal(self) -> Any:
        return self.op._diagonal()


product_bytes.register(Tiled, _tiles_bytes)


@block_work.register
def _tiled(op: Tiled, rows: int, cols: int) -> Work:
    return block_work(op.op, rows, cols)
