"""Checks of operators and of their products, and `Estimate`, a number with its interval."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from opflow.interface.keywords import Seed, advance
from opflow.machine.arrays import Array, Data, namespace, to_host
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.workspace import op_namespace
from opflow.operators.convert import External
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator

#: orders up to which LAPACK's whole spectrum (a second or less) is preferred to an estimate
DENSE = 1024


class ConvergenceWarning(UserWarning):
    """Warns that an iteration ended before it reached its tolerance.

    The result says how far it came.

    See Also
    --------
    opflow.spectral.eigsh : Eigenpairs; warns where one did not converge.
    opflow.spectral.solve : Linear systems; likewise.

    Examples
    --------
    >>> import warnings, numpy as np, opflow as of
    >>> K = of.Gram(np.diag([1.0, 10.0, 100.0]))
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     found = of.spectral.solve(K, np.ones(3), maxiter=1, how="iterative")
    >>> caught[0].category.__name__, found.converged
    ('ConvergenceWarning', False)
    """


def not_converged(message: str, stacklevel: int = 3) -> None:
    """Warn of it; the caller's own `warnings.warn` would have this `stacklevel`."""
    warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel + 1)


class Estimate(float):
    """A float with a 95 % confidence interval.

    Parameters
    ----------
    value : float
        The number.
    low, high : float, optional
        The 95 % confidence interval, or bounds that hold for certain; both equal the value
        where it is exact (to rounding).
    products : int, default 0
        Products with the operator that were spent on it, each with one vector: also the n that
        form the matrix of a black box.  Entries that structure gives are none, nor are the two
        that test for symmetry.
    how : str, default "exact"
        Where it comes from: ``"exact"``, or the name of the estimator.

    See Also
    --------
    opflow.spectral.Diagonal : A diagonal with error bars.
    opflow.spectral.trace : A function that returns one.

    Examples
    --------
    >>> import opflow as of
    >>> of.spectral.Estimate(2.0, 1.5, 2.5, products=10, how="Hutch++")
    2 [1.5, 2.5] (Hutch++, 10 products)
    >>> of.spectral.Estimate(2.0, products=0) + 1, of.spectral.Estimate(2.0).exact
    (3.0, True)
    """

    low: float
    high: float
    products: int
    how: str

    def __new__(
        cls,
        value: float,
        low: float | None = None,
        high: float | None = None,
        *,
        products: int = 0,
        how: str = "exact",
    ) -> Estimate:
        self = super().__new__(cls, value)
        self.low = float(value if low is None else low)
        self.high = float(value if high is None else high)
        self.products = int(products)
        self.how = how
        return self

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding separates the value from the truth."""
        return self.how == "exact"

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """An increasing function of the number and of both ends."""
        low = function(self.low)
        high = function(self.high)
        return Estimate(function(float(self)), low, high, products=self.products, how=self.how)

    def __repr__(self) -> str:
        text = f"{float(self):.6g}"
        if not self.exact:
            text += f" [{self.low:.6g}, {self.high:.6g}]"
        return f"{text} ({self.how}, {self.products} products)"


def symmetric_operator(op: Data, name: str = "op") -> Operator:
    """`op` as an opflow operator that is square, real and, as far as can be seen, symmetric.

    Where the tags do not say that it is symmetric, one product with a block of two random
    vectors does: ``x·(op y) = y·(op x)`` to rounding.  These two are not counted anywhere.  An
    operator of SciPy that passes needs no adjoint of its own.
    """
    op = as_operator(op)
    n = op.shape[0]
    if op.shape[1] != n or n == 0:
        raise ValueError(f"{name} must be square and not empty, not of shape {op.shape}")
    if op.dtype.kind != "f":
        raise TypeError(f"{name} must be real, not {op.dtype}")
    if not op.symmetric:
        x = gaussian(op, 2, np.random.default_rng(0x5EED))
        product = Normalised(op)
        y = product.finite(x, name)
        unit = product.unit
        cross = op.space.gram(x, y)
        gap = abs(float(cross[0, 1]) - float(cross[1, 0]))
        size = float(op.space.norm(x)) * float(op.space.norm(y))
        rounding = 10 * rounding_of(op) * size
        if gap > rounding:
            raise ValueError(
                f"{name} must be symmetric, but x·({name} y) and y·({name} x) differ by "
                f"{gap * unit:.3g} for random x and y, where rounding allows {rounding * unit:.1g}"
            )
        if isinstance(op, External):
            return External(op.op, symbol=op.symbol, self_adjoint=True)
    return op


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
            self.unit = float(unit_of(largest_entry(Y, self._space), Y.dtype))
        return Y if self.unit == 1 else Y / self.unit

    def finite(self, X: Array, name: str = "op") -> Array:
        """The product, or a ``ValueError`` that blames `name` if it has NaN or infinity."""
        return finite(self(X), name, self._space)


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


def peaks(block: Array, space: RowDistribution = LOCAL) -> np.ndarray:
    """The largest absolute value in every column of a block, float64 on the host."""
    here = np.zeros(block.shape[1])
    if len(block):
        here = on_host(abs(block).max(axis=0))
    return np.asarray(space.largest(here))


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


def eps_of(x: Array | Operator) -> float:
    """The rounding unit of a dtype."""
    return float(np.finfo(x.dtype).eps)


def rounding_of(op: Operator) -> float:
    """√n·ε: what rounding makes of a product, relative to the norm of `op`."""
    return max(op.shape) ** 0.5 * eps_of(op)


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


def check_tol(tol: object) -> float:
    """A tolerance as a float, if it is positive and finite."""
    if not isinstance(tol, numbers.Real) or isinstance(tol, bool):
        raise TypeError(f"tol must be a positive number, not {tol!r}")
    if not 0 < float(tol) < np.inf:
        raise ValueError(f"tol must be positive and finite, not {tol}")
    return float(tol)


def check_shift(shift: object, name: str = "shift") -> float:
    """`shift` as a float, if it is finite and not negative."""
    if not isinstance(shift, numbers.Real) or isinstance(shift, bool):
        raise TypeError(f"{name} must be a number, not {shift!r}")
    if not 0 <= float(shift) < np.inf:
        raise ValueError(f"{name} must be finite and not negative, not {shift!r}")
    return float(shift)


def not_psd(name: str, least: float) -> ValueError:
    """What is raised once an eigenvalue has shown that an operator is not PSD."""
    return ValueError(
        f"{name} must be PSD, but has an eigenvalue of at most {least:.3g} times its norm"
    )


def check_psd(op: Operator, values: Array, name: str = "op") -> None:
    """Raise ``ValueError`` if some of the spectrum of `op` proves that it is not PSD."""
    top = float(np.abs(values).max(initial=0.0))
    least = float(np.min(values, initial=0.0))
    if least < -10 * rounding_of(op) * top:
        raise not_psd(name, least / top)
