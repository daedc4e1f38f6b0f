"""Dense matrices of operators, and operators evaluated in tiles: both made of exact sub-blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from opflow.machine import threads
from opflow.machine.arrays import Array, Index
from opflow.machine.cost import NOMINAL
from opflow.machine.threads import over_items
from opflow.machine.workspace import (
    block_module,
    block_rows,
    dense_allowed,
    op_namespace,
    operator_module,
    parse_memory,
    row_slices,
    tiles,
    workspace_bytes,
)
from opflow.operators.composite import Composite
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import Work, array_bytes, block_work, product_bytes
from opflow.operators.tiles import (
    TilePlan,
    leaves,
    plan,
    tile_plan,
    tiled_cost,
    tiled_product,
    tiled_product_bytes,
)


def dense_plan(op: Operator, budget: float = math.inf, size: float = 0.0) -> TilePlan:
    """The cheaper of square tiles and whole rows, made smaller until the budget holds them.

    `held` counts the matrix and the temporaries. The matrix takes `size` bytes, if not all entries.
    """
    size = size or array_bytes(op, *op.shape)
    row = 3 * array_bytes(op, 1, op.shape[1])
    slab = block_rows(row, workspace_bytes(block_module(op)))
    choice = min(
        tile_plan(op),
        plan(op, slab, op.shape[1]),
        key=lambda plan: NOMINAL.seconds(plan.cost, op.dtype),
    )
    while True:
        # Mirroring may copy a tile once more.
        held = size + choice.held + array_bytes(op, choice.rows, choice.cols)
        if held <= budget or size > budget or choice.rows == 1:
            return choice._replace(held=held)
        rows = choice.rows // 2
        choice = plan(op, rows, rows if choice.cols == choice.rows else choice.cols)


def dense(op: Operator, memory: float | str | None = None) -> Array:
    """The dense matrix, in blocks; of a symmetric operator half is computed and mirrored.

    What does not fit in `memory` is a MemoryError, and nothing was allocated.
    """
    budget = parse_memory(memory, operator_module(op))
    dense_allowed(op.shape, op.dtype, budget)
    plan = fitting_plan(op, budget)
    out = op_namespace(op).empty(op.shape, dtype=op.dtype)

    def store(r: slice, c: slice, tile: Array) -> None:
        out[r, c] = tile
        if op.symmetric:  # what is right of the diagonal block is mirrored below it
            start = max(r.stop, c.start)
            out[start : c.stop, r] = tile[:, start - c.start :].T.conj()

    form_tiles(op, plan, budget, store, out.nbytes)
    return out


def fitting_plan(op: Operator, budget: float, size: float = 0.0) -> TilePlan:
    """:func:`dense_plan`, or a MemoryError if it holds more than the budget."""
    plan = dense_plan(op, budget, size)
    if plan.held > budget:
        raise MemoryError(
            f"forming a dense {op.shape[0]} x {op.shape[1]} {op.dtype} matrix takes "
            f"{plan.held / 1e9:.3g} GB, over the budget of {budget / 1e9:.3g} GB"
        )
    return plan


def form_tiles(
    op: Operator,
    plan: TilePlan,
    budget: float,
    store: Callable[[slice, slice, Array], None],
    size: float,
) -> None:
    """Form all tiles, of a symmetric operator those on and above the diagonal.

    Several threads `store` them, each with entries of its own, in a matrix of `size` bytes.
    """
    m, n = op.shape

    def pieces() -> Iterable[tuple[slice, slice]]:
        if plan.rows == plan.cols:
            return tiles(m, n, op.symmetric, plan.rows)
        slabs = row_slices(m, 1, plan.rows)
        return ((r, slice(r.start if op.symmetric else 0, n)) for r in slabs)

    def form(mine: Iterator[tuple[slice, slice]]) -> None:
        for r, c in mine:
            tile = op._block(r, c)
            store(r, c, tile)
            del tile  # before the next one is formed

    passing = plan.held - size  # what one tile takes on the way
    if plan.held + (threads.count() - 1) * passing > budget:
        passing = math.inf  # one thread
    over_items(pieces, form, plan.cost.flops, *leaves(op), sums=passing)


class Tiled(Composite):
    """An operator evaluated from its exact sub-blocks, one tile per thread at a time.

    Parameters
    ----------
    op : Operator
        Whose :meth:`Operator.block` is cheap (a Gram, a Hadamard product, sums of them).

    See Also
    --------
    opflow.materialise : Makes these with ``how="tiled"``.
    opflow.TiledHadamard : Entry-wise products in tiles.

    Notes
    -----
    A product forms every tile (only the symmetric half where that is known) and applies it to
    all columns: N²·(flops an entry)/2 + 2·N² a column, no N × N array.  Wins over the factored
    form for many columns at once.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.materialise(of.Gram(np.eye(3)), how="tiled")
    >>> type(K).__name__, K @ np.ones(3)
    ('Tiled', array([1., 1., 1.]))
    """

    row_access = False

    def __init__(self, op: Operator) -> None:
        self.op = op
        tags = {"symmetric": op.symmetric, "psd": op.psd}
        super().__init__([op], op.shape, op.dtype, dims=op.dims, dimsd=op.dimsd, **tags)

    def _formula(self) -> str:
        return f"tiled({self.op.symbol})"

    def cost(self, columns: int = 1) -> Cost:
        return tiled_cost(self.op, columns)

    def _matmat(self, X: Array) -> Array:
        return tiled_product(self.op, X)

    def _rmatmat(self, X: Array) -> Array:
        return tiled_product(self.op, X, adjoint=True)

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.op._block(rows, cols)

    def _diagonal(self) -> Array:
        return self.op._diagonal()


product_bytes.register(Tiled, tiled_product_bytes)


@block_work.register
def _block_work(op: Tiled, rows: int, cols: int) -> Work:
    return block_work(op.op, rows, cols)
