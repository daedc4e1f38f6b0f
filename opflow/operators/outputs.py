"""The Jacobian of one output, of the sum of all, or of all k side by side (``outputs=``)."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from opflow.machine.arrays import Array, Index, check_integer, namespace
from opflow.machine.workspace import op_namespace
from opflow.operators.by_class import by_class
from opflow.operators.composite import Composite, Scaled
from opflow.operators.entries import gram_block, gram_diagonal
from opflow.operators.khatri_rao import KhatriRao
from opflow.operators.kronecker import SampleLift
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import scale
from opflow.operators.stack import HStack, VStack

#: words for outputs; a number stands for one of them
WORDS = ("all", "sum", "trace")


def check_outputs(outputs: str | int) -> str | int:
    """`outputs`, if it is one of the words or a number."""
    if not isinstance(outputs, str):
        return check_integer(outputs, "outputs", 0)
    if outputs not in WORDS:
        raise ValueError(f"outputs must be 'all', 'sum', 'trace' or a number, not {outputs!r}")
    return outputs


class OutputTrace(Composite):
    """The k outputs of each sample in columns of their own, ``[J_1 … J_k]`` (N, P·k).

    J (N·k, P) has its rows sample-major.  The Gram ``Σ_p J_p J_pᵀ`` is the sum of the kernels of
    all outputs.  A product costs that of J with k columns for each.
    """

    def __init__(self, J: Operator, outputs: int) -> None:
        self.J = J
        self.outputs = outputs
        shape = (J.shape[0] // outputs, J.shape[1] * outputs)
        super().__init__([J], shape, J.dtype, symbol=f"tr {J.symbol}")

    def cost(self, columns: int = 1) -> Cost:
        return self.J.cost(columns * self.outputs)

    def rows(self, index: Index) -> Array:
        xp = op_namespace(self)
        samples = xp.arange(self.shape[0])[index]
        rows = samples[:, None] * self.outputs + xp.arange(self.outputs)
        return self.J.rows(rows.reshape(-1)).reshape(len(samples), self.shape[1])

    def _matmat(self, X: Array) -> Array:
        k, c = self.outputs, X.shape[1]
        by_output = X.reshape(k, -1, c).transpose(1, 0, 2).reshape(-1, k * c)
        moved = self.J._matmat(by_output).reshape(-1, k, k, c)
        return moved.diagonal(axis1=1, axis2=2).sum(axis=-1)

    def _rmatmat(self, X: Array) -> Array:
        k, c = self.outputs, X.shape[1]
        spread = namespace(X).zeros((len(X), k, k, c), dtype=X.dtype)
        for p in range(k):
            spread[:, p, p] = X
        pulled = self.J._rmatmat(spread.reshape(-1, k * c))
        return pulled.reshape(-1, k, c).transpose(1, 0, 2).reshape(-1, c)


@gram_diagonal.register
def _gram_diagonal(F: OutputTrace, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    return gram_diagonal(F.J).reshape(-1, F.outputs).sum(axis=1)


@gram_block.register
def _gram_block(F: OutputTrace, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    if weights is not None:
        return NotImplemented
    xp, k = op_namespace(F), F.outputs
    i, j = (xp.arange(F.shape[0])[index] * k for index in (rows, cols))
    return reduce(add, (gram_block(F.J, i + p, j + p) for p in range(k)))


def of_outputs(J: Operator, k: int, outputs: str | int) -> Operator:
    """The Jacobian of what `outputs` names; see :func:`opflow.jacobian`."""
    outputs = check_outputs(outputs)
    if not isinstance(outputs, str):
        check_integer(outputs, "outputs", 0, k - 1)
    if outputs == "all" or k == 1:
        return J
    if outputs == "trace":
        return OutputTrace(J, k)
    chosen = np.ones(k, bool)
    if outputs != "sum":
        chosen = np.arange(k) == outputs
    return contracted(J, chosen)


@by_class
def contracted(J: Operator, chosen: Array) -> Operator:
    """The sum of the rows of the outputs that are `chosen` (k,)."""
    row = op_namespace(J).asarray(chosen[None], dtype=J.dtype)
    return SampleLift(row, J.shape[0] // len(chosen)) @ J


@contracted.register
def _contracted_multiple(J: Scaled, chosen: Array) -> Operator:
    return scale(J.scalar, contracted(J.parts[0], chosen))


@contracted.register(HStack)
@contracted.register(VStack)
def _contracted_stack(J: HStack | VStack, chosen: Array) -> Operator:
    return type(J)([contracted(op, chosen) for op in J.parts], symbol=J._symbol)


@contracted.register
def _contracted_matrix(J: Matrix, chosen: Array) -> Operator:
    if J.sparse or type(J) is not Matrix:
        return NotImplemented
    rows = J.data.reshape(-1, len(chosen), J.shape[1])
    if chosen.sum() == 1:  # a view
        return Matrix(rows[:, int(chosen.argmax())], symbol=J._symbol)
    return Matrix(rows.sum(axis=1), symbol=J._symbol)


@contracted.register
def _contracted_khatri_rao(J: KhatriRao, chosen: Array) -> Operator:
    if type(J.A) is not Matrix or J.A.sparse:
        return NotImplemented
    return KhatriRao(contracted(J.A, chosen), J.B)
