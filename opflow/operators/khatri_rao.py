"""Row-wise Khatri–Rao products ``A ⊙ B``, whose Gram is the Hadamard product of two Grams.

``(A Aᵀ) ∘ (B Bᵀ) = (A ⊙ B)(A ⊙ B)ᵀ``: this identity carries the speed, for a product then costs
two matrix products instead of an N × N array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import singledispatch
from typing import Any, TypeGuard

import numpy as np

from opflow.machine.arrays import Array, Data, Index, check_real, namespace
from opflow.machine.streams import prefetched
from opflow.machine.threads import bytes_over_rows, over_rows
from opflow.machine.workspace import op_namespace, row_data, row_slices
from opflow.operators.algebra import Sum, as_operator, is_operator, unify
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    cross_block,
    cross_diagonal,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import Work, array_bytes, gram_work, product_bytes


class KhatriRao(Operator):
    r"""The row-wise Khatri–Rao (face-splitting) product ``A ⊙ B``: row μ is ``A_μ ⊗ B_μ``.

    Parameters
    ----------
    A : array (N·k, p) or (N, k, p), sparse matrix, or operator
        With k > 1, each row of B goes with k consecutive rows of A (k outputs a sample).
    B : array (N, q), sparse matrix, or operator
    symbol : str, optional

    Notes
    -----
    With rows a_μ and b_μ and a p × q matrix M,

    .. math:: (A \odot B)^T r = \mathrm{vec}(A^T \mathrm{diag}(r) B), \qquad
              ((A \odot B)\,\mathrm{vec}(M))_\mu = a_\mu^T M b_\mu,

    with vec in C order: one GEMM of 2·N·p·q flops each way and a column, plus 2·N·k·p element
    operations.  With k rows of A a sample, A is contracted with r over those k rows *before* the
    GEMM, so the GEMM's cost does not grow with k.  Rows are visited in blocks; the workspace
    does not grow with N (it does, as N·p, if B is an operator whose rows cannot be read).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.KhatriRao(np.array([[1.0, 2.0]]), np.array([[3.0, 5.0]])).todense()
    array([[ 3.,  5.,  6., 10.]])
    """

    def __init__(self, A: Data, B: Data, *, symbol: str | None = None) -> None:
        A, B = unify([as_rows(A), as_operator(B)])
        self.A = A
        self.B = B
        self.repeat, rest = divmod(A.shape[0], B.shape[0])
        if rest or not self.repeat:
            raise ValueError(
                f"A has {A.shape[0]} rows, which is not a multiple of the {B.shape[0]} rows of B"
            )
        # One side is read row by row and scaled, the other only enters a GEMM: scale the
        # narrower, unless the other cannot be scaled (k rows a sample, sparse, no rows to read).
        a_scales = A.row_access and not A.sparse
        b_scales = B.row_access and not B.sparse
        narrower = A.shape[1] <= B.shape[1]
        self._scale_a = self.repeat > 1 or (narrower if a_scales == b_scales else a_scales)
        dtype = np.result_type(A.dtype, B.dtype)
        super().__init__((A.shape[0], A.shape[1] * B.shape[1]), dtype, symbol=symbol)

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return self.A.row_access and self.B.row_access

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.A, self.B)

    @property
    def symbol(self) -> str:
        return self._symbol or f"{self.A.symbol} ⊙ {self.B.symbol}"

    def cost(self, columns: int = 1) -> Cost:
        return product_cost(self.A, self, columns)

    def _matmat(self, X: Array) -> Array:
        return push(self.A, self, X)

    def _rmatmat(self, X: Array) -> Array:
        return pull(self.A, self, X.conj()).conj()  # the same, where all is real

    def rows(self, index: Index) -> Array:
        left = self.A.rows(index)
        right = self.B.rows(self._sample_index(index))
        return (left[:, :, None] * right[:, None, :]).reshape(len(left), self.shape[1])

    def _sides(self) -> tuple[Operator, Operator]:
        """(the scaled side, the GEMM side)."""
        return (self.A, self.B) if self._scale_a else (self.B, self.A)

    def _samples(self, s: slice) -> slice:
        """Rows of A that belong to the samples `s`."""
        return slice(s.start * self.repeat, s.stop * self.repeat)

    def _sample_index(self, index: Index) -> Index:
        """The samples that these rows of A belong to."""
        if self.repeat == 1:
            return index
        return op_namespace(self).arange(self.shape[0])[index] // self.repeat

    def _prefetched(self, samples: int | slice, width: int, itemsize: int) -> Iterable[slice]:
        """Row blocks of `samples` that hold `width` numbers a sample."""
        # with k rows of A a sample, those of A are other slices
        streamed = (self.A, self.B) if self.repeat == 1 else (self.B,)
        return prefetched(row_slices(samples, width * itemsize), *streamed)

    def _blocks(self, samples: slice, columns: int, itemsize: int) -> Iterable[slice]:
        scaled, gemm = self._sides()
        if not gemm.row_access:
            return [samples]
        width = (columns + self.repeat) * scaled.shape[1] + gemm.shape[1]
        return self._prefetched(samples, width, itemsize)

    def _over_samples(
        self, work: Callable[[slice], Any], columns: int, sums: float = 0.0
    ) -> list[Any]:
        """`work` of ranges of samples, in several threads where rows can be read by several."""
        flops = 2.0 * self.B.shape[0] * self.shape[1] * columns
        return over_rows(
            self.B.shape[0], work, flops, row_data(self.A), row_data(self.B), sums=sums
        )


# -- products, by the class of A ------------------------------------------------------------------


@singledispatch
def product_cost(A: Operator, F: KhatriRao, columns: int) -> Cost:
    """The cost of a product with ``F = A ⊙ B``."""
    scaled, gemm = F._sides()
    width = columns * scaled.shape[1]
    product = gemm.cost(width)
    stored = F.A.cost(0).bytes + F.B.cost(0).bytes + F._vector_bytes(columns)
    return Cost(product.flops + 2.0 * F.shape[0] * width, stored, product.sparse)


@singledispatch
def push(A: Operator, F: KhatriRao, X: Array) -> Array:
    """``F X`` for ``F = A ⊙ B``."""
    xp = namespace(X)
    dtype = X.dtype
    c = X.shape[1]
    k = F.repeat
    scaled, gemm = F._sides()
    width = scaled.shape[1]
    by_column = X.reshape(F.A.shape[1], F.B.shape[1], c)
    order = (1, 2, 0) if F._scale_a else (0, 2, 1)
    right = by_column.transpose(order).reshape(gemm.shape[1], c * width)
    out = xp.empty((F.shape[0], c), dtype=dtype)

    def push_rows(samples: slice) -> None:
        work = None
        for s in F._blocks(samples, c, dtype.itemsize):
            rows = F._samples(s)
            factor = scaled.rows(rows).astype(dtype, copy=False)
            if gemm.sparse:
                pushed = gemm.slab(s) @ right
            elif not gemm.row_access:
                pushed = gemm.matmat(right)
            else:
                b = s.stop - s.start
                if work is None:
                    work = xp.empty((b, c * width), dtype=dtype)
                pushed = xp.matmul(gemm.rows(s), right, out=work[:b])
            pushed = pushed.reshape(-1, c, width)
            if k > 1:
                xp.matmul(
                    factor.reshape(-1, k, width),
                    pushed.transpose(0, 2, 1),
                    out=out[rows].reshape(-1, k, c),
                )
            elif c == 1:
                out[rows, 0] = xp.einsum("bn,bn->b", factor, pushed[:, 0])
            else:
                out[rows] = xp.einsum("bn,bcn->bc", factor, pushed)

    F._over_samples(push_rows, c)
    return out


@singledispatch
def pull(A: Operator, F: KhatriRao, X: Array) -> Array:
    """``Fᵀ X`` for ``F = A ⊙ B``."""
    xp = namespace(X)
    dtype = X.dtype
    c = X.shape[1]
    k = F.repeat
    scaled, gemm = F._sides()
    width = scaled.shape[1]

    def pull_rows(samples: slice) -> Array:
        total: Any = None
        part = work = None
        for s in F._blocks(samples, c, dtype.itemsize):
            rows = F._samples(s)
            factor = scaled.rows(rows)
            r = X[rows]
            b = s.stop - s.start
            if work is None:
                work = xp.empty((b, c, width), dtype=dtype)
            left = work[:b]
            if k > 1:
                r = r.reshape(b, k, c).transpose(0, 2, 1)
                xp.matmul(r, factor.reshape(b, k, width), out=left)
            else:
                xp.multiply(factor[:, None, :], r[:, :, None], out=left)
            left = left.reshape(b, c * width)
            if gemm.sparse:
                part = (gemm.slab(s).T @ left).T
                total = part if total is None else total + part
            elif not gemm.row_access:  # `s` is all samples
                total = gemm.rmatmat(left.conj()).conj().T
            elif total is None:
                total = left.T @ gemm.rows(s)
            else:
                part = xp.empty_like(total) if part is None else part
                total += xp.matmul(left.T, gemm.rows(s), out=part)
        return total

    total, *others = F._over_samples(pull_rows, c, 2.0 * F.shape[1] * c * dtype.itemsize)
    for other in others:
        total += other
    total = total.reshape(c, width, gemm.shape[1])
    return total.transpose((1, 2, 0) if F._scale_a else (2, 1, 0)).reshape(-1, c)


@product_bytes.register
def _product_bytes(F: KhatriRao, columns: int) -> float:
    # Operand and result of the GEMM, in the other order and summed over row blocks.
    scaled, gemm = F._sides()
    width = (columns + F.repeat) * scaled.shape[1] + gemm.shape[1]
    rows = 2 * array_bytes(F, F.B.shape[0], width)
    sums = 2 * array_bytes(F, F.shape[1], columns)
    blocks = bytes_over_rows(rows, sums) if gemm.row_access else rows
    return 3 * array_bytes(F, max(F.shape), columns) + blocks


# -- entries: (A ⊙ B)(C ⊙ D)ᵀ = (A Cᵀ) ∘ (B Dᵀ), so no row as wide as p · q is formed --

entries_are_cheap.register(KhatriRao, cheap_in_operands)


@gram_block.register
def _gram_block(F: KhatriRao, rows: Any, cols: Any, weights: Any = None) -> Array:
    if weights is not None:
        return gram_block.dispatch(Operator)(F, rows, cols, weights)
    block = gram_block(F.A, rows, cols)
    samples = F._sample_index(rows)
    block *= gram_block(F.B, samples, samples if rows is cols else F._sample_index(cols))
    return block


@gram_work.register
def _gram_work(F: KhatriRao, rows: int, cols: int) -> Work:
    left = gram_work(F.A, rows, cols)
    right = gram_work(F.B, rows, cols)
    size = array_bytes(F, rows, cols)
    copies = 0.0 if F.repeat == 1 else array_bytes(F, rows + cols, F.B.shape[1])
    cost = left.cost + right.cost + (float(rows * cols), size)
    return Work(cost, max(left.held, size + right.held + copies))


@gram_diagonal.register
def _gram_diagonal(F: KhatriRao, weights: Any = None) -> Array:
    if weights is None:
        return gram_diagonal(F.A) * gram_diagonal(F.B).repeat(F.repeat)
    parts = []
    W = weights.reshape(F.A.shape[1], F.B.shape[1])
    width = F.A.shape[1] * F.repeat + F.B.shape[1]
    for s in F._prefetched(F.B.shape[0], 3 * width, F.dtype.itemsize):
        right = F.B.rows(s) ** 2 @ W.T
        parts.append((F.A.rows(F._samples(s)) ** 2 * right.repeat(F.repeat, 0)).sum(1))
    return namespace(*parts).concatenate(parts)


@column_squares.register
def _column_squares(F: KhatriRao) -> Array:
    p = F.A.shape[1]
    width = p * F.repeat + F.B.shape[1]
    total: Any = 0
    for s in F._prefetched(F.B.shape[0], 3 * width, F.dtype.itemsize):
        left = (F.A.rows(F._samples(s)) ** 2).reshape(-1, F.repeat, p).sum(axis=1)
        if F.B.sparse:
            right = F.B.slab(s)
            total = total + (right.multiply(right).T @ left).T
        else:
            total = total + left.T @ F.B.rows(s) ** 2
    return total.reshape(-1)


@cross_block.register
def _cross_block(F: KhatriRao, G: Operator, rows: Any, cols: Any) -> Array:
    if isinstance(G, Sum):
        parts = [cross_block(F, term, rows, cols) for term in G.operands]
        return sum(parts[1:], parts[0])
    if not _aligned(F, G):
        return cross_block.dispatch(Operator)(F, G, rows, cols)
    block = cross_block(F.A, G.A, rows, cols)
    return block * cross_block(F.B, G.B, F._sample_index(rows), G._sample_index(cols))


@cross_diagonal.register
def _cross_diagonal(F: KhatriRao, G: Operator) -> Array:
    if isinstance(G, Sum):
        parts = [cross_diagonal(F, term) for term in G.operands]
        return sum(parts[1:], parts[0])
    if not _aligned(F, G):
        return cross_diagonal.dispatch(Operator)(F, G)
    return cross_diagonal(F.A, G.A) * cross_diagonal(F.B, G.B).repeat(F.repeat)


def _aligned(F: KhatriRao, G: Operator) -> TypeGuard[KhatriRao]:
    """Whether the columns of both are the same pairs of columns."""
    if not isinstance(G, KhatriRao):
        return False
    return F.A.shape[1] == G.A.shape[1] and F.B.shape[1] == G.B.shape[1]


def as_rows(A: Data) -> Operator:
    """The operator of an array (N, k, p), k rows a sample, or of whatever is an operator."""
    if getattr(A, "ndim", 2) == 3 and not is_operator(A):
        A = check_real(A, "A")
        A = A.reshape(-1, A.shape[2])
    return as_operator(A)
