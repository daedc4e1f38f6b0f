"""The choice of which kernels keep one Gram dense, and which of their two Grams.

A kernel is a ``Gram(A ⊙ B)`` among the terms; either side may keep its Gram as a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opflow.evaluation.dense import dense, dense_plan
from opflow.evaluation.gram_side import GramSide
from opflow.machine.cost import NOMINAL, MachineProfile
from opflow.operators.algebra import Sum
from opflow.operators.composite import Scaled
from opflow.operators.gram import Gram
from opflow.operators.khatri_rao import KhatriRao
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import add, scale
from opflow.operators.tiles import stand_in


class Side(NamedTuple):
    """A kernel ``Gram(A ⊙ B)``, the factor that stays and the one whose Gram is kept."""

    kernel: Gram
    stays: Operator
    kept: Gram

    @property
    def forming(self) -> Cost:
        return dense_plan(self.kept).cost

    @property
    def bytes(self) -> float:
        """Of the Gram that is kept."""
        return stand_in(self.kept).cost(0).bytes

    def form(self, gram: Operator) -> GramSide:
        return GramSide(self.stays, gram, symbol=self.kernel._symbol)

    def stand_in(self) -> GramSide:
        """The form as it will cost, with nothing formed."""
        return self.form(stand_in(self.kept))


def kernels(op: Operator) -> list[Gram]:
    """The Grams of Khatri–Rao products among the terms of `op`."""
    if isinstance(op, Sum | Scaled):
        return [kernel for term in op.operands for kernel in kernels(term)]
    if isinstance(op, Gram) and op.weights is None and isinstance(op.factor, KhatriRao):
        return [op]
    return []


def best_side(kernel: Gram, columns: int) -> Side:
    """The side with the cheaper products; with several outputs only one Gram is N × N."""
    A, B = kernel.factor.operands
    sides = [Side(kernel, A, Gram(B))]
    if A.shape[0] == B.shape[0]:
        sides.append(Side(kernel, B, Gram(A)))
    return min(sides, key=lambda side: NOMINAL.seconds(side.stand_in().cost(columns), kernel.dtype))


def paying_sides(
    op: Operator, products: int, columns: int, budget: float, rates: MachineProfile
) -> list[Side]:
    """The kernels that are faster on their Gram side, the most saving first, within the budget.

    All of them if none is, and those that pay if none fits: to be shown, not to be chosen.
    """

    def saving(side: Side) -> float:
        before = rates.seconds(side.kernel.cost(columns), op.dtype)
        after = rates.seconds(side.stand_in().cost(columns), op.dtype)
        forming = rates.seconds(side.forming, op.dtype) + side.bytes / rates.fresh
        return products * (before - after) - forming

    sides = sorted((best_side(kernel, columns) for kernel in kernels(op)), key=saving, reverse=True)
    paying = [side for side in sides if saving(side) > 0] or sides
    fitting: list[Side] = []
    for side in paying:
        if kept_bytes([*fitting, side], budget) <= budget:
            fitting.append(side)
    return fitting or paying


def replaced(op: Operator, forms: Mapping[int, Operator]) -> Operator:
    """`op` with some of its kernels, known by their ids, in another form."""
    if id(op) in forms:
        return forms[id(op)]
    if isinstance(op, Sum):
        return add(*(replaced(term, forms) for term in op.operands))
    if isinstance(op, Scaled):
        return scale(op.scalar, replaced(op.operands[0], forms))
    return op


def gram_sided(op: Operator, sides: Sequence[Side], budget: float) -> Operator:
    """`op` with the Grams of `sides` formed; a MemoryError before that if they do not fit."""
    need = kept_bytes(sides, budget)
    if need > budget:
        raise MemoryError(
            f"keeping {len(sides)} Grams of order {sides[0].kept.shape[0]} takes "
            f"{need / 1e9:.3g} GB, over the budget of {budget / 1e9:.3g} GB"
        )
    forms: dict[int, Operator] = {}
    left = budget
    for side in sides:
        G = Matrix(dense(side.kept, left), psd=True, symbol=side.kept.symbol)
        left -= G.data.nbytes
        forms[id(side.kernel)] = side.form(G)
    return replaced(op, forms)


def kept_bytes(sides: Sequence[Side], budget: float) -> float:
    """The Grams, and the most that forming one after the other holds."""
    held = peak = 0.0
    for side in sides:
        plan = dense_plan(side.kept, budget - held)
        peak = max(peak, held + plan.held)
        held += side.bytes
    return peak
