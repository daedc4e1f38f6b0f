"""Products with a row-wise Khatri–Rao product ``F = A ⊙ B``, by the class of A.

The rules here are for any A: matrix products with one of A and B, whose other side is scaled row by
row.  Gates have rules of their own, through tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import iadd
from typing import TYPE_CHECKING, Any

import numpy as np

from opflow.machine.arrays import Array, namespace
from opflow.machine.workspace import workspace_bytes
from opflow.operators.by_class import by_class
from opflow.operators.operator import Cost, Operator

if TYPE_CHECKING:
    from opflow.operators.khatri_rao import KhatriRao

#: most flops of a product that is made in one block by two plain GEMMs: BLAS may thread larger
#: ones, and their bits would depend on what other threads do
SMALL = 1e6


@by_class
def product_cost(A: Operator, F: KhatriRao, columns: int) -> Cost:
    """The cost of a product with ``F = A ⊙ B``."""
    scaled, gemm = F._sides
    width = columns * scaled.shape[1]
    product = gemm.cost(width)
    stored = F.A.cost(0).bytes + F.B.cost(0).bytes + F._vector_bytes(columns)
    return Cost(product.flops + 2.0 * F.shape[0] * width, stored, product.sparse)


@by_class
def push(A: Operator, F: KhatriRao, X: Array) -> Array:
    """``F X`` for ``F = A ⊙ B``."""
    xp = namespace(X)
    dtype = X.dtype
    c = X.shape[1]
    k = F.repeat
    scaled, gemm = F._sides
    width = scaled.shape[1]
    by_column = X.reshape(F.A.shape[1], F.B.shape[1], c)
    order = (1, 2, 0) if F._scale_a else (0, 2, 1)
    right = by_column.transpose(order).reshape(gemm.shape[1], c * width)
    out = xp.empty((F.shape[0], c), dtype=dtype)

    def push_rows(blocks: Iterable[slice]) -> None:
        work = None
        for s in blocks:
            rows = F._samples(s)
            factor = scaled.rows(rows).astype(dtype, copy=False)
            if gemm.sparse:
                pushed = gemm.data[s] @ right
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

    F._over_samples(push_rows, X)
    return out


@by_class
def pull(A: Operator, F: KhatriRao, X: Array) -> Array:
    """``Fᵀ X`` for ``F = A ⊙ B``."""
    xp = namespace(X)
    dtype = X.dtype
    c = X.shape[1]
    k = F.repeat
    scaled, gemm = F._sides
    width = scaled.shape[1]

    def pull_rows(blocks: Iterable[slice]) -> Array:
        total: Any = None
        part = work = None
        for s in blocks:
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
                part = (gemm.data[s].T @ left).T
                total = part if total is None else total + part
            elif not gemm.row_access:  # `s` is all samples
                total = gemm.rmatmat(left.conj()).conj().T
            elif total is None:
                total = left.T @ gemm.rows(s)
            else:
                part = xp.empty_like(total) if part is None else part
                total += xp.matmul(left.T, gemm.rows(s), out=part)
        return total

    sums = 2.0 * F.shape[1] * c * dtype.itemsize
    total = reduce(iadd, F._over_samples(pull_rows, X, sums)).reshape(c, width, gemm.shape[1])
    return total.transpose((1, 2, 0) if F._scale_a else (2, 1, 0)).reshape(-1, c)


@by_class
def push_pull(A: Operator, F: KhatriRao, X: Array) -> Array:
    """``F Fᵀ X`` for ``F = A ⊙ B``."""
    n, c = X.shape
    sides = F._arrays
    small = n * F._block_width(c) * X.dtype.itemsize <= workspace_bytes()
    if sides is None or not small or F.repeat > 1 or F._flops(c) > SMALL:
        return push(A, F, pull(A, F, X))
    factor, other = sides  # one block, on one thread
    left = factor * X if c == 1 else factor[:, None, :] * X[:, :, None]
    sums = left.reshape(n, -1).T @ other
    pushed = (other @ sums.T).reshape(n, c, -1)
    return np.einsum("bn,bcn->bc", factor, pushed)
