r"""Eigenpairs of a symmetric operator: a few by block Lanczos with thick restarts, or all of them.

The start block is as wide as the number of pairs asked for, so every copy of a repeated eigenvalue
is in it with probability one; residuals are measured on the result, not inferred.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from opflow.evaluation.dense import Tiled, dense, dense_plan
from opflow.evaluation.materialise import candidates, materialise
from opflow.interface.keywords import Seed, advance, keywords
from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, check_integer, namespace, to_device_of, to_host
from opflow.machine.workspace import op_namespace, operator_module, parse_memory
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.spectral.checks import (
    DENSE,
    ConvergenceWarning,
    Normalised,
    distribution_of,
    finite,
    gaussian,
    peaks,
    symmetric_operator,
    unit_of,
)
from opflow.spectral.krylov.block import BlockKrylov, check_start
from opflow.spectral.traces.structure import NOMINAL, forming_products

#: vectors in a block at least
LEAST = 4
#: block products before a given start is believed: what it lacks must have had its chance
TRIAL = 6
#: columns of a basis that are always affordable, and whose projected problem is still small
FEW, BASIS = 400, 1000
#: block steps that pairs of a flat spectrum take, roughly, and those from a start: what the cost
#: model is told
STEPS = 26
WARM = 8
#: how many times as many the lower end takes, where eigenvalues of kernels crowd
LOWER = 10
#: order up to which LAPACK is done before block Lanczos has well begun
SMALL = 256
#: LAPACK's eigenpairs of order n take n³ times this, in flops of a matrix product
EIGENPAIRS = 15.0
WHICH = ("LM", "LA", "SA", "BE")
METHODS = ("lanczos", "lapack")


class Found(NamedTuple):
    """Vectors (n, k) that span what was asked for, and what comes next; the norm as far as it was
    seen; products."""

    vectors: Any
    scale: float
    products: int
    guard: Any = None


@dataclass(frozen=True, eq=False)
class Eigenpairs(Pictured):
    """Eigenpairs and how good they are.

    Attributes
    ----------
    eigenvalues : array (k,), float64, on the host
        Descending.
    eigenvectors : array (n, k)
        Orthonormal columns, of the operator's dtype, where its data are.
    residuals : array (k,), on the host
        ‖op u − λ u‖, measured: an eigenvalue lies within that of λ.
    converged : bool
        Whether every residual is within the tolerance, or the rounding of the products.
    products : int
        Products with the operator, counted by vectors, also where they formed a matrix of an
        operator that gives its entries in no other way.
    how : str
        ``"lanczos, dense"``: the method, and how the operator was evaluated.
    start : array (n, k + 1)
        Where the search of a nearby operator may begin: the eigenvectors and what came next.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> values, vectors = of.spectral.eigsh(of.Gram(np.diag([3.0, 2.0, 1.0])), 2)
    >>> values.round(12), vectors.shape
    (array([9., 4.]), (3, 2))
    """

    eigenvalues: Array
    eigenvectors: Array
    residuals: Array
    converged: bool
    products: int
    how: str
    guard: Any = field(default=None, repr=False)
    _picture = "eigenvalues"

    @property
    def start(self) -> Array:
        if self.guard is None:
            return self.eigenvectors
        return namespace(self.guard).concatenate([self.eigenvectors, self.guard], axis=1)

    def __iter__(self) -> Iterator[Array]:
        """Unpack as SciPy's ``eigsh`` result: values, vectors."""
        return iter((self.eigenvalues, self.eigenvectors))

    def __repr__(self) -> str:
        values = self.eigenvalues
        return (
            f"<{len(values)} eigenpairs from {values[0]:.4g} to {values[-1]:.4g}, residuals up to "
            f"{self.residuals.max():.1e} ({'' if self.converged else 'not '}converged, {self.how}, "
            f"{self.products:,} products)>"
        )


class Tolerance(NamedTuple):
    """When a pair is good enough: relative to its eigenvalue, or what rounding allows."""

    relative: float
    rounding: float

    @classmethod
    def of(cls, op: Operator, tol: float) -> Tolerance:
        """The tolerance asked for, and 10·√n·ε relative to the norm."""
        if not 0 <= tol < 1:
            raise ValueError(f"tol must be at least 0 and below 1, not {tol!r}")
        return cls(float(tol), 10 * max(op.shape) ** 0.5 * float(np.finfo(op.dtype).eps))

    def met(self, values: Any, residuals: Any, scale: float) -> Any:
        """Which pairs are good enough, for an operator of norm `scale`."""
        return residuals <= np.maximum(self.relative * abs(values), self.rounding * scale)


@keywords
def eigsh(
    op: Any,
    k: int = 6,
    *,
    which: str = "LM",
    tol: float = 0.0,
    method: str | None = None,
    block: int | None = None,
    steps: int = 1000,
    start: Any = None,
    memory: float | str | None = None,
    how: str | None = None,
    rng: Seed = 0,
    seed: Seed = 0,
    progress: bool = False,
) -> Eigenpairs:
    r"""A few eigenpairs of a symmetric operator.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric, float32 or float64.
    k : int, default 6
        Pairs, 1 to n.
    which : {"LM", "LA", "SA", "BE"}
        Largest in magnitude, largest or smallest algebraically, or half from each end.
    tol : float, default 0
        Relative to each eigenvalue, ‖op u − λ u‖ <= tol·|λ|.  Residuals at the rounding of the
        products, 10·√n·ε·‖op‖, pass as well, so that 0 asks for what the dtype can give.
    method : {"lanczos", "lapack"}, optional
        Block Lanczos, or the whole spectrum by LAPACK.  By default LAPACK up to order 256, where
        the block would span a third of the space, and where it takes no longer by the cost model;
        Lanczos otherwise.  SciPy's own solvers take an operator as it is.
    block : int, optional
        Vectors in a block, k (at least 4) by default, or those of `start` and one more.  A smaller
        one takes fewer products (a third at 1) but may miss copies of an eigenvalue repeated more
        often than it is wide.
    steps : int, default 1000
        Block products (iterations) at most.
    start : array (n, b), optional
        Where to begin, such as the `start` of pairs of a nearby operator.  A random vector
        joins it (added to the last column, if there are more than k), six block products are
        spent at least, and the pair next to those asked for must have settled too: a start from an
        invariant space cannot hide what is outside it.
    memory : float or str, optional
        Bytes for the basis and, where that pays, the dense operator; half of what is free by
        default.
    how : str, optional
        As in :func:`opflow.materialise`, which otherwise chooses for the products expected.
    rng, seed : int, numpy.random.Generator or None, default 0
    progress : bool, default False
        Count the products on standard error.

    Returns
    -------
    Eigenpairs
        Unpacks as ``values, vectors``; eigenvalues descending.

    Raises
    ------
    ValueError, TypeError
        For an operator that is not square, symmetric, real and finite, and arguments out of range.
    MemoryError
        If not even a basis of three blocks fits in `memory`.

    Warns
    -----
    ConvergenceWarning
        If a pair did not converge; `converged` and `residuals` say so too.

    Notes
    -----
    Block Lanczos with thick restarts: the Krylov space of a block V of b vectors, Rayleigh–Ritz in
    it, and a restart from the best Ritz vectors when the basis is as large as allowed.  A flat
    spectrum takes some 26 blocks for 20 pairs, a decaying one far fewer.  Costs b products a block,
    8·n·m·b flops for the m-th column of the basis and k products to measure the residuals; holds
    the basis: 40 blocks, but at least 400 columns and at most 1,000, or k and four blocks.

    References
    ----------
    Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000.
    Tropp and Webber, Randomized algorithms for low-rank matrix approximation, 2023.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 50], seed=0).fields(np.eye(3))
    >>> pairs = of.spectral.eigsh(of.collective_kernel(fields), 2)
    >>> pairs.converged, bool((pairs.residuals < 1e-12).all())
    (True, True)
    """
    op = symmetric_operator(op)
    n = op.shape[0]
    check_integer(k, "k", 1, n)
    check_integer(steps, "steps", 1)
    if which not in WHICH:
        raise ValueError(f"which must be one of {', '.join(WHICH)}, not {which!r}")
    if method not in (None, *METHODS):
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    tolerance, rng = Tolerance.of(op, tol), distribution_of(op).generator(rng)
    least = LEAST
    if start is not None:
        start = check_start(op, start, "start")
        least = max(start.shape[1], k + 1)
    width = max(k, least)
    if block is not None:
        width = check_integer(block, "block", 1, n)
    if start is not None:
        width = max(width, least)
    width = min(width, n)
    budget = parse_memory(memory, operator_module(op))
    ahead = STEPS if start is None else WARM
    if which in ("SA", "BE"):
        ahead *= LOWER
    if method is None:
        method = "lapack" if _lapack_pays(op, k, width, ahead, budget) else "lanczos"
    if method == "lapack":
        pairs = eigh(op, memory=memory)
        chosen = choose(pairs.eigenvalues, k, which)
        vectors = pairs.eigenvectors[:, op_namespace(op).asarray(chosen)]
        return Eigenpairs(
            pairs.eigenvalues[chosen],
            vectors,
            pairs.residuals[chosen],
            bool(tolerance.met(0, pairs.residuals, abs(pairs.eigenvalues).max()).all()),
            pairs.products,
            pairs.how,
            next_to(pairs.eigenvalues, k, which, pairs.eigenvectors),
        )
    size = basis_size(op, k, width, budget)
    evaluated, way = evaluate(op, ahead, width, budget - size * n * op.dtype.itemsize, how)
    found = _lanczos(evaluated, k, which, tolerance, width, size, steps, start, rng)
    return measured(evaluated, found, tolerance, f"{method}, {way}")


def _lapack_pays(op: Operator, k: int, width: int, steps: int, budget: float) -> bool:
    """Whether all eigenpairs by LAPACK take no longer than so many steps of block Lanczos."""
    n = op.shape[0]
    if n <= max(SMALL, 3 * (k + width)):
        return not op.space.sharded
    if distribution_of(op).sharded:
        return n <= DENSE and not op.space.sharded
    if _whole_bytes(op) > budget:
        return False
    lapack = dense_plan(op).cost + Cost(EIGENPAIRS * float(n) ** 3, 0.0)
    bases = Cost(4.0 * n * float(steps * width) ** 2, 0.0)
    ways = candidates(op, steps, width, budget, NOMINAL)
    products = min(way.seconds for way in ways if way.fits or way.how == "factored")
    return NOMINAL.seconds(lapack, op.dtype) <= NOMINAL.seconds(bases, op.dtype) + products


def choose(values: Any, k: int, which: str) -> Any:
    """Indices of the k values asked for, descending by value; `values` in any order."""
    order = np.argsort(-values, kind="stable")
    if which == "LA":
        return order[:k]
    if which == "SA":
        return order[len(order) - k :]
    if which == "BE":
        return np.concatenate([order[: -(-k // 2)], order[len(order) - k // 2 :]])
    best = np.argsort(-abs(values), kind="stable")[:k]
    return best[np.argsort(-values[best], kind="stable")]


def next_to(values: Any, k: int, which: str, vectors: Any) -> Any:
    """The vector of the value that comes after the k asked for, if there is one."""
    more = min(k + 1, len(values))
    following = np.setdiff1d(choose(values, more, which), choose(values, k, which))
    return vectors[:, to_device_of(following, vectors)]


def settled_next(values: Any, residuals: Any, k: int, which: str, within: Any) -> bool:
    """Whether the pair next to the k asked for has converged, or cannot be one of them."""
    if which == "BE" or len(values) <= k:
        return True
    chosen = choose(values, k, which)
    following = int(np.setdiff1d(choose(values, k + 1, which), chosen)[0])
    ranked = abs(values) if which == "LM" else values if which == "LA" else -values
    best = ranked[following] + residuals[following]
    return bool(within[following] or best < ranked[chosen].min())


def basis_size(op: Operator, k: int, width: int, budget: float) -> int:
    """Columns of the basis: 40 blocks, within limits and half the budget; with room to restart."""
    n, vector = op.shape[0], max(op.domain.here(op.shape[0]), 1) * op.dtype.itemsize
    least, room = min(n, k + 3 * width), -float(distribution_of(op).largest(-budget / vector))
    if least + 2 * width > room:
        raise MemoryError(
            f"a basis of {least} vectors of {n} takes {(least + 2 * width) * vector / 1e9:.3g} "
            f"GB, over the budget of {budget / 1e9:.3g} GB; ask for fewer pairs or give block="
        )
    most = min(n, max(40 * width, FEW), max(BASIS, k + 4 * width))
    return max(least, min(most, int(room / 2) - 2 * width))


def evaluate(
    op: Operator, products: int, columns: int, budget: float, how: str | None
) -> tuple[Operator, str]:
    """The operator in the cheapest form for that many block products, and what that is called."""
    if isinstance(op, Matrix) and how is None:
        return op, "as given"
    if (
        distribution_of(op).sharded and how is None
    ):  # other forms have a price of their own on every rank
        return op, "sharded"
    budget = max(budget, 1.0)
    form = materialise(op, products=products, columns=columns, memory=budget, how=how)
    names = {Matrix: "dense", Tiled: "tiled"}
    return form, "factored" if form is op else names.get(type(form), how or "Gram-side")


def measured(op: Operator, found: Found, tolerance: Tolerance, how: str) -> Eigenpairs:
    """Rayleigh–Ritz in the span of the vectors, and true residuals."""
    xp, k, space = namespace(found.vectors), found.vectors.shape[1], op.space
    vectors = space.qr(found.vectors)[0]
    product = Normalised(op.matmat, space)
    W = finite(product(vectors), space=space)
    unit = product.unit
    small = to_host(space.gram(vectors, W)).astype(np.float64)
    values, turn = np.linalg.eigh((small + small.T) / 2)
    values, turn = values[::-1], xp.asarray(turn[:, ::-1], dtype=op.dtype)
    vectors, W = vectors @ turn, W @ turn
    gaps = W - vectors * xp.asarray(values, dtype=op.dtype)
    residuals = to_host(space.norm(gaps, axis=0)).astype(np.float64)
    scale = max(found.scale / unit, float(space.norm(W, axis=0).max()))
    met = tolerance.met(values, residuals, scale)
    if not met.all():
        warnings.warn(
            f"{k - int(met.sum())} of {k} eigenpairs did not converge: the largest residual is "
            f"{unit * residuals.max():.2g}, {residuals.max() / (scale or 1.0):.1g} of the norm",
            ConvergenceWarning,
            stacklevel=4,
        )
    spent = found.products + k
    return Eigenpairs(
        unit * values, vectors, unit * residuals, bool(met.all()), spent, how, found.guard
    )


def _lanczos(
    op: Operator,
    k: int,
    which: str,
    tolerance: Tolerance,
    width: int,
    size: int,
    steps: int,
    start: Any,
    rng: np.random.Generator,
) -> Found:
    """Ritz vectors of the pairs asked for."""
    xp = op_namespace(op)
    known = 0 if start is None else start.shape[1]
    block = gaussian(op, max(width - known, 1), rng) / op.shape[0] ** 0.5
    if start is not None:
        norms = op.space.norm(start, axis=0)
        start = start / xp.where(norms > 0, norms, 1)
        if known == width:  # it holds what comes next, which need not be known as well
            start, block = start[:, :-1], start[:, -1:] + block
        block = xp.concatenate([start, block], axis=1)
    space = BlockKrylov(op, block, size, rng)
    values, coordinates = np.zeros(0), np.zeros((0, 0))
    for step in range(1, steps + 1):
        if space.full:
            kept = choose(values, min(k + width, space.filled - width), which)
            space.restart(values[kept], coordinates[:, kept])
        space.expand()
        # a projected problem costs O(m³): it waits until the space has grown by a twentieth
        if step < steps and not space.full and space.filled < 1.05 * len(values):
            continue
        values, coordinates, residuals = space.ritz()
        if len(values) < k:
            continue
        # less than half of the rounding allowed: measured residuals have rounding of their own
        within = tolerance.met(values, residuals, 0.4 * space.scale)
        if space.complete or within[choose(values, k, which)].all():
            believed = start is None or (
                step >= TRIAL and settled_next(values, residuals, k, which, within)
            )
            if space.complete or believed:
                break
    chosen = choose(values, min(k, len(values)), which)
    return Found(
        space.combine(coordinates[:, chosen]),
        space.unit * space.scale,
        space.products,
        space.combine(next_to(values, len(chosen), which, coordinates)),
    )


def eigh(op: Any, *, memory: float | str | None = None) -> Eigenpairs:
    """All eigenpairs of a symmetric operator, through its tiles and LAPACK.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    memory : float or str, optional
        Bytes to hold; half of what is free by default.

    Returns
    -------
    Eigenpairs
        Eigenvalues descending; of a PSD operator's, those that rounding made negative are kept.

    Raises
    ------
    MemoryError
        Before anything is formed, if four n × n arrays (the matrix, its copy, LAPACK's workspace)
        do not fit.

    Notes
    -----
    Forms n² entries, then some 9·n³ flops: exact to n·ε·‖op‖, for every multiplicity.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.eigh(of.Gram(np.array([[1.0], [1.0]]))).eigenvalues.round(12) + 0.0
    array([2., 0.])
    """
    op = symmetric_operator(op)
    n = op.shape[0]
    if op.space.sharded:
        raise ValueError("a sharded op has no entries to give: ask eigsh for a few pairs")
    need = _whole_bytes(op)
    budget = parse_memory(memory, operator_module(op))
    if need > budget:
        raise MemoryError(
            f"all eigenpairs of order {n} take {need / 1e9:.3g} GB, over the budget of "
            f"{budget / 1e9:.3g} GB; ask eigsh for a few, or density for their distribution"
        )
    advance(0, f"LAPACK, order {n}")
    A = finite(op.todense() if distribution_of(op).sharded else dense(op, memory))
    xp = namespace(A)
    unit = unit_of(peaks(A).max(), op.dtype)
    A /= unit
    values, vectors = xp.linalg.eigh(A)
    values, vectors = values[::-1], vectors[:, ::-1]
    residuals = to_host(xp.linalg.norm(A @ vectors - vectors * values, axis=0))
    return Eigenpairs(
        unit * to_host(values).astype(np.float64),
        vectors,
        unit * residuals.astype(np.float64),
        True,
        forming_products(op),
        "lapack, dense",
    )


def _whole_bytes(op: Operator) -> float:
    """What all eigenpairs hold: the matrix, its copy, LAPACK's workspace."""
    return 4.0 * op.shape[0] ** 2 * op.dtype.itemsize
