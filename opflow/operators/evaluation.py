"""How an operator is evaluated: factored, in tiles, or dense, as asked or by the cost model.

Nothing is approximated and nothing is chosen silently: an operator stays factored until
:func:`materialise` is called, and what that returns says in its type what it is.
"""

from __future__ import annotations

from typing import Any

from opflow.operators.khatri_rao import block_flops, tiled_product
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.rows import dense_allowed, op_namespace, parse_memory, tiles

#: flops done in the time one byte is moved (about 5 on current processors); weighs a dense
#: product, which only reads memory, against a factored one, which is all GEMM
FLOPS_PER_BYTE = 5.0


class Tiled(Operator):
    """An operator evaluated from its exact sub-blocks, one tile at a time.

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
        super().__init__(op.shape, op.dtype, symmetric=op.symmetric, psd=op.psd,
                         dims=op.dims, dimsd=op.dimsd)  # fmt: skip

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.op,)

    @property
    def symbol(self) -> str:
        return f"tiled({self.op.symbol})"

    def cost(self, columns: int = 1) -> Cost:
        half = 0.5 if self.symmetric else 1.0
        m, n = self.shape
        flops = m * n * (half * block_flops(self.op) + 2.0 * columns)
        return Cost(flops, self.op.cost(0).bytes + self._vector_bytes(columns))

    def _matmat(self, X: Any) -> Any:
        return tiled_product(self.op, X)

    def _rmatmat(self, X: Any) -> Any:
        return tiled_product(self.op, X, adjoint=True)

    def _block(self, rows: Any, cols: Any) -> Any:
        return self.op._block(rows, cols)

    def _diagonal(self) -> Any:
        return self.op._diagonal()


def materialise(
    op: Operator,
    *,
    products: int | None = None,
    columns: int = 1,
    memory: float | str | None = None,
    how: str | None = None,
) -> Operator:
    """The same operator, evaluated the cheapest way for the work ahead.

    Parameters
    ----------
    op : Operator
    products : int, optional
        How many products will be asked for.  Without it, and without `how`, the operator is
        returned as it is: factored.
    columns : int, default 1
        Vectors in each product.
    memory : float or str, optional
        Bytes the evaluation may hold (``"4GB"``); half of what is free by default.
    how : {"factored", "tiled", "dense"}, optional
        Ask for one way instead of letting the cost model choose.

    Returns
    -------
    Operator
        `op` itself, a :class:`Tiled`, or a dense :class:`Matrix` with the same tags.

    Raises
    ------
    ValueError
        If `how` is none of these, or `products` or `columns` is not positive.
    MemoryError
        If ``how="dense"`` does not fit in `memory`; nothing was allocated.

    Notes
    -----
    The model compares flops, with bytes weighed at 5 flops each: factored costs
    ``products · op.cost(columns)``, tiled ``products · (N²/2 · entry + 2N² · columns)``, dense
    ``N²/2 · entry`` once and then N² entries read a product.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.ones((50, 400)))
    >>> type(of.materialise(K, products=100)).__name__
    'Matrix'
    >>> of.materialise(K) is K
    True
    """
    for name, value in (("products", products), ("columns", columns)):
        if value is not None and not value >= 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    if how not in (None, "factored", "tiled", "dense"):
        raise ValueError(f"how must be 'factored', 'tiled' or 'dense', not {how!r}")
    if how is None:
        how = "factored" if products is None else _cheapest(op, products, columns, memory)
    if how == "factored":
        return op
    if how == "tiled":
        return Tiled(op)
    return Matrix(dense(op, memory), symmetric=op.symmetric, psd=op.psd, symbol=op.symbol)


def dense(op: Operator, memory: float | str | None = None) -> Any:
    """The dense matrix from tiles; of a symmetric operator half is computed and mirrored."""
    if not op.symmetric:
        return op.todense(memory=memory)
    dense_allowed(op.shape, op.dtype, memory)
    out = op_namespace(op).empty(op.shape, dtype=op.dtype)
    for r, c in tiles(op.shape[0], op.shape[1], True, 3 * op.dtype.itemsize):
        out[r, c] = op._block(r, c)
        if r != c:
            out[c, r] = out[r, c].T
    return out


def _cheapest(op: Operator, products: int, columns: int, memory: float | str | None) -> str:
    m, n = op.shape
    stored = float(m) * n * op.dtype.itemsize
    tiled = Tiled(op).cost(columns).flops
    prices = {"factored": products * _price(op.cost(columns)), "tiled": products * tiled}
    if stored <= parse_memory(memory):
        forming = tiled - 2.0 * m * n * columns
        prices["dense"] = forming + products * _price(Cost(2.0 * m * n * columns, stored))
    return min(prices, key=lambda how: prices[how])


def _price(cost: Cost) -> float:
    """Flops, or the flops that could have been done while the bytes moved."""
    return max(cost.flops, FLOPS_PER_BYTE * cost.bytes)
