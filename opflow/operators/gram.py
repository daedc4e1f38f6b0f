"""Gram operators ``G = F diag(w) Fᵀ`` and their velocity, applied through the factor, never formed.

A product costs two products with F.  Sub-blocks and the diagonal come from the rows of F, so
they cost what they weigh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opflow.machine.arrays import Array, Data, Index, check_real, mixed, module_name, namespace
from opflow.machine.workspace import operator_module, row_slices, workspace_bytes
from opflow.operators.composite import Composite, unify
from opflow.operators.describe import bracketed
from opflow.operators.entries import (
    cross_block,
    cross_diagonal,
    gram_block,
    gram_diagonal,
    gram_product,
)
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import Work, array_bytes, block_work, gram_work
from opflow.operators.rules import as_operator


class _OfFactors(Composite):
    """Products of the rows of the first factor with those of `G`: what Grams have in common."""

    row_access = False

    def __init__(self, factors: Sequence[Operator], G: Operator, **known: Any) -> None:
        F = factors[0]
        shape = (F.shape[0], G.shape[0])
        super().__init__(factors, shape, F.dtype, dims=G.dimsd, dimsd=F.dimsd, **known)
        self.space = F.space
        self.domain = G.space

    def rows(self, index: Index) -> Array:
        return self._block(index, slice(0, self.shape[1]))


def _check_factor(F: Operator) -> None:
    if F.dtype.kind == "c":
        raise TypeError(f"the factor of a Gram must be real, not {F.dtype}")


class Gram(_OfFactors):
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
        _check_factor(factor)
        if weights is not None:
            wanted = None if factor.dtype_free else factor.dtype
            weights = check_real(weights, "weights", dtype=wanted, finite=True)
            if weights.shape != (factor.shape[1],):
                raise ValueError(
                    f"weights has shape {weights.shape}, the factor has {factor.shape[1]} columns"
                )
            factor = factor.astype(weights.dtype)
            if operator_module(factor) not in (None, module_name(weights)):
                raise TypeError(mixed(factor, weights))
        self.factor = factor
        self.weights = weights
        self.dtype_free = weights is None and factor.dtype_free
        psd = weights is None or bool((weights >= 0).all())
        super().__init__([factor], factor, psd=psd, symmetric=True, symbol=symbol)

    def _formula(self) -> str:
        F = bracketed(self.factor)
        return f"{F} {F}ᵀ" if self.weights is None else f"{F} diag(w) {F}ᵀ"

    def cost(self, columns: int = 1) -> Cost:
        return self.factor.cost(columns).times(2)

    def _matmat(self, X: Array) -> Array:
        columns = X.shape[1]
        if self.factor.sparse:
            # Fᵀ X is dense: of a wide sparse factor it may be far heavier than the factor itself.
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

    def _block(self, rows: Index, cols: Index) -> Array:
        return gram_block(self.factor, rows, cols, self.weights)

    def _diagonal(self) -> Array:
        return gram_diagonal(self.factor, self.weights)


class CrossGram(_OfFactors):
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
        super().__init__([F, G], G, symbol=symbol)

    def _formula(self) -> str:
        F, G = map(bracketed, self.parts)
        return f"{F} {G}ᵀ"

    def _matmat(self, X: Array) -> Array:
        F, G = self.parts
        return F.matmat(G.rmatmat(X))

    def _rmatmat(self, X: Array) -> Array:
        F, G = self.parts
        return G.matmat(F.rmatmat(X))

    def _block(self, rows: Index, cols: Index) -> Array:
        return cross_block(*self.parts, rows, cols)


class GramVelocity(_OfFactors):
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
        _check_factor(F)
        super().__init__([F, dF], F, symmetric=True, symbol=symbol)

    def _formula(self) -> str:
        F, dF = map(bracketed, self.parts)
        return f"({dF} {F}ᵀ + {F} {dF}ᵀ)"

    def cost(self, columns: int = 1) -> Cost:
        return super().cost(columns).times(2)

    def _matmat(self, X: Array) -> Array:
        F, dF = self.parts
        return F._matmat(dF._rmatmat(X)) + dF._matmat(F._rmatmat(X))

    _rmatmat = _matmat

    def _block(self, rows: Index, cols: Index) -> Array:
        upper = cross_block(*self.parts, rows, cols)
        return upper + cross_block(*self.parts, cols, rows).T

    def _diagonal(self) -> Array:
        return 2 * cross_diagonal(*self.parts)


@block_work.register
def _gram_block_work(op: Gram, rows: int, cols: int) -> Work:
    work = gram_work(op.factor, rows, cols)
    if op.weights is None:
        return work
    return work._replace(held=work.held + array_bytes(op, rows, op.factor.shape[1]))


@block_work.register
def _velocity_block_work(op: GramVelocity, rows: int, cols: int) -> Work:
    works = [gram_work(F, rows, cols) for F in op.parts]
    size = array_bytes(op, rows, cols)
    cost = works[0].cost + works[1].cost + (0.0, size)
    return Work(cost, 2 * size + 2 * max(work.held for work in works))
