"""The diagonal, the entries and the Frobenius norm: exact where that is cheaper than products.

Prices are those of the cost model (:func:`opflow.operators.prices.block_work`) at the nominal
rates of no machine in particular, so that a number is exact or estimated alike everywhere.
"""

from __future__ import annotations

import numpy as np

from opflow.evaluation.dense import dense, dense_plan
from opflow.evaluation.function_gram import FunctionGram
from opflow.machine.arrays import Array
from opflow.machine.cost import NOMINAL
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.workspace import op_namespace, row_slices, tile_side, tiles
from opflow.operators.algebra import Product, Sum
from opflow.operators.composite import Adjoint, Scaled
from opflow.operators.entries import entries_are_cheap
from opflow.operators.gram import Gram
from opflow.operators.hadamard import TiledHadamard
from opflow.operators.kronecker import Kronecker
from opflow.operators.mask import Mask
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import block_work, gram_work
from opflow.spectral.blocks import distribution_of, divisor, finite, largest_entry, on_host
from opflow.spectral.checks import DENSE


def is_cheaper(exact: Cost, op: Operator, products: int) -> bool:
    """Whether what costs `exact` takes no longer than `products` products of `op`, or op is small.

    Small is an order of at most `DENSE`: then even products with the identity are quick.
    """
    if op.shape[0] <= DENSE:
        return True
    estimate = NOMINAL.seconds(op.cost(products), op.dtype)
    return NOMINAL.seconds(exact, op.dtype) <= estimate


def use_diagonal(op: Operator, products: int) -> bool:
    """Whether the exact diagonal of `op` takes no longer than `products` products."""
    if not distribution_of(op).sharded:
        return is_cheaper(diagonal_cost(op), op, products)
    # Costs are those of this rank alone: structure gives the diagonal, or it does not.
    return diagonal_products(op) == 0 or (not op.space.sharded and op.shape[0] <= DENSE)


def use_entries(op: Operator, products: int) -> bool:
    """Whether a pass over all entries of `op` takes no longer than `products` products."""
    if distribution_of(op).sharded:
        return False
    # every entry once, the symmetric half where it can be
    return is_cheaper(dense_plan(op).cost + Cost(2.0 * op.shape[0] ** 2, 0.0), op, products)


def forming_products(op: Operator) -> int:
    """Products that the entries of `op` take: n for a black box, else none."""
    return 0 if entries_are_cheap(op) else op.shape[0]


def diagonal_products(op: Operator) -> int:
    """Products that the diagonal of `op` takes: n for a black box, else none."""
    if isinstance(op, Sum | Scaled):
        return max(map(diagonal_products, op.operands))
    if isinstance(op, Product) and op.is_gram:
        op = op.operands[0]
    return forming_products(op)


def matrix_of(op: Operator, memory: float | str | None = None) -> Array:
    """All entries of `op`; of a sharded one those of the rows of this rank, by n products."""
    n = op.shape[0]
    if op.space.sharded:
        span = op.space.span(n)
        identity = op_namespace(op).eye(span.stop - span.start, n, span.start, dtype=op.dtype)
        return finite(op.matmat(identity), space=op.space)
    if distribution_of(op).sharded:
        return finite(op.todense())
    return finite(dense(op, memory))


def exact_diagonal(op: Operator) -> Array:
    """``op.diagonal()``; of a sharded operator that does not know it, by n products."""
    n = op.shape[0]
    if not (op.space.sharded and diagonal_products(op)):
        return finite(op.diagonal(), space=op.space)
    if n > DENSE:
        raise ValueError(
            f"op is sharded and its structure does not give its diagonal: for an order of "
            f"{n} > {DENSE} it can only be estimated"
        )
    return matrix_of(op).diagonal(op.space.span(n).start)


def diagonal_cost(op: Operator) -> Cost:
    """What ``op.diagonal()`` costs: n entries where blocks are cheap, n products elsewhere."""
    if isinstance(op, Sum | Scaled | TiledHadamard | Kronecker):
        return sum((diagonal_cost(part) for part in op.operands), Cost(0.0, 0.0))
    if isinstance(op, Mask | FunctionGram):
        return op.cost(1).times(1 / op.shape[0])
    if isinstance(op, Product) and not diagonal_products(op):
        # F Fᵀ or Fᵀ F: the factors of every row, and one pass that adds their squares
        F = next((f for f in op.operands if not isinstance(f, Adjoint)), op.operands[0])
        return gram_work(F, 1, 1).cost.times(F.shape[0]) + F.cost(1)
    return block_work(op, 1, 1).cost.times(op.shape[0])


def inner_products(ops: list[Operator], *, change: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """⟨A_i, A_j⟩ = Σ (A_i ∘ A_j) of symmetric operators by one pass over their entries.

    With `change`, the second operator is replaced by its difference from the first, taken entry
    by entry so that nothing cancels.  (len(ops), len(ops)), float64 on the host, and the units
    (len(ops),) that the operators are measured in: no square of an entry leaves the range.
    """
    n = ops[0].shape[0]
    entry_bytes = 8 * (2 + len(ops))  # squares of float32 leave its range: float64
    xp = op_namespace(ops[0])
    if all(map(_by_tiles, ops)):
        pieces = [
            (r, c, 1 if r == c else 2) for r, c in tiles(n, n, True, tile_side(entry_bytes, n))
        ]
    else:
        pieces = [(r, slice(0, n), 1) for r in row_slices(n, entry_bytes * n)]
    sums = []
    peaks = []
    for rows, cols, _ in pieces:
        blocks = [op._block(rows, cols) for op in ops]
        if change:
            blocks[1] = blocks[1] - blocks[0]
        blocks = [block.astype(np.float64, copy=False) for block in blocks]
        peak = xp.stack([abs(block).max() for block in blocks])
        units = divisor(peak)
        blocks = [block / unit for block, unit in zip(blocks, units, strict=True)]
        sums.append(xp.stack([(A * B).sum() for A in blocks for B in blocks]))
        peaks.append(peak)
    peak = on_host(finite(xp.stack(peaks)))
    units = divisor(peak.max(axis=0))
    share = peak / units
    copies = np.array([copies for _, _, copies in pieces])
    products = on_host(xp.stack(sums)).reshape(-1, len(ops), len(ops))
    return np.einsum("t,tij,ti,tj->ij", copies, products, share, share), units


def _by_tiles(op: Operator) -> bool:
    """Whether tiles of the symmetric half are cheaper to form than whole rows."""
    rows, cols, *_ = dense_plan(op)
    return entries_are_cheap(op) and rows == cols


def entries_norm(op: Operator, products: int) -> tuple[float, int] | None:
    """The exact ‖op‖_F of a symmetric operator and the products it took.

    ``None`` if structure does not give it cheaper than `products`.
    """
    if isinstance(op, Scaled):
        inner = entries_norm(op.operands[0], products)
        return inner and (abs(op.scalar) * inner[0], inner[1])
    if distribution_of(op).sharded:
        return _sharded_norm(op, products)
    if isinstance(op, Matrix) and op.sparse:
        return _norm(op.data.data), 0
    if isinstance(op, Gram) and op.factor.row_access and not op.factor.sparse:
        n, width = op.factor.shape
        small = Cost(2.0 * n * width**2, float(width) ** 2 * op.dtype.itemsize)
        if width < n and is_cheaper(small + op.factor.cost(0), op, products):
            return _gram_norm(op), 0
    if use_entries(op, products):
        square, units = inner_products([op])
        return float(units[0] * square[0, 0] ** 0.5), forming_products(op)
    return None


def _norm(A: Array, space: RowDistribution = LOCAL) -> float:
    """The norm of all entries; no square of one leaves the range of float64."""
    peak = largest_entry(A, space)
    if not peak:
        return 0.0
    return peak * float(space.total(((A / peak) ** 2).sum(dtype=np.float64))) ** 0.5


def _sharded_norm(op: Operator, products: int) -> tuple[float, int] | None:
    """The norm from no more than `products` columns: of op, or of FᵀF if it is a Gram."""
    n = op.shape[0]
    if n <= products:
        return _norm(matrix_of(op), op.space), n
    if isinstance(op, Gram) and op.weights is None and not op.factor.domain.sharded:
        width = op.factor.shape[1]
        if width <= products:
            return _norm(matrix_of(op.factor.T @ op.factor)), width
    return None


def _gram_norm(op: Gram) -> float:
    """‖F diag(w) Fᵀ‖_F = ‖diag(√w) M diag(√w)‖_F with the small M = FᵀF.

    Terms of weights of both signs may cancel: then ‖R diag(w) Rᵀ‖_F, with R of F = Q R.
    """
    height, width = op.factor.shape
    xp = op_namespace(op)
    M = xp.zeros((width, width), dtype=op.dtype)
    for s in row_slices(height, 3 * width * op.dtype.itemsize):
        rows = op.factor.rows(s)
        if op.psd:
            M += rows.T @ rows
        else:
            M = xp.linalg.qr(finite(xp.concatenate([M, rows])), mode="r")
    M = M.astype(np.float64, copy=False)
    if not op.psd:
        M = (M * op.weights) @ M.T
    elif op.weights is not None:
        roots = op.weights.astype(np.float64) ** 0.5
        M = M * roots * roots[:, None]
    return _norm(finite(M))
