"""The search for eigenpairs itself: a start, block Lanczos to a tolerance, and true residuals."""

from __future__ import annotations

import numpy as np

from opflow.evaluation.packed import PackedSymmetric
from opflow.machine.arrays import Array, namespace
from opflow.machine.threads import over_rows, quiet
from opflow.machine.workspace import op_namespace, row_slices
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Operator
from opflow.spectral.blocks import (
    Normalised,
    distribution_of,
    divisor,
    gaussian,
    gram_eigh,
    matching,
    on_host,
)
from opflow.spectral.checks import not_converged
from opflow.spectral.eigen.results import Eigenpairs
from opflow.spectral.eigen.selection import Tolerance, choose, next_to, settled_next
from opflow.spectral.krylov.block import BlockKrylov

#: block products at least with a given start, so that the random vectors can find what it misses
START_STEPS_LEAST = 6
#: width of a block where products cost as much as their columns
NARROW = 2
#: residual of the next pair, relative to its distance from those found, at which a search that
#: narrow has missed no copy: both vectors would have to lack it so far, a chance of DOUBT ** NARROW
DOUBT = 1e-3
#: the same with a given start: less would cost what the start saves
START_DOUBT = 0.1
#: part of the way to convergence, by the rate seen, that goes without a look
PATIENCE = 0.7
#: order from which a dense operator is searched in float32 first
ROUNDED_ORDER = 2000
#: ... and the least tolerance
ROUNDED_TOL = 1e-7
#: bytes of float32 that are rounded and looked at before they leave the cache
CACHE = 256 << 10
#: residuals in float32 that are left to float64, relative to the norm
ROUNDED = 2e-6


def sharpened(
    op: Operator,
    block: Array,
    k: int,
    which: str,
    tolerance: Tolerance,
    steps: int,
    size: int,
    budget: float,
    rng: np.random.Generator,
) -> tuple[Array, int]:
    """The block, or of a large dense float64 operator what a search in float32 makes of it.

    That takes half the time of a search in float64, to which it leaves a step or two.  Also how
    many products were spent.
    """
    if (
        not isinstance(op, Matrix | PackedSymmetric)
        or op.sparse
        or op.dtype != np.float64
        or op.shape[0] < ROUNDED_ORDER
        or tolerance.relative < ROUNDED_TOL
        or steps < 1
        or distribution_of(op).sharded
        or op.data.nbytes / 2 > budget
    ):
        return block, 0
    half = _rounded(op)
    if half is None:
        return block, 0
    space = BlockKrylov(half, block.astype(half.dtype), size, rng)
    near = Tolerance(tolerance.relative / 2, ROUNDED)
    found = search(space, k, which, near, steps, False)
    return namespace(block).concatenate(found, axis=1).astype(op.dtype), space.products


def _rounded(op: Matrix | PackedSymmetric) -> Matrix | PackedSymmetric | None:
    """A dense operator in float32, if that has the range for its entries."""
    out = op_namespace(op).empty(op.data.shape, dtype=np.float32)

    def work(rows: slice) -> float:
        peak = 0.0
        for s in row_slices(rows, out[:1].nbytes, CACHE):
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                out[s] = op.data[s]
            peak = max(peak, float(out[s].max()), -float(out[s].min()))
        return peak

    peak = max(over_rows(len(out), work, 5.0 * out.size, op.data))
    if not 1e-25 < peak < 1e30:
        return None
    if isinstance(op, PackedSymmetric):
        return PackedSymmetric(out, op.shape[0], psd=op.psd)
    return Matrix(out, symmetric=True, psd=op.psd)


def start_block(op: Operator, start: Array | None, width: int, rng: np.random.Generator) -> Array:
    """`width` vectors to begin with: those of `start`, and random ones."""
    known = 0 if start is None else start.shape[1]
    block = gaussian(op, max(width - known, 1), rng) / op.shape[0] ** 0.5
    if start is None:
        return block
    start = start / divisor(op.space.norm(start, axis=0))
    if known == width:  # it holds what comes next, which need not be known as well
        block = start[:, -1:] + block
        start = start[:, :-1]
    return namespace(start).concatenate([start, block], axis=1)


def search(
    space: BlockKrylov,
    k: int,
    which: str,
    tolerance: Tolerance,
    steps: int,
    started: bool = False,
    narrow: bool = False,
) -> tuple[Array, Array]:
    """Ritz vectors (n, k) of the pairs asked for, and of the next one.

    Of a space that has `started` from given vectors the latter must have settled too.  So it must
    where the blocks are too `narrow` to hold all copies of an eigenvalue: random vectors orthogonal
    to the pairs found go on until that is so, again and again until they add none.
    """
    values = np.zeros(0)
    coordinates = np.zeros((0, 0))
    due = 0.0  # products after which to look again
    before = 0  # products at the last look
    excess = np.inf  # of residuals over what is allowed, there
    since = 0  # step of the last random vectors
    known: Array | None = None  # values found before them
    doubt = DOUBT if narrow else START_DOUBT
    for step in range(1, steps + 1):
        if space.full:
            more = max(space.width, min(k // 2, (space.filled - k) // 4))
            kept = choose(values, min(k + more, space.filled - space.width), which)
            space.restart(values[kept], coordinates[:, kept])
        space.expand()
        if step < steps and not space.full and space.products < due:
            continue
        values, coordinates, residuals = space.ritz()
        if space.complete:
            break
        # a projected problem costs O(m³): it waits until the space has grown by a twentieth
        due = space.products + 0.05 * space.filled
        if len(values) < k or step - since < START_STEPS_LEAST * started:
            continue
        # less than half of the rounding allowed: measured residuals have rounding of their own
        allowed = tolerance.allowed(values, 0.4 * space.scale)
        within = residuals <= allowed
        chosen = choose(values, k, which)
        if not within[chosen].all():
            # ... and until residuals that go on falling as they do are most of the way there
            late = chosen[~within[chosen]]
            last = excess
            excess = float(np.log(residuals[late] / allowed[late]).max())
            grown = space.products - before
            before = space.products
            if excess < last < np.inf:
                rest = PATIENCE * excess * grown / (last - excess)
                due = max(due, before + min(rest, 0.25 * space.filled))
            continue
        if started and not settled_next(values, residuals, k, which, within, doubt):
            continue
        found = values[chosen]
        if not narrow or (known is not None and (abs(found - known) <= 2 * allowed[chosen]).all()):
            break
        space.restart(found, coordinates[:, chosen], fresh=NARROW)
        started = True
        since = step
        known = found
        excess = np.inf
    chosen = choose(values, min(k, len(values)), which)
    following = next_to(values, len(chosen), which, coordinates)
    return space.combine(coordinates[:, chosen]), space.combine(following)


def measured(
    space: BlockKrylov,
    vectors: Array,
    following: Array,
    tolerance: Tolerance,
    how: str,
    products: int,
) -> Eigenpairs:
    """Rayleigh–Ritz in the span of the vectors, and true residuals."""
    op = space.op
    rows = op.space
    k = vectors.shape[1]
    with quiet():
        vectors = rows.qr(vectors)[0]
    product = Normalised(op)
    W = product.finite(vectors)
    unit = product.unit
    with quiet():
        values, turn = gram_eigh(vectors, W, rows)
        values = values[::-1]
        turn = matching(turn[:, ::-1], vectors)
        vectors = vectors @ turn
        W = W @ turn
        gaps = W - vectors * matching(values, vectors)
        residuals = on_host(rows.norm(gaps, axis=0))
    scale = max(space.unit * space.scale / unit, float(rows.norm(W, axis=0).max()))
    met = residuals <= tolerance.allowed(values, scale)
    if not met.all():
        not_converged(
            f"{k - int(met.sum())} of {k} eigenpairs did not converge: the largest residual is "
            f"{unit * residuals.max():.2g}, {residuals.max() / (scale or 1.0):.1g} of the norm",
            stacklevel=4,
        )
    spent = products + space.products + k
    values = unit * values
    residuals = unit * residuals
    return Eigenpairs(values, vectors, residuals, bool(met.all()), spent, how, following)
