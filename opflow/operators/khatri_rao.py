"""Row-wise Khatri–Rao products ``A ⊙ B``, whose Gram is the Hadamard product of two Grams.

``(A Aᵀ) ∘ (B Bᵀ) = (A ⊙ B)(A ⊙ B)ᵀ``: this identity carries the speed, for a product then costs
two matrix products instead of an N × N array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import add
from typing import Any, TypeGuard

import numpy as np

from opflow.machine.arrays import Array, Data, Index, check_real, namespace
from opflow.machine.streams import prefetched
from opflow.machine.threads import bytes_over_rows, cached_property, over_rows
from opflow.machine.workspace import op_namespace, operator_module, row_data, row_slices
from opflow.operators.algebra import Sum
from opflow.operators.composite import Composite, unify
from opflow.operators.entries import (
    column_squares,
    cross_block,
    cross_diagonal,
    gram_block,
    gram_diagonal,
    gram_product,
)
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import Work, array_bytes, gram_work, product_bytes
from opflow.operators.row_products import product_cost, pull, push, push_pull
from opflow.operators.rules import as_operator, is_operator


class KhatriRao(Composite):
    r"""The row-wise Khatri–Rao (face-splitting) product ``A ⊙ B``, whose row μ is ``A_μ ⊗ B_μ``.

    Parameters
    ----------
    A : array (N·k, p) or (N, k, p), sparse matrix, or operator
        With k > 1, each row of B goes with k consecutive rows of A (k outputs a sample).
    B : array (N, q), sparse matrix, or operator
    symbol : str, optional

    See Also
    --------
    opflow.jacobian : Made of these, one per layer.
    opflow.Hadamard : Its Gram is ``(A Aᵀ) ∘ (B Bᵀ)``.
    opflow.GramSide : That Gram with one of the two kept dense.
    opflow.Kronecker : The product of all pairs of rows.

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
        # Of `_sides`, one is read row by row and scaled, the other only enters a GEMM: scale the
        # narrower, unless the other cannot be scaled (k rows a sample, sparse, no rows to read).
        a_scales = A.row_access and not A.sparse
        b_scales = B.row_access and not B.sparse
        if a_scales == b_scales:
            a_scales = A.shape[1] <= B.shape[1]
        self._scale_a = self.repeat > 1 or a_scales
        self._sides = (A, B) if self._scale_a else (B, A)
        shape = (A.shape[0], A.shape[1] * B.shape[1])
        super().__init__([A, B], shape, A.dtype, symbol=symbol)

    def _formula(self) -> str:
        return f"{self.A.symbol} ⊙ {self.B.symbol}"

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
        slices = row_slices(samples, width * itemsize, where=operator_module(self))
        return prefetched(slices, *streamed)

    def _over_samples(
        self, work: Callable[[Iterable[slice]], Any], X: Array, sums: float = 0.0
    ) -> list[Any]:
        """`work` of the row blocks of ranges of samples, in threads where several can read rows."""
        gemm = self._sides[1]
        columns = X.shape[1]

        def of_range(samples: slice) -> Any:
            if not gemm.row_access:
                return work([samples])
            return work(self._prefetched(samples, self._block_width(columns), X.dtype.itemsize))

        data = (row_data(self.A), row_data(self.B))
        return over_rows(self.B.shape[0], of_range, self._flops(columns), *data, sums=sums)

    def _flops(self, columns: int) -> float:
        return 2.0 * self.B.shape[0] * self.shape[1] * columns

    def _block_width(self, columns: int) -> int:
        """Numbers that a block of a product holds for a sample."""
        scaled, gemm = self._sides
        return (columns + self.repeat) * scaled.shape[1] + gemm.shape[1]

    @cached_property
    def _arrays(self) -> tuple[Array, Array] | None:
        """`_sides`, if both are arrays in host memory."""
        scaled, gemm = self._sides
        if all(type(op) is Matrix and isinstance(op.data, np.ndarray) for op in self._sides):
            return scaled.data, gemm.data
        return None


@gram_product.register
def _gram_product(F: KhatriRao, X: Array) -> Array:
    return push_pull(F.A, F, X)


@product_bytes.register
def _product_bytes(F: KhatriRao, columns: int) -> float:
    # Operand and result of the GEMM, in the other order and summed over row blocks.
    rows = 2 * array_bytes(F, F.B.shape[0], F._block_width(columns))
    if F._sides[1].row_access:
        rows = bytes_over_rows(rows, 2 * array_bytes(F, F.shape[1], columns))
    return 3 * array_bytes(F, max(F.shape), columns) + rows


# -- entries: (A ⊙ B)(C ⊙ D)ᵀ = (A Cᵀ) ∘ (B Dᵀ), so no row as wide as p · q is formed --


@gram_block.register
def _gram_block(F: KhatriRao, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    block = gram_block(F.A, rows, cols)
    samples = F._sample_index(rows)
    block *= gram_block(F.B, samples, samples if rows is cols else F._sample_index(cols))
    return block


@gram_work.register
def _gram_work(F: KhatriRao, rows: int, cols: int) -> Work:
    left = gram_work(F.A, rows, cols)
    right = gram_work(F.B, rows, cols)
    size = array_bytes(F, rows, cols)
    copies = (F.repeat > 1) * array_bytes(F, rows + cols, F.B.shape[1])
    cost = left.cost + right.cost + (float(rows * cols), size)
    return Work(cost, max(left.held, size + right.held + copies))


@gram_diagonal.register
def _gram_diagonal(F: KhatriRao, weights: Array | None = None) -> Array:
    if weights is None:
        return gram_diagonal(F.A) * gram_diagonal(F.B).repeat(F.repeat)
    parts = []
    W = weights.reshape(F.A.shape[1], F.B.shape[1])
    for s, left in _squares(F):
        right = F.B.rows(s) ** 2 @ W.T
        parts.append((left * right[:, None]).sum(axis=2).reshape(-1))
    return namespace(*parts).concatenate(parts)


def _squares(F: KhatriRao) -> Iterator[tuple[slice, Array]]:
    """Blocks of samples, and the squares of A for them, (samples, k, p)."""
    p = F.A.shape[1]
    width = p * F.repeat + F.B.shape[1]
    for s in F._prefetched(F.B.shape[0], 3 * width, F.dtype.itemsize):
        yield s, (F.A.rows(F._samples(s)) ** 2).reshape(-1, F.repeat, p)


@column_squares.register
def _column_squares(F: KhatriRao) -> Array:
    total: Any = 0
    for s, squares in _squares(F):
        left = squares.sum(axis=1)
        if F.B.sparse:
            right = F.B.data[s]
            total = total + (right.multiply(right).T @ left).T
        else:
            total = total + left.T @ F.B.rows(s) ** 2
    return total.reshape(-1)


@cross_block.register
def _cross_block(F: KhatriRao, G: Operator, rows: Index, cols: Index) -> Array:
    if isinstance(G, Sum):
        return reduce(add, (cross_block(F, term, rows, cols) for term in G.parts))
    if not _aligned(F, G):
        return NotImplemented
    block = cross_block(F.A, G.A, rows, cols)
    return block * cross_block(F.B, G.B, F._sample_index(rows), G._sample_index(cols))


@cross_diagonal.register
def _cross_diagonal(F: KhatriRao, G: Operator) -> Array:
    if isinstance(G, Sum):
        return reduce(add, (cross_diagonal(F, term) for term in G.parts))
    if not _aligned(F, G):
        return NotImplemented
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
