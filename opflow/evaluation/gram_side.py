"""The Gram side of a Khatri–Rao kernel: one of its two Grams kept dense, the other as its factor.

``(A Aᵀ) ∘ G`` with G an N × N matrix costs N² times the width of A alone, whatever the width of
the factor that G was made of.
"""

from __future__ import annotations

from opflow.machine.arrays import Array, Data, Index, namespace
from opflow.machine.workspace import op_namespace, row_slices, workspace_bytes
from opflow.operators.composite import Composite, unify
from opflow.operators.describe import bracketed
from opflow.operators.entries import gram_block, gram_diagonal
from opflow.operators.khatri_rao import as_rows
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import Work, array_bytes, block_work, gram_work, product_bytes
from opflow.operators.rules import as_operator
from opflow.operators.tiles import tiled_cost, tiled_product, tiles_bytes

#: features of A in a block of a sweep, at least, so that G times them is a matrix product
LEAST_FEATURES = 16


class GramSide(Composite):
    r"""The kernel ``(A Aᵀ) ∘ G``, with A kept as a factor and G as a matrix.

    Parameters
    ----------
    A : array (N·k, p) or (N, k, p), sparse matrix, or operator
    gram : symmetric operator (N, N)
        Usually ``Matrix(G, psd=True)``; each entry goes with k × k entries of A Aᵀ.
    symbol : str, optional

    See Also
    --------
    opflow.materialise : Makes these with ``how="gram"``.
    opflow.KhatriRao : The factor when G is kept as a factor too.
    opflow.Hadamard : Any entry-wise product.

    Notes
    -----
    With samples μ, ν and outputs a, b,

    .. math:: (K r)_{\mu a} = a_{\mu a} \cdot \sum_\nu G_{\mu\nu} \sum_b r_{\nu b}\, a_{\nu b},

    2·N²·p flops a column for any k; or in tiles of the symmetric half, N²·k²·p flops for all
    columns together and 2·N²·k² a column.  A product takes the way of fewer flops: tiles for
    k = 1.  Wins over the factor of G, of width q, for N below about 2q (4q in tiles).  Beyond
    the operands, tiles hold a workspace a thread; the other way visits the features of A in
    blocks of at least 16, so it holds the workspace or 32·N entries a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> G = of.Matrix(np.array([[2.0, 1.0], [1.0, 2.0]]), psd=True)
    >>> of.GramSide(np.array([[1.0], [3.0]]), G).todense()
    array([[ 2.,  3.],
           [ 3., 18.]])
    """

    row_access = False

    def __init__(self, A: Data, gram: Operator, *, symbol: str | None = None) -> None:
        A, gram = unify([as_rows(A), as_operator(gram)])
        for name, op in (("A", A), ("gram", gram)):
            if op.dtype.kind == "c":
                raise TypeError(f"{name} must be real, not {op.dtype}")
        if not gram.symmetric:
            raise ValueError("gram must be known to be symmetric, as in Matrix(G, psd=True)")
        self.A = A
        self.gram = gram
        self.repeat, rest = divmod(A.shape[0], gram.shape[0])
        if rest or not self.repeat:
            raise ValueError(
                f"A has {A.shape[0]} rows, which is not a multiple of the order of gram, "
                f"{gram.shape[0]}"
            )
        shape = (A.shape[0],) * 2
        super().__init__([A, gram], shape, A.dtype, psd=gram.psd, symmetric=True, symbol=symbol)

    def _formula(self) -> str:
        A, gram = map(bracketed, self.operands)
        return f"{A} {A}ᵀ ∘ {gram}"

    def cost(self, columns: int = 1) -> Cost:
        return min(tiled_cost(self, columns), self._swept_cost(columns))

    def _takes_tiles(self, columns: int) -> bool:
        return tiled_cost(self, columns) <= self._swept_cost(columns)

    def _swept_cost(self, columns: int) -> Cost:
        cost = self.gram.cost(columns * self.A.shape[1])
        both_ways = 4.0 * self.A.shape[0] * self.A.shape[1] * columns
        moved = 2 * self.A.cost(0).bytes + self._vector_bytes(columns)
        return cost + Cost(both_ways, moved)

    def _matmat(self, X: Array) -> Array:
        if self._takes_tiles(X.shape[1]):
            return tiled_product(self, X)
        return self._sweep(X)

    _rmatmat = _matmat

    def _sweep(self, X: Array) -> Array:
        """Features in blocks: scale A by r, apply G, contract with A."""
        xp = namespace(X)
        c = X.shape[1]
        k = self.repeat
        n = self.gram.shape[0]
        p = self.A.shape[1]
        r = X.reshape(n, k, c).transpose(0, 2, 1)
        out = xp.zeros((n, k, c), dtype=X.dtype)
        bytes_per_feature = 2 * n * c * X.dtype.itemsize
        pieces = min(len(row_slices(p, bytes_per_feature)), -(-p // LEAST_FEATURES))
        for cols in row_slices(p, 1, -(-p // pieces)):
            width = cols.stop - cols.start
            scaled = xp.empty((n, c, width), dtype=X.dtype)
            blocks = row_slices(n, (k * p + k * width) * X.dtype.itemsize)
            times = xp.multiply if k == 1 else xp.matmul
            for s in blocks:
                times(r[s], self._features(s, cols), out=scaled[s])
            pushed = self.gram._matmat(scaled.reshape(n, -1)).reshape(scaled.shape)
            for s in blocks:
                out[s] += self._features(s, cols) @ pushed[s].transpose(0, 2, 1)
        return out.reshape(n * k, c)

    def _features(self, samples: slice, cols: slice) -> Array:
        rows = slice(samples.start * self.repeat, samples.stop * self.repeat)
        part = self.A.rows(rows)[:, cols]
        return part.reshape(-1, self.repeat, part.shape[1])

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Index, cols: Index) -> Array:
        block = gram_block(self.A, rows, cols)
        block *= self.gram._block(self._samples(rows), self._samples(cols))
        return block

    def _samples(self, index: Index) -> Index:
        if self.repeat == 1:
            return index
        return op_namespace(self).arange(self.shape[0])[index] // self.repeat

    def _diagonal(self) -> Array:
        return gram_diagonal(self.A) * self.gram._diagonal().repeat(self.repeat)


@block_work.register
def _gram_side(op: GramSide, rows: int, cols: int) -> Work:
    left = gram_work(op.A, rows, cols)
    right = block_work(op.gram, rows, cols)
    size = array_bytes(op, rows, cols)
    copies = 2 * size * (op.repeat > 1)
    cost = left.cost + right.cost + (float(rows * cols), 0.0)
    return Work(cost, max(left.held, size + right.held + copies))


@product_bytes.register
def _gram_side_bytes(op: GramSide, columns: int) -> float:
    out = array_bytes(op, op.shape[0], columns)
    if op._takes_tiles(columns):
        return out + tiles_bytes(op, columns)
    features = 2 * array_bytes(op, op.gram.shape[0], LEAST_FEATURES * columns)
    return out + workspace_bytes() + max(workspace_bytes(), features)
