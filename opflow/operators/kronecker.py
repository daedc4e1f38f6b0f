"""Operators on units or on samples, lifted to act on whole (N, n) fields.

A field is flattened sample-major.  ``I_N ⊗ W`` applies W to every sample, ``A ⊗ I_n`` mixes the
samples of every unit by A.
"""

from __future__ import annotations

from opflow.machine.arrays import Array, Data, Index, namespace
from opflow.machine.cost import Cost
from opflow.operators.diagonal import entry_indices
from opflow.operators.entries import cheap_in_operands, entries_are_cheap
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator


class KroneckerIdentity(Operator):
    """What the two lifts share: an operator, its tags, and a number of copies of it."""

    def __init__(self, op: Data, copies: int, name: str, samples_first: bool) -> None:
        if not copies >= 1:
            raise ValueError(f"{name} must be at least 1, not {copies}")
        self.op = as_operator(op)
        self.copies = int(copies)
        m, n = self.op.shape
        super().__init__(
            (m * self.copies, n * self.copies),
            self.op.dtype,
            symmetric=self.op.symmetric,
            psd=self.op.psd,
            dims=(self.copies, n) if samples_first else (n, self.copies),
            dimsd=(self.copies, m) if samples_first else (m, self.copies),
        )

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.op,)

    def cost(self, columns: int = 1) -> Cost:
        return self.op.cost(columns * self.copies)


entries_are_cheap.register(KroneckerIdentity, cheap_in_operands)


class SampleLift(KroneckerIdentity):
    """``I_N ⊗ W``: apply `W` to every sample of a field.

    Parameters
    ----------
    W : array (n_out, n_in) or operator
    samples : int
        N.

    Notes
    -----
    Maps a field (N, n_in) to (N, n_out), both flattened sample-major; one product of W with
    N columns.  Keeps the tags of W.

    Examples
    --------
    >>> import numpy as np
    >>> SampleLift(np.array([[1.0, 1.0]]), samples=2) @ np.array([1.0, 2.0, 3.0, 4.0])
    array([3., 7.])
    """

    def __init__(self, W: Data, samples: int) -> None:
        super().__init__(W, samples, "samples", samples_first=True)

    @property
    def symbol(self) -> str:
        return f"(I ⊗ {self.op._factor_symbol})"

    def _by_unit(self, X: Array) -> Array:
        """A field (N, n) as a block of N vectors of n numbers, for each column."""
        by_unit = X.reshape(self.copies, -1, X.shape[1]).transpose(1, 0, 2)
        return by_unit.reshape(by_unit.shape[0], -1)

    def _by_sample(self, X: Array, columns: int) -> Array:
        return X.reshape(-1, self.copies, columns).transpose(1, 0, 2).reshape(-1, columns)

    def _matmat(self, X: Array) -> Array:
        return self._by_sample(self.op._matmat(self._by_unit(X)), X.shape[1])

    def _rmatmat(self, X: Array) -> Array:
        return self._by_sample(self.op._rmatmat(self._by_unit(X)), X.shape[1])

    def _diagonal(self) -> Array:
        d = self.op.diagonal()
        return namespace(d).tile(d, self.copies)

    def _block(self, rows: Index, cols: Index) -> Array:
        m, n = self.op.shape
        i, j = entry_indices(self, rows, cols)
        return self.op._block(i[:, 0] % m, j % n) * (i // m == j // n)


class FeatureLift(KroneckerIdentity):
    """``A ⊗ I_n``: mix the samples of a field by `A`, the same for every unit.

    Parameters
    ----------
    A : array (N_out, N_in) or operator
    features : int
        n, the number of units.

    Notes
    -----
    Maps a field (N_in, n) to (N_out, n); one product of A with n columns.  Keeps A's tags.

    Examples
    --------
    >>> import numpy as np
    >>> FeatureLift(np.array([[1.0, 1.0]]), features=2) @ np.array([1.0, 2.0, 3.0, 4.0])
    array([4., 6.])
    """

    def __init__(self, A: Data, features: int) -> None:
        super().__init__(A, features, "features", samples_first=False)

    @property
    def symbol(self) -> str:
        return f"({self.op._factor_symbol} ⊗ I)"

    def _matmat(self, X: Array) -> Array:
        return self.op._matmat(X.reshape(self.op.shape[1], -1)).reshape(-1, X.shape[1])

    def _rmatmat(self, X: Array) -> Array:
        return self.op._rmatmat(X.reshape(self.op.shape[0], -1)).reshape(-1, X.shape[1])

    def _diagonal(self) -> Array:
        return self.op.diagonal().repeat(self.copies)

    def _block(self, rows: Index, cols: Index) -> Array:
        i, j = entry_indices(self, rows, cols)
        n = self.copies
        return self.op._block(i[:, 0] // n, j // n) * (i % n == j % n)
