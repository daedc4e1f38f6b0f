"""The Gram side of a Khatri–Rao kernel, and the choice of which kernels keep one Gram dense.

``(A Aᵀ) ∘ G`` with G an N × N matrix costs N² times the width of A alone, whatever the width of
the factor that G was made of.  A kernel is a ``Gram(A ⊙ B)`` among the terms; either of its two
Grams may be kept as a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opflow.evaluation.dense import dense, dense_plan
from opflow.machine.arrays import Array, Data, Index, namespace
from opflow.machine.cost import MachineProfile
from opflow.machine.workspace import op_namespace, row_slices, workspace_bytes
from opflow.operators.algebra import Scaled, Sum, unify
from opflow.operators.entries import (
    cheap_in_operands,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.gram import Gram
from opflow.operators.khatri_rao import KhatriRao, as_rows
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator, bracketed
from opflow.operators.prices import Work, array_bytes, block_work, gram_work, product_bytes
from opflow.operators.rules import add, as_operator, scale
from opflow.operators.tiles import stand_in, tiled_cost, tiled_product, tiles_bytes

#: features of A in a block of a sweep, at least, so that G times them is a matrix product
LEAST_FEATURES = 16


class GramSide(Operator):
    r"""The kernel ``(A Aᵀ) ∘ G``, with A kept as a factor and G as a matrix.

    Parameters
    ----------
    A : array (N·k, p) or (N, k, p), sparse matrix, or operator
    gram : symmetric operator (N, N)
        Usually ``Matrix(G, psd=True)``; each entry goes with k × k entries of A Aᵀ.
    symbol : str, optional

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
        super().__init__((A.shape[0],) * 2, A.dtype, psd=gram.psd, symmetric=True, symbol=symbol)

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.A, self.gram)

    @property
    def symbol(self) -> str:
        A, gram = map(bracketed, self.operands)
        return self._symbol or f"{A} {A}ᵀ ∘ {gram}"

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
        return tiled_product(self, X) if self._takes_tiles(X.shape[1]) else self._sweep(X)

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


entries_are_cheap.register(GramSide, cheap_in_operands)


@block_work.register
def _gram_side(op: GramSide, rows: int, cols: int) -> Work:
    left = gram_work(op.A, rows, cols)
    right = block_work(op.gram, rows, cols)
    size = array_bytes(op, rows, cols)
    copies = 0.0 if op.repeat == 1 else 2 * size
    cost = left.cost + right.cost + (float(rows * cols), 0.0)
    return Work(cost, max(left.held, size + right.held + copies))


@product_bytes.register
def _gram_side_bytes(op: GramSide, columns: int) -> float:
    out = array_bytes(op, op.shape[0], columns)
    if op._takes_tiles(columns):
        return out + tiles_bytes(op, columns)
    features = 2 * array_bytes(op, op.gram.shape[0], LEAST_FEATURES * columns)
    return out + workspace_bytes() + max(workspace_bytes(), features)


class Side(NamedTuple):
    """A kernel ``Gram(A ⊙ B)``, the factor that stays and the one whose Gram is kept."""

    kernel: Gram
    stays: Operator
    kept: Gram

    @property
    def forming(self) -> Cost:
        return dense_plan(self.kept).cost

    @property
    def bytes(self) -> float:
        """Of the Gram that is kept."""
        return stand_in(self.kept).cost(0).bytes

    def form(self, gram: Operator) -> GramSide:
        return GramSide(self.stays, gram, symbol=self.kernel._symbol)

    def stand_in(self) -> GramSide:
        """The form as it will cost, with nothing formed."""
        return self.form(stand_in(self.kept))


def kernels(op: Operator) -> list[Gram]:
    """The Grams of Khatri–Rao products among the terms of `op`."""
    if isinstance(op, Sum | Scaled):
        return [kernel for term in op.operands for kernel in kernels(term)]
    if isinstance(op, Gram) and op.weights is None and isinstance(op.factor, KhatriRao):
        return [op]
    return []


def best_side(kernel: Gram, columns: int) -> Side:
    """The side with the cheaper products; with several outputs only one Gram is N × N."""
    A, B = kernel.factor.operands
    sides = [Side(kernel, A, Gram(B))]
    if A.shape[0] == B.shape[0]:
        sides.append(Side(kernel, B, Gram(A)))
    nominal = MachineProfile()
    return min(sides, key=lambda side: nominal.seconds(side.stand_in().cost(columns), kernel.dtype))


def paying_sides(
    op: Operator, products: int, columns: int, budget: float, rates: MachineProfile
) -> list[Side]:
    """The kernels that are faster on their Gram side, the most saving first, within the budget.

    All of them if none is, and those that pay if none fits: to be shown, not to be chosen.
    """

    def saving(side: Side) -> float:
        before = rates.seconds(side.kernel.cost(columns), op.dtype)
        after = rates.seconds(side.stand_in().cost(columns), op.dtype)
        forming = rates.seconds(side.forming, op.dtype) + side.bytes / rates.fresh
        return products * (before - after) - forming

    sides = sorted((best_side(kernel, columns) for kernel in kernels(op)), key=saving, reverse=True)
    paying = [side for side in sides if saving(side) > 0] or sides
    fitting: list[Side] = []
    for side in paying:
        if kept_bytes([*fitting, side], budget) <= budget:
            fitting.append(side)
    return fitting or paying


def replaced(op: Operator, forms: Mapping[int, Operator]) -> Operator:
    """`op` with some of its kernels, known by their ids, in another form."""
    if id(op) in forms:
        return forms[id(op)]
    if isinstance(op, Sum):
        return add(*(replaced(term, forms) for term in op.operands))
    if isinstance(op, Scaled):
        return scale(op.scalar, replaced(op.operands[0], forms))
    return op


def gram_sided(op: Operator, sides: Sequence[Side], budget: float) -> Operator:
    """`op` with the Grams of `sides` formed; a MemoryError before that if they do not fit."""
    need = kept_bytes(sides, budget)
    if need > budget:
        raise MemoryError(
            f"keeping {len(sides)} Grams of order {sides[0].kept.shape[0]} takes "
            f"{need / 1e9:.3g} GB, over the budget of {budget / 1e9:.3g} GB"
        )
    forms: dict[int, Operator] = {}
    left = budget
    for side in sides:
        G = Matrix(dense(side.kept, left), psd=True, symbol=side.kept.symbol)
        left -= G.data.nbytes
        forms[id(side.kernel)] = side.form(G)
    return replaced(op, forms)


def kept_bytes(sides: Sequence[Side], budget: float) -> float:
    """The Grams, and the most that forming one after the other holds."""
    held = peak = 0.0
    for side in sides:
        plan = dense_plan(side.kept, budget - held)
        peak = max(peak, held + plan.held)
        held += side.bytes
    return peak
