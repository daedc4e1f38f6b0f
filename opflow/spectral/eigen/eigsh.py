r"""A few eigenpairs of a symmetric operator, by block Lanczos with thick restarts or LAPACK.

The start block is as wide as the number of pairs asked for, so every copy of a repeated eigenvalue
is in it with probability one; residuals are measured on the result, not inferred.
"""

from __future__ import annotations

from opflow.evaluation.dense import Tiled, dense_plan
from opflow.evaluation.materialise import candidates, materialise
from opflow.evaluation.packed import PackedSymmetric
from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Data, check_integer
from opflow.machine.workspace import operator_module, parse_memory
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.spectral.blocks import distribution_of
from opflow.spectral.checks import DENSE, symmetric_operator
from opflow.spectral.eigen.lapack import few_by_lapack, lapack_bytes
from opflow.spectral.eigen.results import Eigenpairs
from opflow.spectral.eigen.search import NARROW, measured, search, sharpened, start_block
from opflow.spectral.eigen.selection import Tolerance
from opflow.spectral.krylov.block import BlockKrylov, check_start
from opflow.spectral.traces.structure import NOMINAL

#: default width of a block at least, in vectors
WIDTH_LEAST = 4
#: columns that a basis may always have
BASIS_LEAST = 400
#: columns of a basis at most, so that eigenpairs of T stay cheap
BASIS_MOST = 1000
#: block products expected from a random start, for the cost model
STEPS_EXPECTED = 26
#: block products expected from a given start
STEPS_FROM_START = 8
#: products of a search in narrow blocks, relative to those in blocks as wide as the pairs
NARROW_PRODUCTS = 0.7
#: factor on the expected products at the lower end, where eigenvalues of kernels crowd
LOWER_END_FACTOR = 10
#: order up to which LAPACK is done before block Lanczos has well begun
LAPACK_ORDER = 256
#: LAPACK's eigenpairs of order n take this times n³ flops of a matrix product
LAPACK_FLOPS = 15.0
WHICH = ("LM", "LA", "SA", "BE")
METHODS = ("lanczos", "lapack")


@keywords
def eigsh(
    op: Data,
    k: int = 6,
    *,
    which: str = "LM",
    tol: float = 0.0,
    method: str | None = None,
    block: int | None = None,
    steps: int = 1000,
    start: Data = None,
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
        Relative to each eigenvalue, ‖op u − λ u‖ <= tol·abs(λ); to ‖op‖ for both ends ("BE"), as
        one may be near 0.  Residuals at the rounding of the products, 10·√n·ε·‖op‖, pass as
        well, so that 0 asks for what the dtype can give.
    method : {"lanczos", "lapack"}, optional
        Block Lanczos, or the whole spectrum by LAPACK.  By default LAPACK up to order 256, where
        the block would span a third of the space, and where it takes no longer by the cost model;
        Lanczos otherwise.  SciPy's own solvers take an operator as it is.
    block : int, optional
        Vectors in a block.  By default k (at least 4), or those of `start` and one more, or 2 where
        products cost as much as their columns; random vectors then verify that nothing was missed.
        A given width is not verified: below k it may miss copies of an eigenvalue repeated more
        often than it is wide.
    steps : int, default 1000
        Block products (iterations) at most.
    start : array (n, b), optional
        Where to begin, such as the `start` of pairs of a nearby operator.  A random vector
        joins it (added to the last column, if there are more than k), six block products are
        spent at least, and the pair next to those asked for must have converged too, or have a
        residual of a tenth of its distance from them: a start from an invariant space cannot easily
        hide what is outside it.
    memory : float or str, optional
        Bytes for the basis and, where it pays, the dense operator; by default half of what is free.
    how : str, optional
        As `how` of :func:`opflow.materialise`: "factored", "gram", "tiled", "packed", "dense".
    rng, seed, progress
        Where random vectors come from; whether to count the products on standard error.

    Returns
    -------
    Eigenpairs
        Unpacks as ``values, vectors``; eigenvalues descending.

    Raises
    ------
    MemoryError
        If not even a basis of three blocks fits in `memory`.

    Warns
    -----
    ConvergenceWarning
        If a pair did not converge; `converged` and `residuals` say so too.

    See Also
    --------
    opflow.spectral.eigh : All eigenpairs.
    opflow.spectral.svds : Singular triplets.

    Notes
    -----
    Block Lanczos [2]_ with thick restarts [1]_: the Krylov space of a block V of b vectors,
    Rayleigh–Ritz in it, and a restart from the best Ritz vectors when the basis is as large as
    allowed.  A flat spectrum takes some 26 blocks for 20 pairs, a decaying one far fewer.  Costs b
    products a block, 8·n·m·b flops for the m-th column of the basis and k products to measure the
    residuals; holds the basis: 40 blocks, but at least 400 columns and at most 1,000, or k and four
    blocks.

    In blocks of 2 it takes a quarter to a half fewer products.  Once k pairs have converged, two
    random vectors orthogonal to them go on until the next pair has, or its residual is 0.001 of
    its distance from them.  A copy that was missed would show by then, with a probability of about
    1 − 10⁻⁶; it joins the pairs, and the next two vectors start.

    A dense or packed float64 operator from order 2,000 on, and a `tol` of at least 1e-7, is
    searched in float32 first, if `memory` holds that copy.  The pairs then converge in float64.

    References
    ----------
    .. [1] Wu, Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
    .. [2] Tropp, Webber, "Randomized algorithms for low-rank matrix approximation", 2023.

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
    tolerance = Tolerance.of(op, tol)
    if which == "BE":
        tolerance = Tolerance(0.0, max(tolerance))
    rng = distribution_of(op).generator(rng)
    width = max(k, WIDTH_LEAST)
    expected = STEPS_EXPECTED
    if block is not None:
        width = check_integer(block, "block", 1, n)
    elif start is not None:
        width = k + 1
    if start is not None:
        start = check_start(op, start, "start")
        width = max(width, start.shape[1], k + 1)
        expected = STEPS_FROM_START
    width = min(width, n)
    if which in ("SA", "BE"):
        expected *= LOWER_END_FACTOR
    budget = parse_memory(memory, operator_module(op))
    if method is None and _lapack_pays(op, k, width, expected, budget):
        method = "lapack"
    if method == "lapack":
        return few_by_lapack(op, k, which, tolerance, memory)
    size = basis_size(op, k, width, budget)
    budget -= size * n * op.dtype.itemsize
    evaluated, way = evaluate(op, expected, width, budget, how)
    if evaluated is not op:
        budget -= evaluated.cost(0).bytes
    narrow = block is None and start is None and which != "BE" and _narrow_pays(evaluated, k)
    if narrow:
        width = NARROW
    first = start_block(op, start, width, rng)
    spent = 0
    if start is None and not narrow and which != "SA":  # whose tolerance is far below the norm
        first, spent = sharpened(
            evaluated, first, k, which, tolerance, steps - 1, size, budget, rng
        )
        steps -= spent // width
    space = BlockKrylov(evaluated, first, size, rng)
    found, following = search(space, k, which, tolerance, steps, start is not None, narrow)
    return measured(space, found, following, tolerance, f"lanczos, {way}", spent)


def _lapack_pays(op: Operator, k: int, width: int, steps: int, budget: float) -> bool:
    """Whether all eigenpairs by LAPACK take no longer than so many steps of block Lanczos."""
    n = op.shape[0]
    if n <= max(LAPACK_ORDER, 3 * (k + width)):
        return not op.space.sharded
    if distribution_of(op).sharded:
        return n <= DENSE and not op.space.sharded
    if lapack_bytes(op) > budget:
        return False
    lapack = dense_plan(op).cost + Cost(LAPACK_FLOPS * float(n) ** 3, 0.0)
    bases = Cost(4.0 * n * float(steps * width) ** 2, 0.0)
    ways = candidates(op, steps, width, budget, NOMINAL)
    products = min(way.seconds for way in ways if way.fits or way.how == "factored")
    return NOMINAL.seconds(lapack, op.dtype) <= NOMINAL.seconds(bases, op.dtype) + products


def _narrow_pays(op: Operator, k: int) -> bool:
    """Whether columns cost so much alike that fewer of them in narrow blocks take less time."""
    if k <= 2 * NARROW or distribution_of(op).sharded:
        return False
    numbers = float(op.shape[0]) * STEPS_EXPECTED * k / 2  # of a basis, on the average
    basis = Cost(0.0, 4 * numbers * op.dtype.itemsize)
    wide, few = (NOMINAL.seconds(op.cost(b) + basis, op.dtype) / b for b in (k, NARROW))
    return NARROW_PRODUCTS * few < wide


def basis_size(op: Operator, k: int, width: int, budget: float) -> int:
    """Columns of the basis: 40 blocks, within limits and half the budget; with room to restart."""
    n = op.shape[0]
    vector = max(op.domain.here(n), 1) * op.dtype.itemsize
    room = -float(distribution_of(op).largest(-budget / vector))
    least = min(n, k + 3 * width)
    if least + 2 * width > room:
        raise MemoryError(
            f"a basis of {least} vectors of {n} takes {(least + 2 * width) * vector / 1e9:.3g} "
            f"GB, over the budget of {budget / 1e9:.3g} GB; ask for fewer pairs or give block="
        )
    most = min(n, max(40 * width, BASIS_LEAST), max(BASIS_MOST, k + 4 * width))
    return max(least, min(most, int(room / 2) - 2 * width))


def evaluate(
    op: Operator, products: int, columns: int, budget: float, how: str | None
) -> tuple[Operator, str]:
    """The operator in the cheapest form for that many block products, and what that is called."""
    if how is None and isinstance(op, Matrix | PackedSymmetric):
        return op, "as given"
    if how is None and distribution_of(op).sharded:  # other forms differ in price between ranks
        return op, "sharded"
    form = materialise(op, products=products, columns=columns, memory=max(budget, 1.0), how=how)
    if form is op:
        return op, "factored"
    names = {Matrix: "dense", PackedSymmetric: "packed", Tiled: "tiled"}
    return form, names.get(type(form), how or "Gram-side")
