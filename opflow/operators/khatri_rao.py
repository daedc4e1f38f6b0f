"""Row-wise Khatri–Rao and Hadamard products: one identity carries the speed.

A Hadamard product of Gram matrices is the Gram matrix of the row-wise Khatri–Rao product of
their factors, ``(A Aᵀ) ∘ (B Bᵀ) = (A ⊙ B)(A ⊙ B)ᵀ``, so a product costs two GEMMs instead of an
N × N array.  Operands with no factor are multiplied tile by tile, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import numpy as np

from opflow.machine import gate_tables
from opflow.machine.arrays import check_real, namespace
from opflow.machine.streams import prefetched
from opflow.machine.threads import over_rows
from opflow.machine.workspace import op_namespace, row_data, row_slices
from opflow.operators.algebra import Scaled, Sum, add, as_operator, is_operator, scale, unify
from opflow.operators.gram import Gram
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.scaled_gates import ScaledGates


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

    def __init__(self, A: Any, B: Any, *, symbol: str | None = None) -> None:
        A, B = unify([as_rows(A), as_operator(B)])
        self.A, self.B = A, B
        self.repeat, rest = divmod(A.shape[0], B.shape[0])
        if rest or not self.repeat:
            raise ValueError(
                f"A has {A.shape[0]} rows, which is not a multiple of the {B.shape[0]} rows of B"
            )
        # One side is read row by row and scaled, the other only enters a GEMM: scale the
        # narrower, unless the other cannot be scaled (k rows a sample, sparse, no rows to read).
        a_stays, b_stays = _gemm_only(A), _gemm_only(B)
        self._scale_a = self.repeat > 1 or (
            A.shape[1] <= B.shape[1] if a_stays == b_stays else b_stays
        )
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
        scaled, gemm = self._sides()
        stored = self.A.cost(0).bytes + self.B.cost(0).bytes + self._vector_bytes(columns)
        width = columns * scaled.shape[1]
        product = gemm.cost(width)
        gates = product.flops if self._tabulated(self.dtype) else 0.0
        return Cost(product.flops + 2.0 * self.shape[0] * width, stored, product.sparse, gates)

    def _sides(self) -> tuple[Operator, Operator]:
        """(the scaled side, the GEMM side)."""
        return (self.A, self.B) if self._scale_a else (self.B, self.A)

    def _blocks(
        self, scaled: Operator, gemm: Operator, columns: int, dtype: Any, samples: slice
    ) -> Iterable[slice]:
        if not gemm.row_access:
            return [samples]
        width = (columns + self.repeat) * scaled.shape[1] + gemm.shape[1]
        return self._in_turn(row_slices(samples, width * dtype.itemsize))

    def _over_samples(self, work: Callable[[slice], Any], columns: int, sums: float = 0) -> Any:
        """`work` of ranges of samples, in several threads where rows can be read by several."""
        flops = 2.0 * self.B.shape[0] * self.shape[1] * columns
        data = map(row_data, (self.A, self.B))
        return over_rows(self.B.shape[0], work, flops, *data, sums=sums)

    def _in_turn(self, slices: list[slice]) -> Iterable[slice]:
        # with k rows of A a sample, those of A are other slices
        return prefetched(slices, self.B, *((self.A,) if self.repeat == 1 else ()))

    def _samples(self, s: slice) -> slice:
        """Rows of A that belong to the samples `s`."""
        return slice(s.start * self.repeat, s.stop * self.repeat)

    def _tabulated(self, dtype: Any) -> TypeGuard[Any]:
        """Whether A is gates whose products with the rows of B go through tables."""
        A, B = self.A, self.B
        return (
            isinstance(A, ScaledGates)
            and self.repeat == 1
            and type(B) is Matrix
            and B.dtype == dtype
            and gate_tables.tabulated(dtype, A.data, B.data)
        )

    def _matmat(self, X: Any) -> Any:
        xp, dtype, c = namespace(X), X.dtype, X.shape[1]
        if self._tabulated(dtype):
            (n, q), v = (self.A.shape[1], self.B.shape[1]), self.A.scale
            M = X.T.reshape(c, n, q) * v[:, None]
            return gate_tables.row_dots(self.A.data, n, M, self.B.data).T
        scaled, gemm = self._sides()
        (p, q), k = (self.A.shape[1], self.B.shape[1]), self.repeat
        # right: (width of gemm side, c · width of scaled side)
        X = X.reshape(p, q, c)
        right = (X.transpose(1, 2, 0) if self._scale_a else X.transpose(0, 2, 1)).reshape(
            gemm.shape[1], -1
        )
        width = scaled.shape[1]
        out = xp.empty((self.shape[0], c), dtype=dtype)

        def push(samples: slice) -> None:
            work = None
            for s in self._blocks(scaled, gemm, c, dtype, samples):
                rows = self._samples(s)
                factor = scaled.rows(rows).astype(dtype, copy=False)
                if gemm.row_access and not _sparse(gemm):
                    b = s.stop - s.start
                    work = xp.empty((b, c * width), dtype=dtype) if work is None else work
                    pushed = xp.matmul(gemm.rows(s), right, out=work[:b])
                else:
                    pushed = _slab(gemm, s) @ right
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

        self._over_samples(push, c)
        return out

    def _rmatmat(self, X: Any) -> Any:
        return self._transposed(X.conj()).conj()  # the same, where all is real

    def _transposed(self, X: Any) -> Any:
        xp, dtype, c = namespace(X), X.dtype, X.shape[1]
        if self._tabulated(dtype):
            sums = gate_tables.weighted_sums(self.A.data, self.A.shape[1], self.B.data, X.T)
            sums *= self.A.scale[:, None]
            return sums.reshape(c, -1).T
        scaled, gemm = self._sides()
        k, width = self.repeat, scaled.shape[1]

        def pull(samples: slice) -> Any:
            total: Any = None
            part = work = None
            for s in self._blocks(scaled, gemm, c, dtype, samples):
                rows = self._samples(s)
                factor = scaled.rows(rows)
                r, b = X[rows], s.stop - s.start
                work = xp.empty((b, c, width), dtype=dtype) if work is None else work
                left = work[:b]
                if k > 1:
                    xp.matmul(
                        r.reshape(b, k, c).transpose(0, 2, 1), factor.reshape(b, k, width), out=left
                    )
                else:
                    xp.multiply(factor[:, None, :], r[:, :, None], out=left)
                left = left.reshape(b, c * width)
                if not gemm.row_access or _sparse(gemm):
                    part = _transposed_product(gemm, s, left)
                    total = part if total is None else total + part
                elif total is None:
                    total = left.T @ gemm.rows(s)
                else:
                    part = xp.empty_like(total) if part is None else part
                    total += xp.matmul(left.T, gemm.rows(s), out=part)
            return total

        total, *others = self._over_samples(pull, c, 2.0 * self.shape[1] * c * dtype.itemsize)
        for other in others:
            total += other
        # total: (c · scaled width, gemm width)
        total = total.reshape(c, width, gemm.shape[1])
        return total.transpose((1, 2, 0) if self._scale_a else (2, 1, 0)).reshape(-1, c)

    def _gram_product(self, X: Any) -> Any:
        if not self._tabulated(X.dtype):
            return super()._gram_product(X)
        A = self.A
        return gate_tables.gram_product(A.data, A.shape[1], self.B.data, X.T, A.scale).T

    def rows(self, index: Any) -> Any:
        left = self.A.rows(index)
        right = self.B.rows(self._sample_index(index))
        return (left[:, :, None] * right[:, None, :]).reshape(len(left), self.shape[1])

    def _sample_index(self, index: Any) -> Any:
        if self.repeat == 1:
            return index
        xp = op_namespace(self)
        return xp.arange(self.shape[0])[index] // self.repeat

    def _gram_block(self, rows: Any, cols: Any, weights: Any) -> Any:
        if weights is not None:
            return super()._gram_block(rows, cols, weights)
        block = self.A._gram_block(rows, cols, None)
        samples = self._sample_index(rows)
        block *= self.B._gram_block(
            samples, samples if rows is cols else self._sample_index(cols), None
        )
        return block

    def _gram_diagonal(self, weights: Any) -> Any:
        if weights is None:
            squares = self.B._gram_diagonal(None)
            return self.A._gram_diagonal(None) * squares.repeat(self.repeat)
        parts = []
        W = weights.reshape(self.A.shape[1], self.B.shape[1])
        width = self.A.shape[1] * self.repeat + self.B.shape[1]
        for s in self._in_turn(row_slices(self.B.shape[0], 3 * width * self.dtype.itemsize)):
            right = self.B.rows(s) ** 2 @ W.T
            parts.append((self.A.rows(self._samples(s)) ** 2 * right.repeat(self.repeat, 0)).sum(1))
        return namespace(*parts).concatenate(parts)

    def _column_squares(self) -> Any:
        p, q = self.A.shape[1], self.B.shape[1]
        k = self.repeat
        total: Any = 0
        for s in self._in_turn(row_slices(self.B.shape[0], 3 * (p * k + q) * self.dtype.itemsize)):
            left = (self.A.rows(self._samples(s)) ** 2).reshape(-1, k, p).sum(axis=1)
            if _sparse(self.B):
                right = self.B.slab(s)
                total = total + (right.multiply(right).T @ left).T
            else:
                total = total + left.T @ self.B.rows(s) ** 2
        return total.reshape(-1)

    # (A ⊙ B)(C ⊙ D)ᵀ = (A Cᵀ) ∘ (B Dᵀ): no row as wide as p · q is formed.

    def _cross_block(self, other: Operator, rows: Any, cols: Any) -> Any:
        if isinstance(other, Sum):
            return sum(self._cross_block(term, rows, cols) for term in other.operands)
        if not _aligned(self, other):
            return super()._cross_block(other, rows, cols)
        samples = self._sample_index(rows), other._sample_index(cols)
        return self.A._cross_block(other.A, rows, cols) * self.B._cross_block(other.B, *samples)

    def _cross_diagonal(self, other: Operator) -> Any:
        if isinstance(other, Sum):
            return sum(self._cross_diagonal(term) for term in other.operands)
        if not _aligned(self, other):
            return super()._cross_diagonal(other)
        return self.A._cross_diagonal(other.A) * self.B._cross_diagonal(other.B).repeat(self.repeat)


def as_rows(A: Any) -> Operator:
    """The operator of an array (N, k, p), k rows a sample, or of whatever is an operator."""
    if getattr(A, "ndim", 2) == 3 and not is_operator(A):
        A = check_real(A, "A")
        A = A.reshape(-1, A.shape[2])
    return as_operator(A)


def _aligned(F: KhatriRao, G: Operator) -> TypeGuard[KhatriRao]:
    """Whether the columns of both are the same pairs of columns."""
    return isinstance(G, KhatriRao) and (F.A.shape[1], F.B.shape[1]) == (
        G.A.shape[1],
        G.B.shape[1],
    )


def _sparse(op: Operator) -> bool:
    return bool(getattr(op, "sparse", False))


def _gemm_only(op: Operator) -> bool:
    return _sparse(op) or not op.row_access


def _slab(op: Operator, s: slice) -> Any:
    """What multiplies a dense block from the left: stored sparse rows, or the operator itself."""
    return op.slab(s) if _sparse(op) else op


def _transposed_product(op: Operator, s: slice, left: Any) -> Any:
    """``leftᵀ op[s]``."""
    return (op.slab(s).T @ left).T if _sparse(op) else op.rmatmat(left.conj()).conj().T


class Hadamard(Operator):
    r"""The entry-wise product ``A ∘ B ∘ …`` of operators.

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
        other operand, a `Hadamard` evaluated in exact tiles from the operands' sub-blocks.  More
        than two Grams are merged only while the merged factor is no wider than N, where tiles
        become cheaper; the rest is tiled.

    Notes
    -----
    Schur's theorem: PSD ∘ PSD is PSD.  A tiled product costs N² flops an operand and column and
    forms nothing larger than a tile; the symmetric half only is evaluated where that is known.

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

    def __new__(cls, *operands: Any, symbol: str | None = None) -> Any:
        if len(operands) < 2:
            raise ValueError(f"a Hadamard product needs at least two operands, not {len(operands)}")
        ops = unify([as_operator(op) for op in operands])
        shapes = {op.shape for op in ops}
        if len(shapes) > 1:
            raise ValueError(f"a Hadamard product needs one shape, not {sorted(shapes)}")
        return _hadamard(ops, symbol)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through __new__, which would decide anew what to merge.
        return Hadamard._tiled, (list(self._operands), self._symbol)

    _operands: tuple[Operator, ...]

    def __init__(self, *operands: Any, symbol: str | None = None) -> None:
        pass  # everything is decided in __new__, which may return another class

    @classmethod
    def _tiled(cls, operands: list[Operator], symbol: str | None) -> Hadamard:
        self = object.__new__(cls)
        self._operands = tuple(operands)
        first = operands[0]
        Operator.__init__(
            self,
            first.shape,
            np.result_type(*(op.dtype for op in operands)),
            psd=all(op.psd for op in operands),
            symmetric=all(op.symmetric for op in operands),
            symbol=symbol,
        )
        return self

    @property
    def operands(self) -> tuple[Operator, ...]:
        return self._operands

    @property
    def symbol(self) -> str:
        return self._symbol or " ∘ ".join(op._factor_symbol for op in self.operands)

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return all(op.row_access for op in self.operands)

    def cost(self, columns: int = 1) -> Cost:
        from opflow.evaluation.dense import tiled_cost

        return tiled_cost(self, columns)

    def rows(self, index: Any) -> Any:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Any, cols: Any) -> Any:
        first, *others = self.operands
        block = first._block(rows, cols)
        for op in others:
            block = block * op._block(rows, cols)
        return block

    def _diagonal(self) -> Any:
        out = self.operands[0]._diagonal()
        for op in self.operands[1:]:
            out = out * op._diagonal()
        return out

    def _matmat(self, X: Any) -> Any:
        from opflow.evaluation.dense import tiled_product

        return tiled_product(self, X)

    def _rmatmat(self, X: Any) -> Any:
        from opflow.evaluation.dense import tiled_product

        return tiled_product(self, X, adjoint=True)


def _hadamard(ops: list[Operator], symbol: str | None = None) -> Operator:
    for i, op in enumerate(ops):
        if isinstance(op, Scaled):
            return scale(op.scalar, _hadamard([*ops[:i], op.operands[0], *ops[i + 1 :]], symbol))
        if isinstance(op, Sum) and all(_all_grams(o) for o in ops):
            return add(*(_hadamard([*ops[:i], term, *ops[i + 1 :]]) for term in op.operands))
    rest = [op for op in ops if not isinstance(op, Gram)]
    merged: list[Gram] = []
    for op in ops:
        if not isinstance(op, Gram):
            continue
        wide = merged and len(ops) > 2 and _width(merged[-1]) * _width(op) > op.shape[0]
        if merged and not wide:
            merged[-1] = _merge(merged[-1], op)
        else:
            merged.append(op)
    if len(merged) == 1 and not rest:
        gram = merged[0]
        return gram if symbol is None else Gram(gram.factor, gram.weights, symbol=symbol)
    return Hadamard._tiled([*merged, *rest], symbol)


def _all_grams(op: Operator) -> bool:
    if isinstance(op, Sum | Scaled):
        return all(_all_grams(part) for part in op.operands)
    return isinstance(op, Gram)


def _width(gram: Gram) -> int:
    return gram.factor.shape[1]


def _merge(left: Gram, right: Gram) -> Gram:
    """``(A diag(w) Aᵀ) ∘ (B diag(u) Bᵀ) = (A ⊙ B) diag(w ⊗ u) (A ⊙ B)ᵀ``."""
    weights = None
    if left.weights is not None or right.weights is not None:
        xp = op_namespace(left)
        pair = (
            xp.ones(_width(g), dtype=g.dtype) if g.weights is None else g.weights
            for g in (left, right)
        )
        weights = xp.kron(*pair)
    return Gram(KhatriRao(left.factor, right.factor), weights)
