"""Gram operators ``G = F diag(w) Fᵀ`` and their velocity, applied through the factor, never formed.

A product costs two products with F.  Sub-blocks and the diagonal come from the rows of F, so
they cost what they weigh.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.machine.arrays import check_gates, check_real, mixed, module_name, namespace
from opflow.machine.workspace import operator_module, row_slices, workspace_bytes
from opflow.operators.algebra import as_operator, unify
from opflow.operators.gates import PackedGates
from opflow.operators.operator import Cost, Operator, bracketed


class Gram(Operator):
    r"""The Gram operator of the rows of `F`.

    Parameters
    ----------
    F : array (N, m), sparse matrix, or operator
        The factor: dense, sparse, packed gates, or any PyLops/opflow operator.
    weights : array of shape (m,), optional
        Weights of the columns of F; PSD if none is negative, else symmetric only.
    symbol : str, optional

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

    def __init__(self, F: Any, weights: Any = None, *, symbol: str | None = None) -> None:
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
        return self.weights is None and self.factor.dtype_free

    def astype(self, dtype: Any) -> Operator:
        if self.dtype_free:
            return type(self)._from_factor(self.factor.astype(dtype), self._symbol)
        return super().astype(dtype)

    @classmethod
    def _from_factor(cls, factor: Operator, symbol: str | None) -> Operator:
        return Gram(factor, symbol=symbol)

    def cost(self, columns: int = 1) -> Cost:
        return self.factor.cost(columns).times(2)

    def _matmat(self, X: Any) -> Any:
        # A sparse factor may be far wider than it is heavy: Fᵀ X, dense, by columns of X.
        width = self.factor.shape[1] * X.dtype.itemsize
        columns = max(16, int(workspace_bytes() // width))
        if getattr(self.factor, "sparse", False) and columns < X.shape[1]:
            out = namespace(X).empty(X.shape, dtype=X.dtype)
            for s in row_slices(X.shape[1], 1, columns):
                out[:, s] = self._product(namespace(X).ascontiguousarray(X[:, s]))
            return out
        return self._product(X)

    def _product(self, X: Any) -> Any:
        if self.weights is None:
            return self.factor._gram_product(X)
        return self.factor.matmat(self.factor.rmatmat(X) * self.weights[:, None])

    def _rmatmat(self, X: Any) -> Any:
        return self._matmat(X)

    def rows(self, index: Any) -> Any:
        return self._block(index, slice(0, self.shape[0]))

    def _block(self, rows: Any, cols: Any) -> Any:
        return self.factor._gram_block(rows, cols, self.weights)

    def _diagonal(self) -> Any:
        return self.factor._gram_diagonal(self.weights)


class CrossGram(Operator):
    r"""The Gram between the rows of two factors: ``F Gᵀ``.

    Parameters
    ----------
    F : array (M, m), sparse matrix, or operator
    G : array (N, m), sparse matrix, or operator
    symbol : str, optional

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

    def __init__(self, F: Any, G: Any, *, symbol: str | None = None) -> None:
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

    def _matmat(self, X: Any) -> Any:
        return self.F.matmat(self.G.rmatmat(X))

    def _rmatmat(self, X: Any) -> Any:
        return self.G.matmat(self.F.rmatmat(X))

    def rows(self, index: Any) -> Any:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Any, cols: Any) -> Any:
        return self.F._cross_block(self.G, rows, cols)


class GramVelocity(Operator):
    r"""The velocity of a Gram whose factor moves: ``Ḟ Fᵀ + F Ḟᵀ``.

    Parameters
    ----------
    F : array (N, m), sparse matrix, or operator
    dF : the same, of the same shape
        The velocity of `F`.
    symbol : str, optional

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

    def __init__(self, F: Any, dF: Any, *, symbol: str | None = None) -> None:
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

    def _matmat(self, X: Any) -> Any:
        return self.F.matmat(self.dF.rmatmat(X)) + self.dF.matmat(self.F.rmatmat(X))

    _rmatmat = _matmat

    def rows(self, index: Any) -> Any:
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Any, cols: Any) -> Any:
        upper = self.F._cross_block(self.dF, rows, cols)
        return upper + self.F._cross_block(self.dF, cols, rows).T

    def _diagonal(self) -> Any:
        return 2 * self.F._cross_diagonal(self.dF)


class CoActivation(Gram):
    r"""The co-activation matrix of a layer, from gates kept at one bit each.

    Parameters
    ----------
    gates : bool array of shape (N, n), or PackedGates
    weights : array of shape (n,), optional
        Weight of each unit: ``v**2`` for a readout v.
    dtype : dtype, optional
        Of products; that of `weights` if given, else float64.

    Notes
    -----
    :math:`C_{\mu\nu} = \sum_i w_i\, \theta_i^\mu \theta_i^\nu`; gates are unpacked in row blocks
    inside a product, which costs 4·N·n flops a column and reads N·n/8 bytes twice.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.CoActivation(np.array([[True, True], [False, True]])).todense()
    array([[2., 1.],
           [1., 1.]])
    """

    def __init__(
        self, gates: Any, weights: Any = None, *, dtype: Any = None, symbol: str | None = None
    ) -> None:
        if not isinstance(gates, PackedGates):
            gates = PackedGates(gates)
        if dtype is not None:
            gates = gates.astype(dtype)
        super().__init__(gates, weights, symbol=symbol)

    @classmethod
    def _from_factor(cls, factor: Operator, symbol: str | None) -> Operator:
        return CoActivation(factor, symbol=symbol)


class WeightGram(Gram):
    r"""The weight-induced Gram operator ``Wᵀ D_μ D_ν W`` of two samples.

    Parameters
    ----------
    W : array of shape (n_out, n_in)
    gates : bool array of shape (n_out,)
        Gates θ_μ of one sample.
    gates2 : bool array of shape (n_out,), optional
        Gates θ_ν of the other; `gates` by default.

    Notes
    -----
    :math:`\sum_i \theta_i^\mu \theta_i^\nu\, w_i w_i^T` over the rows w_i of W: the first
    nontrivial member of the pullback recursion.  Symmetric and PSD for every pair of samples,
    because D_μ D_ν is itself a mask.  A product costs 4·n_out·n_in flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.WeightGram(np.array([[1.0, 2.0], [3.0, 4.0]]), [True, False]).todense()
    array([[1., 2.],
           [2., 4.]])
    """

    def __init__(self, W: Any, gates: Any, gates2: Any = None, *, symbol: str = "WᵀDDW") -> None:
        W = as_operator(W, symbol="W")
        both = _unit_gates(gates, "gates", W)
        if gates2 is not None:
            both = both & _unit_gates(gates2, "gates2", W)
        super().__init__(W.T, both.astype(W.dtype), symbol=symbol)


def _unit_gates(gates: Any, name: str, W: Operator) -> Any:
    gates = check_gates(gates, name)
    if gates.shape != (W.shape[0],):
        raise ValueError(f"{name} has shape {gates.shape} but W has {W.shape[0]} output units")
    return gates
