"""Kernels compared with targets and with other kernels: alignment and distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, as_array, check_integer, in_dtype
from opflow.machine.ranks import RowDistribution, Sharded
from opflow.machine.workspace import op_namespace
from opflow.operators.diagonal import Zero
from opflow.operators.gram import GramVelocity
from opflow.operators.operator import Operator
from opflow.operators.rules import add
from opflow.operators.sharded import ShardedRows
from opflow.spectral.blocks import (
    Normalised,
    as_columns,
    block_unit,
    check_finite,
    column_products,
    eps_of,
    finite,
    gaussian,
    largest_entry,
    on_host,
)
from opflow.spectral.checks import Estimate, symmetric_operator
from opflow.spectral.traces.estimators import skew_quantile
from opflow.spectral.traces.norms import frobenius_norm
from opflow.spectral.traces.structure import forming_products, inner_products, use_entries
from opflow.spectral.traces.trace import MIN_PRODUCTS, PRODUCTS


@keywords
def alignment(
    op: Data,
    y: Data,
    *,
    centred: bool = False,
    products: int = PRODUCTS,
    rng: Seed = 0,
    seed: Seed = 0,
) -> Estimate:
    r"""The alignment of a kernel with targets, from −1 to 1 (from 0 for a PSD kernel).

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
    y : array (n,), (n, k) or (N, k) with N·k = n
        One target a row of `op`, or k columns of them.  Targets of N samples and k outputs go with
        a kernel of N·k rows, and are one vector then, flattened sample-major as opflow does.
    centred : bool, default False
        Project out the constant on both sides of the kernel and from the targets: of k outputs the
        constant of each, where `y` has shape (N, k).
    products : int, default 60
        To spend on an estimate of the norm, from 30.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random vectors come from.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.kernel_alignment : The alignment of two kernels.
    opflow.observe.Alignment : The alignment along a run.
    opflow.layer_kernels : The kernels of the layers.

    Notes
    -----
    :math:`\langle K, Y Y^T\rangle_F / (\|K\|_F \|Y Y^T\|_F)`, which is
    :math:`y^T K y / (\|K\|_F \|y\|^2)` for one column [1]_, [2]_; NaN for a kernel that is zero, or
    constant and centred.  Costs one product a column (one more an output if centred) and
    :func:`frobenius_norm`.  For layers, call it for each of ``layer_kernels(fields)``.

    References
    ----------
    .. [1] C. Cortes, M. Mohri, A. Rostamizadeh, "Algorithms for learning kernels based on centered
       alignment", JMLR 13, 2012.
    .. [2] A. Baratin et al., "Implicit regularization via neural feature alignment", 2021,
       arXiv:2008.00938.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> y = np.array([1.0, -1.0, 1.0])
    >>> round(float(of.spectral.alignment(of.Gram(y[:, None]), y)), 12)
    1.0
    """
    op = symmetric_operator(op)
    n = op.shape[0]
    space = op.space
    Y, outputs = _columns(y, n, space)
    Y = check_finite(in_dtype(Y, "y", op.dtype), "y", space)
    spent = Y.shape[1]
    Y = Y / block_unit(Y, space)
    largest = largest_entry(Y, space)
    if centred:
        op, Y = _centred(op, Y, outputs)
        spent += outputs
    small = on_host(space.gram(Y, Y))
    if not small.trace() > n * Y.shape[1] * (eps_of(op) * largest) ** 2:
        raise ValueError(f"y must not be {'constant' if centred else 'zero'}")
    product = Normalised(op)
    image = product.finite(Y)
    form = product.unit * float(space.total((Y * image).sum(dtype=np.float64)))
    form /= float(np.linalg.norm(small))
    size = frobenius_norm(op, products=products, rng=rng)
    spent += size.products
    if size == 0:
        return Estimate(math.nan, products=spent, how=size.how)
    ends = sorted(form / x if x else math.copysign(math.inf, form) for x in (size.low, size.high))
    return Estimate(form / size, *ends, products=spent, how=size.how)


@keywords
def kernel_alignment(
    K0: Data, K1: Data, *, products: int = PRODUCTS, rng: Seed = 0, seed: Seed = 0
) -> Estimate:
    r"""The cosine of the angle between two kernels as matrices.

    Parameters
    ----------
    K0, K1 : operators, arrays (n, n) or sparse matrices
    products : int, default 60
        To spend on an estimate, from 30; half with each kernel, on the same vectors.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random vectors come from.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.kernel_distance : The relative distance.
    opflow.spectral.alignment : The alignment with targets.

    Notes
    -----
    :math:`\langle K_0, K_1\rangle_F / (\|K_0\|_F \|K_1\|_F)`, NaN if either is zero:
    exact under the condition of :func:`frobenius_norm`, else from
    :math:`E\,(K_0 v)^T (K_1 v) = \langle K_0, K_1\rangle_F` for Gaussian v, with a jackknife
    interval of artanh of the cosine, as wide as skew samples need.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.kernel_alignment(np.eye(2), np.diag([1.0, 0.0]))
    0.707107 (exact, 0 products)
    """
    return _compared(K0, K1, _cosine, _artanh, np.tanh, products, rng)


@keywords
def kernel_distance(
    K0: Data, K1: Data, *, products: int = PRODUCTS, rng: Seed = 0, seed: Seed = 0
) -> Estimate:
    r"""The relative distance of two kernels in the Frobenius norm.

    Parameters
    ----------
    K0, K1, products, rng, seed
        As for :func:`kernel_alignment`.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.kernel_alignment : The cosine of their angle.
    opflow.observe.KernelDistance : The distance from the start of a run.

    Notes
    -----
    :math:`\|K_1 - K_0\|_F / \|K_0\|_F`, ∞ if only K₀ is zero and NaN if both
    are; exact or estimated as there, with a jackknife interval of the logarithm.  The difference
    is taken of entries or of products, so a small distance keeps its digits.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.kernel_distance(np.eye(2), 1.5 * np.eye(2))
    0.5 (exact, 0 products)
    """
    return _compared(K0, K1, _ratio, np.log, np.exp, products, rng, change=True)


Function = Callable[[Any], Any]  # of arrays, or of a number


@np.errstate(invalid="ignore", divide="ignore")
def _cosine(G: Array) -> Array:
    return G[..., 0, 1] / (np.sqrt(G[..., 0, 0]) * np.sqrt(G[..., 1, 1]))


@np.errstate(invalid="ignore", divide="ignore")
def _ratio(G: Array) -> Array:
    return np.sqrt(G[..., 1, 1]) / np.sqrt(G[..., 0, 0])


def _artanh(cosine: Array) -> Array:
    edge = 1 - 1e-15
    return np.arctanh(np.clip(cosine, -edge, edge))


def _compared(
    K0: Data,
    K1: Data,
    number: Function,
    stretched: Function,
    back: Function,
    products: int,
    rng: Seed,
    *,
    change: bool = False,
) -> Estimate:
    """A `number` of the inner products of two kernels; its interval is even once `stretched`.

    With `change` they are those of K0 and K1 − K0.
    """
    A = symmetric_operator(K0, "K0")
    B = symmetric_operator(K1, "K1")
    if A.shape != B.shape:
        raise ValueError(f"K1 has shape {B.shape} but K0 has shape {A.shape}")
    check_integer(products, "products", 2 * MIN_PRODUCTS)
    m = products // 2
    if B.space.sharded != A.space.sharded:
        raise ValueError("K1 must be sharded if K0 is, and not if it is not")
    if use_entries(A, m) and use_entries(B, m):
        G, units = inner_products([A, B], change=change)
        value = float(number(G))
        if change:  # units are of no consequence for an angle
            value *= float(units[1] / units[0])
        return Estimate(value, products=forming_products(A) + forming_products(B))
    V = gaussian(A, m, rng)
    A_times = Normalised(A)
    B_times = Normalised(B)
    AV = A_times.finite(V, "K0")
    BV = B_times.finite(V, "K1")
    if change:
        BV = BV * (B_times.unit / A_times.unit) - AV
    pairs = [(a, b) for a in (AV, BV) for b in (AV, BV)]
    G = on_host(column_products(A.space, *pairs)).T.reshape(-1, 2, 2)
    value = float(number(G.mean(axis=0)))
    if not (math.isfinite(value) and value):
        return Estimate(value, products=2 * m, how="Hutchinson")
    without = stretched(number((G.sum(axis=0) - G) / (m - 1)))  # each sample left out in turn
    error = math.sqrt((m - 1) * float(without.var())) * skew_quantile(m)
    middle = float(stretched(np.float64(value)))
    low = min(float(back(middle - error)), value)
    high = max(float(back(middle + error)), value)
    return Estimate(value, low, high, products=2 * m, how="Hutchinson")


def _columns(y: Data, n: int, space: RowDistribution) -> tuple[Array, int]:
    """Targets as columns (n, c), the rows held here, and the outputs that stand in a column."""
    outputs = 1
    y = as_array(y, "y")
    rows, size = space.total(np.array([len(y), y.size])) if y.ndim else (0, 0)
    if y.ndim == 2 and rows != n and size == n:
        outputs = y.shape[1]
        y = y.reshape(-1)
    if y.ndim not in (1, 2) or len(y) != space.here(n) or size == 0:
        raise ValueError(f"y has shape {y.shape} but op has order {n}")
    return as_columns(y), outputs


def _centred(op: Operator, Y: Array, outputs: int) -> tuple[Operator, Array]:
    """``C op C`` and ``C Y`` with C the projector off the constant of every output.

    C = I − E Eᵀ/N with the columns E of ones and zeros, one an output.  With means r = K E/N of
    rows and g = Eᵀ r/N of all, C K C is K plus Ḟ Fᵀ + F Ḟᵀ for F = E and Ḟ = E g/2 − r: a sum that
    knows its entries.
    """
    n = op.shape[0]
    space = op.space
    xp = op_namespace(op)
    samples = n // outputs
    ones = xp.tile(xp.eye(outputs, dtype=op.dtype), (len(Y) // outputs, 1))
    means = finite(op.matmat(ones), space=space) / samples
    change = ones @ (space.gram(ones, means) / (2 * samples)) - means
    Y = Y - ones @ (space.gram(ones, Y) / samples)
    if not isinstance(space, Sharded):
        return add(op, GramVelocity(ones, change)), Y
    parts = [x if len(x) else Zero(0, outputs, x.dtype) for x in (ones, change)]
    shards = [ShardedRows(x, space, n // space.size) for x in parts]
    return add(op, GramVelocity(*shards)), Y
