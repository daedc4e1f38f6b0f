"""The Jacobian of the outputs by the readout, ``a ⊗ I_k``, which no array of N·k² numbers holds."""

from __future__ import annotations

from opflow.machine.arrays import Array, Index, namespace
from opflow.machine.workspace import op_namespace
from opflow.operators import Identity, KhatriRao, Operator
from opflow.operators.diagonal import entry_indices
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    cross_block,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.kfac import Factors, kfac_factors, squared
from opflow.operators.operator import Cost


class ReadoutJacobian(Operator):
    """``∂f/∂vec V``: ``a ⊗ I_k`` with its columns in the order of V, and so ``∂f/∂c`` for a = 1.

    `a` is (N, n) and `outputs` k.  Its Gram is A ⊗ I_k.  2·N·n·k flops a column each way.
    """

    def __init__(self, a: Operator, outputs: int) -> None:
        self.a = a
        self.outputs = outputs
        self.row_access = a.row_access
        shape = (a.shape[0] * outputs, a.shape[1] * outputs)
        super().__init__(shape, a.dtype, symbol=f"{a.symbol} ⊗ I" if outputs > 1 else a.symbol)

    @property
    def operands(self) -> tuple[Operator, ...]:
        return (self.a,)

    def cost(self, columns: int = 1) -> Cost:
        return self.a.cost(columns * self.outputs)

    def rows(self, index: Index) -> Array:
        which = op_namespace(self).arange(self.shape[0])[index]
        below = self.a.rows(which // self.outputs)
        own = (which % self.outputs)[:, None] == op_namespace(self).arange(self.outputs)
        return (own[:, :, None] * below[:, None, :]).reshape(len(below), -1)

    def _matmat(self, X: Array) -> Array:
        n, c = self.a.shape[1], X.shape[1]
        by_unit = X.reshape(self.outputs, n, c).transpose(1, 0, 2).reshape(n, -1)
        return self.a._matmat(by_unit).reshape(-1, c)

    def _rmatmat(self, X: Array) -> Array:
        c = X.shape[1]
        sums = self.a._rmatmat(X.reshape(self.a.shape[0], -1))
        return sums.reshape(-1, self.outputs, c).transpose(1, 0, 2).reshape(-1, c)

    def _block(self, rows: Index, cols: Index) -> Array:
        i, j = entry_indices(self, rows, cols)
        k, n = self.outputs, self.a.shape[1]
        return self.a._block(i[:, 0] // k, j % n) * (i % k == j // n)


def layer_jacobian(phi: Operator, a: Operator) -> Operator:
    """``φ ⊙ a`` of a layer; of the readout, whose φ is 1 ⊗ I, a ⊗ I."""
    return (
        ReadoutJacobian(a, phi.outputs) if isinstance(phi, ReadoutJacobian) else KhatriRao(phi, a)
    )


entries_are_cheap.register(ReadoutJacobian, cheap_in_operands)


@gram_diagonal.register
def _gram_diagonal(J: ReadoutJacobian, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    return gram_diagonal(J.a).repeat(J.outputs)


@gram_block.register
def _gram_block(
    J: ReadoutJacobian, rows: Index, cols: Index, weights: Array | None = None
) -> Array:
    if weights is not None:
        return NotImplemented
    return cross_block(J, J, rows, cols)


@cross_block.register
def _cross_block(J: ReadoutJacobian, other: Operator, rows: Index, cols: Index) -> Array:
    if not isinstance(other, ReadoutJacobian):
        return NotImplemented
    xp, k = op_namespace(J), J.outputs
    i = xp.arange(J.shape[0])[rows]
    j = xp.arange(other.shape[0])[cols]
    return cross_block(J.a, other.a, i // k, j // k) * (i[:, None] % k == j % k)


@column_squares.register
def _column_squares(J: ReadoutJacobian) -> Array:
    squares = column_squares(J.a)
    return namespace(squares).tile(squares, J.outputs)


@kfac_factors.register
def _kfac_factors(J: ReadoutJacobian) -> Factors:
    samples = J.a.shape[0]
    return samples * Identity(J.outputs), squared(J.a) / samples
