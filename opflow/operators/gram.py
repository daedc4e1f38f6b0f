"""Gram operators ``G = F diag(w) Fᵀ`` and their velocity, applied through the factor, never formed.

A product costs two products with F.  Sub-blocks and the diagonal come from the rows of F, so
they cost what they weigh.
"""

from __future__ import annotations

import numpy as np

from opflow.machine.arrays import Array, Data, Index, check_real, mixed, module_name, namespace
from opflow.machine.workspace import operator_module, row_slices, workspace_bytes
from opflow.operators.composite import unify
from opflow.operators.entries import (
    cheap_in_operands,
    cross_block,
    cross_diagonal,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
    gram_product,
)
from opflow.operators.operator import Cost, Operator, bracketed
from opflow.operators.prices import Work, array_bytes, block_work, gram_work
from opflow.operators.rules import as_operator


class Gram(Operator):
    r"""The Gram operator ``F diag(w) Fᵀ`` of the rows of `F`, never formed.

    Parameters
    ----------
    F : array (N, m), sparse matrix, or operator
        The factor: dense, sparse, packed gates, or any PyLops/opflow operator.
    weights : array of shape (m,), optional
        Weights of the columns of F; PSD if none is negative, else symmetric only.
    symbol : str, optional

    See Also
    --------
    opflow.CrossGram : Between the rows of two factors.
    opflow.Hadamard : Products of Grams, entry by entry.
    opflow.FunctionGram : The matrix of a kernel function.
    opflow.materialise : Forms it where that is faster.

    Notes
    -----
    :math:`G_{\mu\nu} = \sum_i w_i F_{\mu i} F_{\nu i}`.  One product costs 4·N·m flops a column
    for a dense F; memory is O(N + m) a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> G = of.Gram(np.array([[1.0, 2.0], [0.0, 1.0]]))
    >>> G.todense()
    array([[5., 2.],
           [2., 1.]])
    >>> G.psd, of.Gram(np.eye(2), weights=np.array([1.0, -1.0])).psd
    (True, False)
    """

    def __init__(self, F: Data, weights: Array | None = None, *, symbol: str | None = None) -> None:
        factor = as_operator(F)
        if factor.dtype.kind == "c":
            raise TypeError(f"the factor of a Gram must be real, not {factor.dtype}")
        if weights is not None:
            wanted = None if factor.dtype_free else factor.dtype
            weights = check_real(weights, "weights", dtype=wanted, finite=True)
            if weights.shape != (factor.shape[1],):
                raise ValueError(
                    f"weights has shape {weights.shape}, the factor has {factor.shape[1]} columns"
                )
            if factor.dtype_free:
                factor = factor.astype(weights.dtype)
            if operator_module(factor) not in (None, module_name(weights)):
                raise TypeError(mixed(factor, weights))
        self.factor, self.weights = factor, weights
        super().__init__(
            (factor.shape[0],) * 2,
            factor.dtype,
            psd=weights is None or bool((weights >= 0).all()),
            symmetric=True,
            symbol=symbol,
            dims=factor.dimsd,
            dimsd=factor.dimsd,
        )
        self.space = self.domain = factor.space

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.factor,)

    @property
    def symbol(self) -> str:
        F = bracketed(self.factor)
        return self._symbol or (f"{F} {F}ᵀ" if self.weights is None else f"{F} diag(w) {F}ᵀ")

    @property
    def dtype_free(self) -> bool:  # type: ignore[override]
        """Whether the dtype is a choice, not a property of stored data."""
        return self.weights is None and self.factor.dtype_free

    def cost(self, columns: int = 1) -> Cost:
        return self.factor.cost(columns).times(2)

    def _matmat(self, X: Array) -> Array:
        if self.factor.sparse:
            return self._by_columns(X)
        return self._product(X)

    def _by_columns(self, X: Array) -> Array:
        # A sparse factor may be far wider than it is heavy, and then Fᵀ X, which is dense, too.
        columns = max(16, int(workspace_bytes() // (self.factor.shape[1] * X.dtype.itemsize)))
        if columns >= X.shape[1]:
            return self._product(X)
        out = namespace(X).empty(X.shape, dtype=X.dtype)
        for s in row_slices(X.shape[1], 1, columns):
            out[:, s] = self._product(namespace(X).ascontiguousarray(X[:, s]))
        return out

    def _product(self, X: Array) -> Array:
        if self.weights is None:
            return gram_product(self.factor, X)
        return self.factor._matmat(self.factor._rmatmat(X) * self.weights[:, None])

    _rmatmat = _matmat

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[0]))

    def _block(self, rows: Index, cols: Index) -> Array:
        return gram_block(self.factor, rows, cols, self.weights)

    def _diagonal(self) -> Array:
        return gram_diagonal(self.factor, self.weights)


class CrossGram(Operator):
    r"""The Gram operator ``F Gᵀ`` between the rows of two factors.

    Parameters
    ----------
    F : array (M, m), sparse matrix, or operator
    G : array (N, m), sparse matrix, or operator
    symbol : str, optional

    See Also
    --------
    opflow.Gram : Of the rows of one factor, symmetric.
    opflow.cross_kernel : The kernel between two sets of samples.

    Notes
    -----
    For complex factors ``F Gᴴ``.  A product costs one product with each factor.  Sub-blocks come
    from rows, or from the Hadamard factors where F and G are Khatri–Rao products.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.CrossGram(np.array([[1.0, 2.0]]), np.eye(2)).todense()
    array([[1., 2.]])
    """

    def __init__(self, F: Data, G: Data, *, symbol: str | None = None) -> None:
        F, G = unify([as_operator(F), as_operator(G)])
        if F.shape[1] != G.shape[1]:
            raise ValueError(f"F has shape {F.shape} but G has shape {G.shape}")
        self.F, self.G = F, G
        super().__init__(
            (F.shape[0], G.shape[0]),
            np.result_type(F.dtype, G.dtype),
            symbol=symbol,
            dims=G.dimsd,
            dimsd=F.dimsd,
        )
        self.space, self.domain = F.space, G.space

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.F, self.G)

    @property
    def symbol(self) -> str:
        F, G = map(bracketed, self.operands)
        return self._symbol or f"{F} {G}ᵀ"

    def cost(self, columns: int = 1) -> Cost:
        return self.F.cost(columns) + self.G.cost(columns)

    def _matmat(self, X: Array) -> Array:
        return self.F.matmat(self.G.rmatmat(X))

    def _rmatmat(self, X: Array) -> Array:
        return self.G.matmat(self.F.rmatmat(X))

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Index, cols: Index) -> Array:
        return cross_block(self.F, self.G, rows, cols)


class GramVelocity(Operator):
    r"""The time derivative ``Ḟ Fᵀ + F Ḟᵀ`` of a Gram whose factor moves.

    Parameters
    ----------
    F : array (N, m), sparse matrix, or operator
    dF : the same, of the same shape
        The velocity of `F`.
    symbol : str, optional

    See Also
    --------
    opflow.Gram : The Gram itself.
    opflow.kernel_velocity : The time derivative of a network's kernel.
    opflow.weight_gram_velocity : The time derivative of WᵀW.

    Notes
    -----
    The product rule for :math:`G = F F^T`.  Symmetric, indefinite in general.  A product costs
    two products with each of F and Ḟ; the diagonal and sub-blocks come from rows, or from the
    Hadamard factors where F and Ḟ are Khatri–Rao products.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> F, dF = np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])
    >>> of.GramVelocity(F, dF).todense()
    array([[2., 2.],
           [2., 0.]])
    """

    def __init__(self, F: Data, dF: Data, *, symbol: str | None = None) -> None:
        F, dF = unify([as_operator(F), as_operator(dF)])
        if F.shape != dF.shape:
            raise ValueError(f"dF has shape {dF.shape} but F has shape {F.shape}")
        for factor in (F, dF):
            if factor.dtype.kind == "c":
                raise TypeError(f"the factor of a Gram must be real, not {factor.dtype}")
        self.F, self.dF = F, dF
        super().__init__(
            (F.shape[0],) * 2,
            F.dtype,
            symmetric=True,
            symbol=symbol,
            dims=F.dimsd,
            dimsd=F.dimsd,
        )
        self.space = self.domain = F.space

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.F, self.dF)

    @property
    def symbol(self) -> str:
        if self._symbol:
            return self._symbol
        F, dF = map(bracketed, self.operands)
        return f"({dF} {F}ᵀ + {F} {dF}ᵀ)"

    def cost(self, columns: int = 1) -> Cost:
        return (self.F.cost(columns) + self.dF.cost(columns)).times(2)

    def _matmat(self, X: Array) -> Array:
        return self.F._matmat(self.dF._rmatmat(X)) + self.dF._matmat(self.F._rmatmat(X))

    _rmatmat = _matmat

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Index, cols: Index) -> Array:
        upper = cross_block(self.F, self.dF, rows, cols)
        return upper + cross_block(self.F, self.dF, cols, rows).T

    def _diagonal(self) -> Array:
        return 2 * cross_diagonal(self.F, self.dF)


for _kind in (Gram, CrossGram, GramVelocity):
    entries_are_cheap.register(_kind, cheap_in_operands)


@block_work.register
def _gram_block_work(op: Gram, rows: int, cols: int) -> Work:
    work = gram_work(op.factor, rows, cols)
    weighted = 0.0 if op.weights is None else array_bytes(op, rows, op.factor.shape[1])
    return Work(work.cost, work.held + weighted)


@block_work.register
def _velocity_block_work(op: GramVelocity, rows: int, cols: int) -> Work:
    works = [gram_work(F, rows, cols) for F in op.operands]
    size = array_bytes(op, rows, cols)
    cost = works[0].cost + works[1].cost + (0.0, size)
    return Work(cost, 2 * size + 2 * max(work.held for work in works))
