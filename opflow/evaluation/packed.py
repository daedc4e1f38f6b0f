"""Symmetric matrices in half the memory: blocks of rows, each from its diagonal block on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce
from operator import iadd
from typing import Any

import numpy as np

from opflow.evaluation.dense import fitting_plan, form_tiles
from opflow.machine.arrays import Array, Data, Index, check_real, namespace
from opflow.machine.native import native
from opflow.machine.threads import PER_BYTE, bytes_over_rows, count, over_items, over_rows
from opflow.machine.workspace import op_namespace, range_workspace
from opflow.operators.indexing import checked_index
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import array_bytes, block_work, product_bytes, stored_block

#: rows of a block
HEIGHT = 128
#: bytes of a tile of a block, which stays in cache while it is used twice
TILE = 256 << 10
#: rows · columns · vectors up to which OpenBLAS (AVX-512) multiplies without repacking the tile
SMALL = 10**6
#: columns of a tile below which the calls themselves take too long
NARROWEST = 192
#: vectors up to which the extension multiplies them in less time than BLAS
FEW = 40


class PackedSymmetric(Operator):
    r"""A symmetric dense matrix, of which only the blocks on and above the diagonal are stored.

    Parameters
    ----------
    data : array (packed_size(n),)
        All blocks of 128 rows, one after the other in one buffer. Block b is stored by rows and
        holds rows 128·b, 128·b + 1, … from column 128·b to the last. float32 or float64.
    n : int
        Order of the matrix.
    psd : bool, default False
        Whether the matrix is known to be positive semidefinite. It is not checked.
    symbol : str, optional

    See Also
    --------
    opflow.materialise : Forms these with ``how="packed"``.
    opflow.Matrix : All entries, as one array.
    opflow.Tiled : No entries: each product forms them anew.

    Notes
    -----
    Holds N²/2 + 64·N numbers, so a memory limit admits an order √2 times larger than that of
    the full matrix.  A product uses each tile T of rows i and columns j > i twice,

    .. math:: Y_i \mathrel{+}= T X_j, \qquad Y_j \mathrel{+}= T^\top X_i,

    while it is in cache.  It costs 2·N² flops per column, and each thread adds up a sum of its own.
    From N = 5,000 on, forming took 0.65 to 1 times as long as the full matrix on two cores.  With 2
    to 24 columns a product took 0.35 to 1 times as long, with 200 1.2 times (AVX2: up to 40 columns
    by the extension in C).  On AVX-512, where BLAS multiplies tiles, it was 0.3 to 1 times with 2
    to 40 columns, 1 to 1.3 times with 64, and up to 1.9 times with one vector on two threads.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.materialise(of.Gram(np.ones((1000, 3))), how="packed")
    >>> K
    <1000x1000 PackedSymmetric M Mᵀ float64 psd>
    >>> K.data.size, K.trace(), (K @ np.ones(1000))[:2]
    (562752, np.float64(3000.0), array([3000., 3000.]))
    """

    row_access = True

    def __init__(self, data: Data, n: int, *, psd: bool = False, symbol: str | None = None) -> None:
        self.data = check_real(data, "data")
        if self.data.shape != (packed_size(n),):
            raise ValueError(
                f"data must have the shape ({packed_size(n)},) for a matrix of order {n}, "
                f"not {self.data.shape}"
            )
        super().__init__((n, n), self.data.dtype, symmetric=True, psd=psd, symbol=symbol or "M")

    def cost(self, columns: int = 1) -> Cost:
        n = self.shape[0]
        width = self.width(columns)
        tiles = n * n / (2 * HEIGHT * width)
        # Each tile adds to its part of the result twice: read, added to, written.
        sums = 3 * tiles * array_bytes(self, HEIGHT + width, columns)
        moved = self.data.nbytes + sums + self._vector_bytes(columns)
        return Cost(2.0 * n * n * columns, moved)

    def width(self, columns: int) -> int:
        """Columns of a tile that BLAS multiplies with so many vectors."""
        most = TILE // (HEIGHT * self.data.itemsize)
        small = SMALL // (HEIGHT * max(columns, 1))
        return min(most, small) if small >= NARROWEST else most

    def strip(self, b: int) -> Array:
        """Rows 128·b up to 128·(b + 1) from column 128·b on: a view."""
        n = self.shape[0]
        start = b * HEIGHT
        rows = min(HEIGHT, n - start)
        return self.data[_before(n, b) :][: rows * (n - start)].reshape(rows, n - start)

    def store(self, rows: slice, cols: slice, tile: Array) -> None:
        """Write those entries of a tile that are stored."""
        for b in range(rows.start // HEIGHT, -(-rows.stop // HEIGHT)):
            start = b * HEIGHT
            i, j = max(rows.start, start), max(cols.start, start)
            to = min(rows.stop, start + HEIGHT)
            part = tile[i - rows.start : to - rows.start, j - cols.start :]
            self.strip(b)[i - start : to - start, j - start : cols.stop - start] = part

    def _strips(self) -> Iterator[tuple[slice, Array]]:
        for b in range(-(-self.shape[0] // HEIGHT)):
            strip = self.strip(b)
            yield slice(b * HEIGHT, b * HEIGHT + len(strip)), strip

    def _matmat(self, X: Array) -> Array:
        n, columns = X.shape
        flops = max(2.0 * n * n * columns, PER_BYTE * self.data.nbytes)
        if self._native(X):
            return self._in_c(X, flops)
        width = self.width(columns) if isinstance(X, np.ndarray) else n
        pieces = partial(self._pieces, width)
        product = partial(_product, X)
        return reduce(iadd, over_items(pieces, product, flops, self.data, sums=float(X.nbytes)))

    def _native(self, X: Array) -> bool:
        """Whether the extension multiplies it: few vectors, on a processor where BLAS is slower."""
        return (
            native is not None
            and bool(native.multiplies_packed)
            and 0 < X.shape[1] <= FEW
            and isinstance(self.data, np.ndarray)
            and X.dtype == self.data.dtype
            and self.data.flags.c_contiguous
        )

    def _in_c(self, X: Array, flops: float) -> Array:
        n, columns = X.shape
        sums = float(X.nbytes)
        shares = count()
        while shares > 1 and range_workspace(shares, sums) is None:
            shares -= 1
        rows = -(-n // HEIGHT) * HEIGHT
        XT = np.zeros((columns, rows), dtype=X.dtype)
        XT[:, :n] = X.T

        def product(share: slice) -> Array:
            YT = np.zeros_like(XT)
            native.packed(
                X.itemsize, n, columns, share.start, share.stop, shares, self.data, XT, YT
            )
            return YT

        YT = reduce(iadd, over_rows(shares, product, flops, self.data, sums=sums))
        return np.ascontiguousarray(YT[:, :n].T)

    def _pieces(self, width: int) -> Iterator[tuple[slice, slice, Array]]:
        n = self.shape[0]
        for r, strip in self._strips():
            yield r, r, strip[:, : len(strip)]
            for start in range(r.stop, n, width):
                c = slice(start, min(start + width, n))
                yield r, c, strip[:, c.start - r.start : c.stop - r.start]

    def rows(self, index: Index) -> Array:
        return self._block(checked_index(index, self.shape[0], "rows"), slice(0, self.shape[0]))

    def _block(self, rows: Index, cols: Index) -> Array:
        xp = op_namespace(self)
        n = self.shape[0]
        if not all(isinstance(index, slice) and index.step is None for index in (rows, cols)):
            i, j = xp.arange(n)[rows][:, None], xp.arange(n)[cols]
            i, j = xp.minimum(i, j), xp.maximum(i, j)
            b = i // HEIGHT
            return self.data[_before(n, b) + (i % HEIGHT) * (n - b * HEIGHT) + j - b * HEIGHT]
        out = xp.empty([max(s.stop - s.start, 0) for s in (rows, cols)], dtype=self.dtype)
        for r, strip in self._strips():
            # what the strip has of the rows, and by symmetry of the columns
            for part, other, result in ((rows, cols, out), (cols, rows, out.T)):
                i = slice(max(part.start, r.start), min(part.stop, r.stop))
                j = slice(max(other.start, r.start), other.stop)
                if i.start < i.stop and j.start < j.stop:
                    found = strip[i.start - r.start : i.stop - r.start, j.start - r.start :]
                    to = result[i.start - part.start : i.stop - part.start, j.start - other.start :]
                    to[:] = found[:, : j.stop - j.start]
        return out

    def _diagonal(self) -> Array:
        return op_namespace(self).concatenate([strip.diagonal() for _, strip in self._strips()])


def pack(op: Operator, budget: float) -> PackedSymmetric:
    """The symmetric `op` with its entries formed once; a MemoryError before that if over budget."""
    if not op.symmetric:
        raise ValueError(
            f"how='packed' needs an operator that is known to be symmetric, not {op!r}"
        )
    plan = fitting_plan(op, budget, packed_stand_in(op).data.nbytes)
    xp = op_namespace(op)
    data = xp.empty(packed_size(op.shape[0]), dtype=op.dtype)
    packed = PackedSymmetric(data, op.shape[0], psd=op.psd, symbol=op.symbol)
    form_tiles(op, plan, budget, packed.store, data.nbytes)
    for _, strip in packed._strips():
        corner = strip[:, : len(strip)]  # its lower half may not have been formed
        corner[:] = xp.triu(corner) + xp.triu(corner, 1).T
    return packed


def _product(X: Array, tiles: Iterator[tuple[slice, slice, Array]]) -> Array:
    """What some tiles, given with their rows and columns, make of X."""
    out = namespace(X).zeros(X.shape, dtype=X.dtype)
    for r, c, tile in tiles:
        tile = tile.astype(X.dtype, copy=False)
        out[r] += tile @ X[c]
        if r is not c:
            out[c] += tile.T @ X[r]
    return out


def packed_stand_in(op: Operator) -> PackedSymmetric:
    """A packed matrix of the order and dtype of `op`, which occupies no memory."""
    xp = op_namespace(op)
    zeros = xp.broadcast_to(xp.zeros((), dtype=op.dtype), (packed_size(op.shape[0]),))
    return PackedSymmetric(zeros, op.shape[0], psd=op.psd, symbol=op.symbol)


def packed_size(n: int) -> int:
    """Numbers stored of a matrix of order `n`."""
    return _before(n, n // HEIGHT) + (n % HEIGHT) ** 2


def _before(n: int, b: Any) -> Any:
    """Numbers stored of the first `b` blocks of rows."""
    return HEIGHT * (b * n - HEIGHT * (b * (b - 1) // 2))


block_work.register(PackedSymmetric, stored_block)


@product_bytes.register
def _product_bytes(op: PackedSymmetric, columns: int) -> float:
    vectors = array_bytes(op, op.shape[0], columns)
    tile = 2.0 * TILE + array_bytes(op, HEIGHT + op.width(columns), columns)
    return 3 * vectors + bytes_over_rows(tile, vectors + tile)
