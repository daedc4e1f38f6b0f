"""Kronecker products, and the lifts of operators to whole fields, ``I_N ⊗ W`` and ``A ⊗ I_n``.

A field is flattened sample-major.  ``I_N ⊗ W`` applies W to every sample, ``A ⊗ I_n`` mixes the
samples of every unit by A.
"""

from __future__ import annotations

from typing import Any

from opflow.machine.arrays import Array, Data, Index, check_integer, namespace
from opflow.machine.cost import Cost
from opflow.operators.composite import Composite, common_tags, unify
from opflow.operators.diagonal import Identity, entry_indices
from opflow.operators.entries import cheap_in_operands, entries_are_cheap
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator


class Kronecker(Composite):
    r"""The Kronecker product ``A ⊗ B``, or ``diag(A_1 ⊗ B_1, A_2 ⊗ B_2, …)`` of several pairs.

    Parameters
    ----------
    *pairs : tuples (A, B) of arrays, sparse matrices or operators
    symbol : str, optional
    **dims : tuple of int
        `dims` and `dimsd` of :class:`Operator`.

    See Also
    --------
    opflow.SampleLift : ``I ⊗ W``, a matrix applied to every sample.
    opflow.FeatureLift : ``A ⊗ I``, a matrix that mixes samples.
    opflow.KhatriRao : The row-wise Kronecker product.
    opflow.kfac : Kronecker factors of a Gauss–Newton matrix.

    Notes
    -----
    :math:`(A \otimes B)\,\mathrm{vec}(M) = \mathrm{vec}(A M B^T)`, vec in C order: a product of B
    with as many columns as A has, and one of A with as many as B has rows.  PSD, or symmetric, if
    all factors are.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Kronecker((np.array([[1.0, 2.0]]), np.eye(2))).todense()
    array([[1., 0., 2., 0.],
           [0., 1., 0., 2.]])
    """

    row_access = False

    def __init__(self, *pairs: tuple[Data, Data], symbol: str | None = None, **dims: Any) -> None:
        parts = unify([as_operator(factor) for pair in pairs for factor in pair])
        sizes = ((A.shape, B.shape) for A, B in zip(parts[::2], parts[1::2], strict=True))
        heights, widths = zip(*((m * p, n * q) for (m, n), (p, q) in sizes), strict=True)
        super().__init__(
            parts,
            (sum(heights), sum(widths)),
            parts[0].dtype,
            symbol=symbol,
            **common_tags(parts),
            **dims,
        )

    @property
    def pairs(self) -> list[tuple[Operator, Operator]]:
        """The factors of each block."""
        return list(zip(self.parts[::2], self.parts[1::2], strict=True))

    def _formula(self) -> str:
        return " ⊕ ".join(f"({A._factor_symbol} ⊗ {B._factor_symbol})" for A, B in self.pairs)

    def cost(self, columns: int = 1) -> Cost:
        costs = (B.cost(columns * A.shape[1]) + A.cost(columns * B.shape[0]) for A, B in self.pairs)
        return sum(costs, Cost(0.0, 0.0))

    def _matmat(self, X: Array) -> Array:
        return self._product(X, 1)

    def _rmatmat(self, X: Array) -> Array:
        return self._product(X, 0)

    def _product(self, X: Array, side: int) -> Array:
        """The operator times X, or its adjoint for the side 0."""
        c = X.shape[1]
        start = 0
        out = []
        for A, B in self.pairs:
            n, m = A.shape[side], B.shape[side]
            Y = X[start : start + n * m]
            start += n * m
            if not isinstance(B, Identity):
                Y = Y.reshape(n, m, c).transpose(1, 0, 2).reshape(m, -1)
                Y = B._matmat(Y) if side else B._rmatmat(Y)
                Y = Y.reshape(-1, n, c).transpose(1, 0, 2)
            if not isinstance(A, Identity):
                Y = Y.reshape(n, -1)
                Y = A._matmat(Y) if side else A._rmatmat(Y)
            out.append(Y.reshape(-1, c))
        if len(out) == 1:
            return out[0]
        return namespace(X).concatenate(out)

    def _diagonal(self) -> Array:
        if any(part.shape[0] != part.shape[1] for part in self.parts):
            return super()._diagonal()
        found = [(A.diagonal()[:, None] * B.diagonal()).reshape(-1) for A, B in self.pairs]
        return namespace(*found).concatenate(found)

    def _block(self, rows: Index, cols: Index) -> Array:
        if len(self.parts) > 2:
            return super()._block(rows, cols)
        A, B = self.parts
        column, j = entry_indices(self, rows, cols)
        i = column[:, 0]
        p, q = B.shape
        return A._block(i // p, j // q) * B._block(i % p, j % q)


@entries_are_cheap.register
def _entries_are_cheap(op: Kronecker) -> bool:
    return len(op.parts) == 2 and cheap_in_operands(op)


class SampleLift(Kronecker):
    """The operator ``I_N ⊗ W``, which applies `W` to every sample of a field.

    Parameters
    ----------
    W : array (n_out, n_in) or operator
    samples : int
        N, the number of samples.

    See Also
    --------
    opflow.FeatureLift : ``A ⊗ I``, which mixes the samples.
    opflow.BlockDiagonal : A block of its own for every sample.
    opflow.Kronecker : Any two factors.

    Notes
    -----
    Maps a field (N, n_in) to (N, n_out), both flattened sample-major; one product of W with
    N columns.  Keeps the tags of W.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.SampleLift(np.array([[1.0, 1.0]]), samples=2) @ np.array([1.0, 2.0, 3.0, 4.0])
    array([3., 7.])
    """

    def __init__(self, W: Data, samples: int) -> None:
        W = as_operator(W)
        copies = Identity(check_integer(samples, "samples", 1))
        super().__init__((copies, W), dims=(samples, W.shape[1]), dimsd=(samples, W.shape[0]))


class FeatureLift(Kronecker):
    """The operator ``A ⊗ I_n``, which mixes the samples of a field by `A`, alike for every unit.

    Parameters
    ----------
    A : array (N_out, N_in) or operator
    features : int
        n, the number of units.

    See Also
    --------
    opflow.SampleLift : ``I ⊗ W``, which mixes the units of every sample.
    opflow.Kronecker : Any two factors.

    Notes
    -----
    Maps a field (N_in, n) to (N_out, n); one product of A with n columns.  Keeps A's tags.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.FeatureLift(np.array([[1.0, 1.0]]), features=2) @ np.array([1.0, 2.0, 3.0, 4.0])
    array([4., 6.])
    """

    def __init__(self, A: Data, features: int) -> None:
        A = as_operator(A)
        copies = Identity(check_integer(features, "features", 1))
        super().__init__((A, copies), dims=(A.shape[1], features), dimsd=(A.shape[0], features))
