"""Operators on units or on samples, lifted to act on whole (N, n) fields.

A field is flattened sample-major.  ``I_N ⊗ W`` applies W to every sample, ``A ⊗ I_n`` mixes the
samples of every unit by A.
"""

from __future__ import annotations

from typing import Any

from opflow.machine.arrays import namespace
from opflow.machine.workspace import op_namespace
from opflow.operators.entries import cheap_in_operands, entries_are_cheap
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import as_operator


class _Lift(Operator):
    """What the two lifts share: an operand, its tags, and a number of copies."""

    def __init__(self, op: Any, copies: int, name: str, samples_first: bool) -> None:
        if not copies >= 1:
            raise ValueError(f"{name} must be at least 1, not {copies}")
        self.op, self.copies = as_operator(op), int(copies)
        m, n = self.op.shape
        order = (
            (lambda size: (self.copies, size))
            if samples_first
            else (lambda size: (size, self.copies))
        )
        super().__init__(
            (m * self.copies, n * self.copies),
            self.op.dtype,
            symmetric=self.op.symmetric,
            psd=self.op.psd,
            dims=order(n),
            dimsd=order(m),
        )

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.op,)

    def cost(self, columns: int = 1) -> Cost:
        return self.op.cost(columns * self.copies)


class SampleLift(_Lift):
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

    def __init__(self, W: Any, samples: int) -> None:
        super().__init__(W, samples, "samples", samples_first=True)

    @property
    def symbol(self) -> str:
        return f"(I ⊗ {self.op._factor_symbol})"

    def _each_sample(self, product: Any, X: Any) -> Any:
        c = X.shape[1]
        by_unit = X.reshape(self.copies, -1, c).transpose(1, 0, 2)
        out = product(by_unit.reshape(by_unit.shape[0], -1))
        return out.reshape(-1, self.copies, c).transpose(1, 0, 2).reshape(-1, c)

    def _matmat(self, X: Any) -> Any:
        return self._each_sample(self.op.matmat, X)

    def _rmatmat(self, X: Any) -> Any:
        return self._each_sample(self.op.rmatmat, X)

    def _diagonal(self) -> Any:
        d = self.op.diagonal()
        return namespace(d).tile(d, self.copies)

    def _block(self, rows: Any, cols: Any) -> Any:
        m, n = self.op.shape
        xp = op_namespace(self)
        i, j = xp.arange(self.shape[0])[rows], xp.arange(self.shape[1])[cols]
        return self.op._block(i % m, j % n) * (i[:, None] // m == j // n)


class FeatureLift(_Lift):
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

    def __init__(self, A: Any, features: int) -> None:
        super().__init__(A, features, "features", samples_first=False)

    @property
    def symbol(self) -> str:
        return f"({self.op._factor_symbol} ⊗ I)"

    def _matmat(self, X: Any) -> Any:
        return self.op.matmat(X.reshape(self.op.shape[1], -1)).reshape(-1, X.shape[1])

    def _rmatmat(self, X: Any) -> Any:
        return self.op.rmatmat(X.reshape(self.op.shape[0], -1)).reshape(-1, X.shape[1])

    def _diagonal(self) -> Any:
        return self.op.diagonal().repeat(self.copies)

    def _block(self, rows: Any, cols: Any) -> Any:
        xp, n = op_namespace(self), self.copies
        i, j = xp.arange(self.shape[0])[rows], xp.arange(self.shape[1])[cols]
        return self.op._block(i // n, j // n) * (i[:, None] % n == j % n)


entries_are_cheap.register(_Lift, cheap_in_operands)
