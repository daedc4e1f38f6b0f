"""Columns shifted and scaled to mean 0 and standard deviation 1, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import (
    Array,
    Data,
    Index,
    as_array,
    as_samples,
    check_real_dtype,
    is_rows,
    is_sparse,
    namespace,
    to_device_of,
    to_host,
)
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.streams import Streamed, host_rows
from opflow.machine.workspace import row_slices
from opflow.operators.rules import is_operator


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Columns shifted and scaled to mean 0 and deviation 1, ``(X - mean) / scale``, and back.

    Parameters
    ----------
    mean, scale : array (d,)
        Finite; the scale positive.
    dtype : dtype, default float64
        float32 or float64, of what :meth:`transform` returns; moments are float64.

    See Also
    --------
    opflow.Standardiser.fit : Finds mean and scale.
    opflow.sklearn.ReLURegressor : An estimator that standardises.
    opflow.Streamed : Rows for a device, standardised when they are read.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X = np.array([[1.0, 0.0], [3.0, 400.0]])
    >>> standardiser = of.Standardiser.fit(X)
    >>> standardiser.mean, standardiser.scale
    (array([  2., 200.]), array([  1., 200.]))
    >>> standardiser.transform(X).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    """

    mean: Array
    scale: Array
    dtype: Any = np.float64

    def __post_init__(self) -> None:
        check_real_dtype(np.dtype(self.dtype), "dtype")
        mean = np.array(to_host(self.mean), dtype=np.float64)
        scale = np.array(to_host(self.scale), dtype=np.float64)
        finite = np.isfinite(mean).all() and np.isfinite(scale).all()
        if mean.ndim != 1 or mean.shape != scale.shape or not finite or not (scale > 0).all():
            raise ValueError("mean and scale must be finite numbers, one a column, scale positive")
        vars(self).update(mean=mean, scale=scale, dtype=np.dtype(self.dtype))

    @classmethod
    @np.errstate(invalid="ignore", over="ignore", under="ignore")  # refused below
    def fit(
        cls, X: Data, *, dtype: DTypeLike | None = None, space: RowDistribution = LOCAL
    ) -> Standardiser:
        """Mean and standard deviation of the columns of X; constant columns have scale 1.

        Parameters
        ----------
        X : array (N, d) of real or whole numbers, rows on disk (read once, in blocks) or sparse
            A sparse matrix is not shifted, and its scale is the root of the mean square.
        dtype : dtype, optional
            That of X by default, float64 for whole numbers.
        space : RowDistribution, optional
            Of ranks that hold the rows of X together.

        Raises
        ------
        TypeError, ValueError
            If X holds no real numbers, no rows, or NaN or infinity; the message names the column.
        """
        X = _checked(X)
        found = np.dtype(np.float64)
        if X.dtype.kind == "f":
            found = X.dtype.newbyteorder("=")
        rows = host_rows(X)
        blocks = (rows[s] for s in row_slices(X.shape[0], 24 * X.shape[1]))
        mine = _moments(X) if is_sparse(X) else reduce(_joined, map(_moments, blocks))
        count, mean, spread = reduce(_joined, space.all_of(mine))
        if not count:
            raise ValueError("X has no rows")
        if strange := np.flatnonzero(~np.isfinite(mean + spread)).tolist():
            raise ValueError(f"X contains NaN or infinity, in column {strange[0]}")
        constant = spread <= 10 * np.finfo(found).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, spread), dtype or found)

    def transform(self, X: Data) -> Data:
        """``(X - mean) / scale`` of an array, rows on disk (whenever they are read) or sparse X.

        A sparse X has to have been fitted sparse: ``ValueError`` if `mean` is not 0.
        """
        X = self._checked(X)
        if isinstance(X, Streamed):
            return Streamed(StandardisedRows(X.source, self))
        if is_rows(X):
            return StandardisedRows(X, self)
        scale = to_device_of(self.scale, X)
        if is_sparse(X):
            return X.multiply(1 / scale).tocsr().astype(self.dtype)
        out = namespace(X).empty(X.shape, dtype=self.dtype)
        mean = to_device_of(self.mean, X)
        for s in row_slices(len(X), 8 * X.shape[1]):
            out[s] = (X[s] - mean) / scale
        return out

    def inverse(self, Z: Data) -> Data:
        """``Z * scale + mean`` of an array or sparse matrix (M, d), in its dtype."""
        Z = self._checked(as_array(Z, "Z"))
        scale = to_device_of(self.scale, Z)
        out = Z.multiply(scale).tocsr() if is_sparse(Z) else Z * scale + to_device_of(self.mean, Z)
        if Z.dtype.kind == "f":
            out = out.astype(Z.dtype, copy=False)
        return out

    def _checked(self, X: Data) -> Data:
        X = _checked(X)
        if X.shape[1] != len(self.mean):
            raise ValueError(f"X has {X.shape[1]} columns but the standardiser {len(self.mean)}")
        if is_sparse(X) and self.mean.any():
            raise ValueError("a sparse X cannot be shifted: fit a sparse one, or give an array")
        return X


class StandardisedRows:
    """Rows on disk, standardised whenever they are read."""

    def __init__(self, X: Data, standardiser: Standardiser) -> None:
        self._X = X
        self._standardiser = standardiser
        self.shape = X.shape
        self.dtype = standardiser.dtype

    def __getitem__(self, index: Index) -> Array:
        return self._standardiser.transform(as_array(self._X[index], "X"))


def _checked(X: Data) -> Data:
    if is_operator(X):
        raise TypeError("X is an operator, whose columns cannot be shifted and scaled")
    X = as_samples(X, "X")
    if X.dtype.kind not in "iub":
        check_real_dtype(X.dtype, "X")
    if len(X.shape) != 2:
        raise ValueError(f"X must be two-dimensional (samples, columns), not {X.shape}")
    return X


def _moments(X: Data) -> tuple[int, Any, Any]:
    """Number of rows, and mean and spread of columns, for which entries are divided by a peak."""
    if not X.shape[0]:
        return 0, 0.0, 0.0
    if is_sparse(X):
        X = X.astype(np.float64).tocsr()
        unit = float(abs(X.data).max()) if X.nnz else 1.0
        if not 0 < unit < math.inf:
            unit = 1.0
        X = X * (1 / unit)
        squares = X.multiply(X).T @ namespace(X).full(X.shape[0], 1 / X.shape[0])
        return X.shape[0], np.zeros(X.shape[1]), unit * to_host(squares) ** 0.5
    X = as_array(X, "X").astype(np.float64)
    xp = namespace(X)
    unit = abs(X).max(axis=0)
    unit = xp.where((unit > 0) & (unit < math.inf), unit, 1.0)
    X /= unit
    mean = X.mean(axis=0)
    return len(X), to_host(mean * unit), to_host(((X - mean) ** 2).mean(axis=0) ** 0.5 * unit)


def _joined(one: tuple[int, Any, Any], other: tuple[int, Any, Any]) -> tuple[int, Any, Any]:
    """Moments of all rows from those of some and of the others."""
    n, mean, spread = one
    m, other_mean, other_spread = other
    total = max(n + m, 1)
    share = m / total  # of the others
    here = math.sqrt(n / total)
    there = math.sqrt(share)
    shift = other_mean - mean
    within = np.hypot(here * spread, there * other_spread)
    return n + m, mean + shift * share, np.hypot(within, here * there * shift)
