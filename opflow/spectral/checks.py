"""Checks of operators and numbers, and `Estimate`, a number with its interval."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable

import numpy as np

from opflow.machine.arrays import Array, Data
from opflow.operators.convert import External
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator
from opflow.spectral.blocks import Normalised, gaussian, rounding_of

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
