"""Exact spectra of small operators by LAPACK, and the rank and the factor that structure gives.

A Gram ``F diag(w) Fᵀ`` with F (n, p) has the nonzero spectrum of a matrix of order p, so the
smaller side decides, and n − p of its eigenvalues are zero by structure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opflow.evaluation.dense import dense_plan
from opflow.interface.keywords import advance
from opflow.machine.arrays import Array
from opflow.machine.workspace import operator_module, parse_memory
from opflow.operators.algebra import Product, Sum
from opflow.operators.composite import Adjoint, Cast, Scaled
from opflow.operators.diagonal import Diagonal, Zero
from opflow.operators.gram import CrossGram, Gram
from opflow.operators.operator import Cost, Operator
from opflow.operators.rules import scale
from opflow.operators.stack import HStack
from opflow.spectral.blocks import distribution_of, finite, on_host, rounding_of
from opflow.spectral.checks import DENSE
from opflow.spectral.traces.structure import NOMINAL, forming_products, matrix_of

#: Flops of LAPACK's eigenvalues of order m, over m³, at the rate of a matrix product.
LAPACK_FLOPS = 5.0
#: Bytes an entry: the matrix, a copy in float64, LAPACK's workspace.
WHOLE_BYTES = 24.0


class Spectrum(NamedTuple):
    """Eigenvalues (m,) ascending, on the host, in float64; so many more that are zero.

    Products are those that formed the matrix of a black box.
    """

    values: Array
    zeros: int
    products: int

    def all(self) -> Array:
        """All eigenvalues, ascending, those that are zero by structure too."""
        return np.sort(np.concatenate([self.values, np.zeros(self.zeros)]))


def rank_bound(op: Operator) -> int:
    """The largest rank that the structure of `op` allows, at no product.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> from opflow.spectral.traces.exact import rank_bound
    >>> rank_bound(of.Gram(np.ones((5, 2)))), rank_bound(2.0 * of.Identity(5))
    (2, 5)
    """
    side = min(op.shape)
    parts = [rank_bound(part) for part in op.operands]
    if isinstance(op, Zero) or (isinstance(op, Scaled) and op.scalar == 0):
        return 0
    if isinstance(op, Gram) and op.weights is not None:
        parts.append(int((op.weights != 0).sum()))
    if isinstance(op, Product | Gram | CrossGram | Scaled | Adjoint | Cast):
        return min(parts)
    if isinstance(op, Sum | HStack):
        return min(side, sum(parts))
    return side


def factor(op: Operator) -> Operator | None:
    """F with ``op = F Fᵀ``, as the structure gives it; ``None`` if it does not.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> from opflow.spectral.traces.exact import factor
    >>> factor(2.0 * of.Gram(np.ones((5, 2))) + of.Gram(np.ones((5, 1)))).shape
    (5, 3)
    """
    if isinstance(op, Gram):
        if op.weights is None:
            return op.factor
        return op.factor @ _RootWeights(op.weights) if op.psd else None
    if not isinstance(op, Scaled | Sum):
        return None
    parts = [part for part in map(factor, op.operands) if part is not None]
    if len(parts) < len(op.operands):
        return None
    if isinstance(op, Sum):
        return HStack(parts)
    return scale(op.scalar**0.5, parts[0]) if op.scalar > 0 else None


class _RootWeights(Diagonal):
    """diag(√w) of a Gram's weights w >= 0."""

    def __init__(self, weights: Array) -> None:
        self.data = weights**0.5
        super().__init__((weights.size,) * 2, weights.dtype, psd=True, symbol="√w")

    def _diagonal(self) -> Array:
        return self.data


def narrow_factor(op: Operator) -> tuple[Operator | None, int]:
    """F with ``op = F Fᵀ`` and fewer columns than rows, if there is one, and the smaller order.

    Of a sharded `op` any F with columns on all ranks: entries of op are not available.
    """
    n = op.shape[0]
    F = factor(op)
    if F is None or F.domain.sharded or (F.shape[1] >= n and not op.space.sharded):
        return None, n
    return F, F.shape[1]


def use_lapack(op: Operator, estimate: Cost, *, asked: bool = False) -> bool:
    """Whether all eigenvalues by LAPACK take no longer than `estimate`, or are `asked` for.

    Raises if they are `asked` for and do not fit in half of the free memory, or `op` is sharded.
    """
    F, side = narrow_factor(op)
    if (op.space.sharded and F is None) or (distribution_of(op).sharded and side > DENSE):
        if asked:
            raise ValueError(
                f"entries of a sharded op of order {op.shape[0]} are not available: estimate "
                "instead"
            )
        return False
    if side <= DENSE:
        return True
    need = WHOLE_BYTES * float(side) ** 2
    budget = parse_memory(None, operator_module(op))
    if asked and need > budget:
        raise MemoryError(
            f"all eigenvalues of order {side} take {need / 1e9:.3g} GB, over the budget of "
            f"{budget / 1e9:.3g} GB: estimate instead"
        )
    if asked or need > budget:
        return asked
    forming = dense_plan(op).cost if F is None else F.cost(side).times(2)
    lapack = Cost(LAPACK_FLOPS * float(side) ** 3, 0.0)
    seconds = NOMINAL.seconds(forming, op.dtype) + NOMINAL.seconds(lapack, np.float64)
    return seconds <= NOMINAL.seconds(estimate, op.dtype)


def dense_spectrum(op: Operator) -> Spectrum:
    """All eigenvalues of a symmetric `op` by LAPACK, of the smaller side.

    Some 4/3·m³ flops for the smaller side m, half of them at the pace of memory, and what forming
    it costs: tiles where the structure gives them, else m products.
    """
    n = op.shape[0]
    F, side = narrow_factor(op)
    products = forming_products(op)
    advance(0, f"LAPACK, order {side}")
    if F is None:
        matrix = matrix_of(op)
    else:
        matrix = finite((F.T @ F).todense())
        products = side if distribution_of(op).sharded else min(side, products)
    matrix = on_host(matrix)
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    # A factor wider than op is high has a matrix with zeros that op has not.
    return Spectrum(values[max(side - n, 0) :], max(n - side, 0), products)


def rounding_level(op: Operator, values: Array) -> float:
    """The size of eigenvalues that rounding makes of zero, given some of the spectrum of `op`.

    A product is accurate to some ε·λ_max, and so is LAPACK; √n allows for the sums inside.  The
    negative values that rounding gives a PSD operator show how far it really goes.
    """
    level = rounding_of(op) * float(np.abs(values).max(initial=0.0))
    if not op.psd:
        return 4 * level
    return max(level, -2.0 * float(np.min(values, initial=0.0)))
