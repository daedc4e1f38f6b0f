"""Hadamard products: factored where the operands are Grams, in exact tiles otherwise.

``(A Aᵀ) ∘ (B Bᵀ) = (A ⊙ B)(A ⊙ B)ᵀ`` with the row-wise Khatri–Rao product ⊙, so the Hadamard
product of Grams is a Gram again.  Operands with no factor are multiplied tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import mul

from opflow.machine.arrays import Array, Data, Index
from opflow.machine.workspace import op_namespace
from opflow.operators.algebra import Sum
from opflow.operators.composite import Composite, Scaled, common_tags, unify
from opflow.operators.gram import Gram
from opflow.operators.khatri_rao import KhatriRao
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import block_work, entrywise_block, product_bytes
from opflow.operators.rules import add, as_operator, scale
from opflow.operators.tiles import tiled_cost, tiled_product, tiled_product_bytes


def Hadamard(*operands: Data, symbol: str | None = None) -> Operator:
    r"""The lazy entry-wise product ``A ∘ B ∘ …`` of operators.

    Parameters
    ----------
    *operands : operators, arrays or sparse matrices of one shape
        At least two.
    symbol : str, optional

    Returns
    -------
    Operator
        Of Grams, the :class:`Gram` of a :class:`KhatriRao` product, found on construction
        (scalars are pulled out and sums distributed): factored, two GEMMs a product.  With any
        other operand, a :class:`TiledHadamard`.  More than two Grams are merged only while the
        merged factor is no wider than N, where tiles become cheaper; the rest is tiled.

    See Also
    --------
    opflow.Gram : Operands that keep the product factored.
    opflow.KhatriRao : The factor of a product of Grams.
    opflow.TiledHadamard : The product of any other operands.

    Notes
    -----
    Schur's theorem: PSD ∘ PSD is PSD [1]_.

    References
    ----------
    .. [1] R. A. Horn, C. R. Johnson, "Topics in Matrix Analysis", Cambridge University Press,
       1991.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X, C = np.array([[1.0, 2.0], [3.0, 4.0]]), of.CoActivation(np.eye(2, dtype=bool))
    >>> K = of.Hadamard(of.Gram(X), C)
    >>> type(K).__name__, K.psd
    ('Gram', True)
    >>> K.todense()
    array([[ 5.,  0.],
           [ 0., 25.]])
    """
    if len(operands) < 2:
        raise ValueError(f"a Hadamard product needs at least two operands, not {len(operands)}")
    ops = unify([as_operator(op) for op in operands])
    shapes = {op.shape for op in ops}
    if len(shapes) > 1:
        raise ValueError(f"a Hadamard product needs one shape, not {sorted(shapes)}")
    return _simplified(ops, symbol)


class TiledHadamard(Composite):
    """The entry-wise product of any operators, evaluated in exact tiles; made by :func:`Hadamard`.

    Parameters
    ----------
    operands : sequence of Operator
        Of one shape and dtype.
    symbol : str, optional

    See Also
    --------
    opflow.Hadamard : Makes it, or a factored Gram where it can.
    opflow.Tiled : Any operator with cheap sub-blocks, in tiles.

    Notes
    -----
    A product costs N² flops an operand and column and forms nothing larger than a tile; only
    the symmetric half is evaluated where the operands are known to be symmetric.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> A, B = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> type(of.Hadamard(A, B)).__name__, of.Hadamard(A, B) @ np.ones(2)
    ('TiledHadamard', array([2., 3.]))
    """

    def __init__(self, operands: Sequence[Operator], symbol: str | None = None) -> None:
        first = operands[0]
        tags = common_tags(operands)
        super().__init__(operands, first.shape, first.dtype, symbol=symbol, **tags)

    def _formula(self) -> str:
        return " ∘ ".join(op._factor_symbol for op in self.parts)

    def cost(self, columns: int = 1) -> Cost:
        return tiled_cost(self, columns)

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Index, cols: Index) -> Array:
        first, *others = self.parts
        block = first._block(rows, cols)
        for op in others:
            block = block * op._block(rows, cols)
        return block

    def _diagonal(self) -> Array:
        return reduce(mul, (op._diagonal() for op in self.parts))

    def _matmat(self, X: Array) -> Array:
        return tiled_product(self, X)

    def _rmatmat(self, X: Array) -> Array:
        return tiled_product(self, X, adjoint=True)


block_work.register(TiledHadamard, entrywise_block)
product_bytes.register(TiledHadamard, tiled_product_bytes)


def _simplified(ops: list[Operator], symbol: str | None = None) -> Operator:
    """The product with scalars pulled out, sums distributed and Grams merged."""
    for i, op in enumerate(ops):
        before = ops[:i]
        after = ops[i + 1 :]
        if isinstance(op, Scaled):
            return scale(op.scalar, _simplified([*before, op.parts[0], *after], symbol))
        if isinstance(op, Sum) and all(map(_only_grams, ops)):
            return add(*(_simplified([*before, term, *after]) for term in op.parts))
    merged: list[Gram] = []
    rest = []
    for op in ops:
        if not isinstance(op, Gram):
            rest.append(op)
        elif merged and (len(ops) == 2 or _width(merged[-1]) * _width(op) <= op.shape[0]):
            merged[-1] = _merge(merged[-1], op)
        else:
            merged.append(op)
    if rest or len(merged) > 1:
        return TiledHadamard([*merged, *rest], symbol)
    if symbol is None:
        return merged[0]
    return Gram(merged[0].factor, merged[0].weights, symbol=symbol)


def _only_grams(op: Operator) -> bool:
    if isinstance(op, Sum | Scaled):
        return all(map(_only_grams, op.parts))
    return isinstance(op, Gram)


def _width(gram: Gram) -> int:
    return gram.factor.shape[1]


def _merge(left: Gram, right: Gram) -> Gram:
    """``(A diag(w) Aᵀ) ∘ (B diag(u) Bᵀ) = (A ⊙ B) diag(w ⊗ u) (A ⊙ B)ᵀ``."""
    factor = KhatriRao(left.factor, right.factor)
    if left.weights is None and right.weights is None:
        return Gram(factor)
    xp = op_namespace(left)
    weights = [
        xp.ones(_width(gram), dtype=gram.dtype) if gram.weights is None else gram.weights
        for gram in (left, right)
    ]
    return Gram(factor, xp.kron(*weights))
