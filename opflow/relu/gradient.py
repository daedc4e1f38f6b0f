"""``Jᵀu`` over samples: the one place where gradients of parameters are summed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Data, is_sparse, namespace
from opflow.machine.ranks import RowDistribution
from opflow.machine.threads import over_rows
from opflow.relu.network_arrays import NetworkArrays

#: what visits a range of samples: for each row block the inputs of all layers (None where they
#: cannot be read by rows), and ``∂/∂h``; a block is summed before the next is asked for
Visit = Callable[[slice], Iterable[tuple[list[Data], list[Array]]]]


def parameter_gradient(
    network: NetworkArrays,
    samples: int,
    visit: Visit,
    flops: float,
    data: Data,
    *,
    columns: int = 1,
    dtype: DTypeLike | None = None,
) -> list[Any]:
    """``Σ_μ (∂/∂h^ℓ)ᵀ a^{ℓ-1}`` and ``Σ_μ ∂/∂h^ℓ``, ordered as ``network.parameter_list()``.

    The gradients that `visit` gives are (b, n_ℓ), or (b, c·n_ℓ) for c `columns` at a time; sums are
    (c·n_ℓ, n_{ℓ-1}) and (c·n_ℓ,), in `dtype` or that of the gradients, and None for W¹ where there
    are no rows of inputs.  Samples are divided among threads by `flops`, those of the whole, if
    `data`, of which rows are read, is an array in host memory.
    """
    layers = network.layers()

    def parts(below: list[Data], gradients: list[Array]) -> Iterator[Array | None]:
        """The sums over a row block, one after the other."""
        for a, gradient, (_, bias) in zip(below, gradients, layers, strict=True):
            yield None if a is None else summed(gradient, a)
            if bias is not None:
                yield gradient.sum(axis=0)

    def added(totals: list[Any], others: Iterable[Array | None]) -> list[Any]:
        return [_added(total, part, dtype) for total, part in zip(totals, others, strict=True)]

    def sums(mine: slice) -> list[Any]:
        totals: list[Any] = [None] * len(network.parameter_list())
        for block in visit(mine):
            totals = added(totals, parts(*block))
        return totals

    held = columns * sum_bytes(network, dtype)
    return reduce(added, over_rows(samples, sums, flops, data, sums=held))


def sum_bytes(network: NetworkArrays, dtype: DTypeLike | None) -> float:
    """Bytes that a thread holds for its sums of gradients."""
    return 2.0 * network.parameters * np.dtype(dtype or network.dtype).itemsize


def summed(gradient: Array, below: Data) -> Array:
    """``gradientᵀ below``, over the samples of a block."""
    return (below.T @ gradient).T if is_sparse(below) else gradient.T @ below


def _added(total: Array | None, part: Array | None, dtype: DTypeLike | None) -> Array | None:
    if part is None:
        return total
    if total is None:
        return part.astype(dtype or part.dtype, copy=False)
    total += part
    return total


def total_over_ranks(arrays: list[Array], space: RowDistribution) -> list[Array]:
    """Sums over all ranks, by one allreduce of all numbers."""
    if not space.sharded:
        return arrays
    xp = namespace(*arrays)
    flat = space.total(xp.concatenate([a.reshape(-1) for a in arrays]))
    edges = np.cumsum([a.size for a in arrays])[:-1].tolist()
    return [part.reshape(a.shape) for part, a in zip(xp.split(flat, edges), arrays, strict=True)]
