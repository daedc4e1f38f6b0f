"""Blocks of vectors: random ones, products scaled to be safe, rounding, and checks for NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from opflow.interface.keywords import Seed, advance
from opflow.machine.arrays import Array, namespace, to_host
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.workspace import op_namespace
from opflow.operators.operator import Operator


def distribution_of(op: Operator) -> RowDistribution:
    """How the rows of an operator, or of some part of it, are sharded; `LOCAL` if none are.

    All ranks hold the same vectors of ``J.T @ J`` of a sharded J, so they must draw the same random
    numbers and take the same branches.
    """
    for space in (op.space, op.domain, *map(distribution_of, op.operands)):
        if space.sharded:
            return space
    return LOCAL


def gaussian(op: Operator, columns: int, rng: Seed) -> Array:
    """Independent standard normal vectors, (n, columns), of the operator's dtype and device."""
    draw = op.domain.normal(distribution_of(op).generator(rng), op.shape[1], columns)
    return op_namespace(op).asarray(draw, dtype=op.dtype)


class Normalised:
    """Block products divided by a power of four near their size, which the first of them tells.

    The `product` is ``X -> A X``, by default that of `op`, for blocks of vectors about as long as
    they have entries.  The `unit` is 1, unless the squares of squares of what the first product
    gave leave the range of its dtype: nothing that is made of these products overflows or vanishes,
    whatever the units are.
    """

    def __init__(self, op: Operator, product: Callable[[Array], Array] | None = None) -> None:
        self._product = product or op.matmat
        self._space = op.space
        self._seen = False
        self.unit = 1.0

    def __call__(self, X: Array) -> Array:
        Y = self._product(X)
        advance(X.shape[1])
        if not self._seen:
            self._seen = True
            self.unit = float(block_unit(Y, self._space))
        return Y if self.unit == 1 else Y / self.unit

    def finite(self, X: Array, name: str = "op") -> Array:
        """The product, or a ``ValueError`` that blames `name` if it has NaN or infinity."""
        return finite(self(X), name, self._space)


def finite(values: Array, name: str = "op", space: RowDistribution = LOCAL) -> Array:
    """`values`, or a ``ValueError`` if a product of `name` gave NaN or infinity."""
    return check_finite(values, f"products with {name}", space, "contain")


def check_finite(
    values: Array, name: str, space: RowDistribution = LOCAL, verb: str = "contains"
) -> Array:
    """`values`, or a ``ValueError`` if some are not finite, on any rank."""
    # a flag, because what the maximum of a number and NaN is depends on the MPI
    if any(space.either(not np.isfinite(largest_entry(values)))):
        raise ValueError(f"{name} {verb} NaN or infinity")
    return values


def unit_of(peak: Array | float, dtype: DTypeLike) -> Array:
    """The power of four nearest to numbers `peak`, or 1 where their fourth powers are safe.

    Powers of four divide exactly, and so do their roots.
    """
    most = float(np.finfo(dtype).max)
    limit = most**0.2
    safe = (peak == 0) | ((1 / limit <= peak) & (peak <= limit)) | ~np.isfinite(peak)
    power = np.rint(np.log2(np.where(safe, 1.0, peak)) / 2)
    reach = np.floor(np.log2(most) / 2)  # of powers that are numbers themselves
    return np.where(safe, 1.0, 4.0 ** np.clip(power, -reach, reach))[()]


def block_unit(block: Array, space: RowDistribution = LOCAL) -> Array:
    """:func:`unit_of` the largest entry of a block."""
    return unit_of(largest_entry(block, space), block.dtype)


def column_units(block: Array, space: RowDistribution) -> Array:
    """:func:`unit_of` the largest entry of every column of a block."""
    peaks = np.zeros(block.shape[1])
    if len(block):
        peaks = on_host(abs(block).max(axis=0))
    return unit_of(space.largest(peaks), block.dtype)


def largest_entry(values: Array, space: RowDistribution = LOCAL) -> float:
    """The largest absolute value of all; 0 where there are none."""
    here = 0.0
    if values.size:
        here = float(abs(values).max())
    return float(space.largest(here))


def on_host(x: Array) -> np.ndarray:
    """`x` in float64 on the host: itself if it is that."""
    return to_host(x).astype(np.float64, copy=False)


def matching(x: Array, like: Array) -> Array:
    """`x` in the dtype of `like`, on its device."""
    return namespace(like).asarray(x, dtype=like.dtype)


def as_columns(x: Array) -> Array:
    """A vector as a block of one column; a block itself."""
    return x if x.ndim == 2 else x[:, None]


def divisor(x: Array) -> Array:
    """`x`, but 1 where it is not positive."""
    return namespace(x).where(x > 0, x, 1)


def eps_of(x: Array | Operator) -> float:
    """The rounding unit of a dtype."""
    return float(np.finfo(x.dtype).eps)


def rounding_of(op: Operator) -> float:
    """√n·ε: what rounding makes of a product, relative to the norm of `op`."""
    return max(op.shape) ** 0.5 * eps_of(op)


def column_products(space: RowDistribution, *pairs: tuple[Array, Array]) -> Array:
    """a·b of columns for every pair (a, b), completed in one sum: (pairs, c), float64."""
    sums = [(a * b).sum(axis=0, dtype=np.float64) for a, b in pairs]
    return space.total(namespace(*pairs[0]).stack(sums))


def gram_eigh(A: Array, B: Array, space: RowDistribution) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and vectors of ``Aᵀ B``, which is symmetric to rounding."""
    G = on_host(space.gram(A, B))
    values, vectors = np.linalg.eigh((G + G.T) / 2)
    return values, vectors
