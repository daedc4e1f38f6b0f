"""Columns shifted and scaled to mean 0 and standard deviation 1, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from opflow.arrays import (
    as_array,
    as_samples,
    beside,
    check_real_dtype,
    is_rows,
    is_sparse,
    namespace,
    to_host,
)
from opflow.operators.algebra import is_operator
from opflow.operators.rows import row_slices
from opflow.operators.space import LOCAL, Space
from opflow.streams import Streamed, host_rows

#: number of rows, and mean and standard deviation of their columns
_Moments = tuple[int, Any, Any]
_NOTHING: _Moments = (0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Standardiser:
    r"""Shifts and scales columns: ``(X - mean) / scale``.

    Parameters
    ----------
    mean, scale : array (d,)
        float64 on the host; `scale` is positive.
    dtype : dtype, default float64
        float32 or float64, of what :meth:`transform` returns.

    Raises
    ------
    ValueError, TypeError
        If the two do not have one number a column, are not finite, or a scale is not positive.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X = np.array([[1.0, 100.0], [3.0, 300.0]])
    >>> standardiser = of.Standardiser.fit(X)
    >>> standardiser.mean, standardiser.scale
    (array([  2., 200.]), array([  1., 100.]))
    >>> Z = standardiser.transform(X)
    >>> Z
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> bool((standardiser.inverse(Z) == X).all())
    True
    """

    mean: Any
    scale: Any
    dtype: Any = np.float64

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            values = np.array(to_host(as_array(getattr(self, name), name)), dtype=np.float64)
            if values.ndim != 1 or not np.isfinite(values).all():
                raise ValueError(f"{name} must be a vector of finite numbers, one a column")
            object.__setattr__(self, name, values)
        if self.mean.shape != self.scale.shape or not (self.scale > 0).all():
            raise ValueError("scale must have one positive number for each number of mean")
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        check_real_dtype(self.dtype, "dtype")

    @classmethod
    @np.errstate(invalid="ignore", over="ignore", under="ignore")  # what is not finite is told
    def fit(cls, X: Any, *, dtype: Any = None, space: Space = LOCAL) -> Standardiser:
        """Mean and standard deviation of the columns of X.

        Parameters
        ----------
        X : array (N, d), rows on disk or sparse matrix
            Real numbers, integers or booleans, finite.  Rows on disk are read once, in blocks.
        dtype : dtype, optional
            Of what :meth:`transform` returns; by default that of X, float64 for whole numbers.
        space : Space, optional
            Of ranks, of which each has some of the rows of X: the result is that of all.

        Returns
        -------
        Standardiser
            A column that is constant, up to rounding, has scale 1.  For a sparse X the mean is 0,
            since shifted zeros would have to be stored.

        Raises
        ------
        TypeError
            If X holds no real numbers, or is an operator.
        ValueError
            If X is not two-dimensional, has no rows, or contains NaN or infinity, saying where.
        """
        X = _checked(X)
        kept = X.dtype.newbyteorder("=") if X.dtype.kind == "f" else np.dtype(np.float64)
        rows = host_rows(X)
        parts = (
            [_sparse(X)]
            if is_sparse(X)
            else (_dense(rows[s]) for s in row_slices(X.shape[0], 3 * 8 * X.shape[1]))
        )
        count, mean, spread = reduce(_joined, space.all_of(reduce(_joined, parts)))
        if not count:
            raise ValueError("X has no rows")
        if strange := np.flatnonzero(~np.isfinite(mean + spread)).tolist():
            raise ValueError(f"X contains NaN or infinity, in column {strange[0]}")
        constant = spread <= 10 * np.finfo(kept).eps * np.abs(mean)
        return cls(
            np.zeros_like(mean) if is_sparse(X) else mean,
            np.where(constant, 1.0, spread),
            kept if dtype is None else dtype,
        )

    def transform(self, X: Any) -> Any:
        """``(X - mean) / scale``.

        Parameters
        ----------
        X : array (M, d), rows on disk, :class:`~opflow.Streamed` or sparse matrix

        Returns
        -------
        array (M, d), rows or sparse matrix
            Of `dtype`, where X is; rows on disk are transformed whenever they are read.

        Raises
        ------
        TypeError
            If X holds no real numbers, or is an operator.
        ValueError
            If X has another number of columns, or is sparse and `mean` is not 0.
        """
        X = _checked(X)
        self._check_columns(X)
        if isinstance(X, Streamed):
            return Streamed(StandardisedRows(X.source, self))
        if is_rows(X):
            return StandardisedRows(X, self)
        scale = beside(self.scale, X)
        if is_sparse(X):
            return self._unshifted(X.tocsr() / scale, self.dtype)
        out = namespace(X).empty(X.shape, dtype=self.dtype)
        mean = beside(self.mean, X)
        for s in row_slices(len(X), 8 * X.shape[1]):
            out[s] = (X[s] - mean) / scale
        return out

    def inverse(self, Z: Any) -> Any:
        """``Z * scale + mean``, what :meth:`transform` has made of it.

        Parameters
        ----------
        Z : array (M, d) or sparse matrix

        Returns
        -------
        array (M, d) or sparse matrix
            Of the dtype of Z, float64 for whole numbers.

        Raises
        ------
        TypeError, ValueError
            As :meth:`transform`; also for rows on disk.
        """
        Z = _checked(as_array(Z, "Z"), "Z")
        self._check_columns(Z, "Z")
        dtype = Z.dtype if Z.dtype.kind == "f" else np.dtype(np.float64)
        scale = beside(self.scale, Z)
        if is_sparse(Z):
            return self._unshifted(Z.tocsr() / (1 / scale), dtype)
        return (Z * scale + beside(self.mean, Z)).astype(dtype, copy=False)

    def _check_columns(self, X: Any, name: str = "X") -> None:
        if X.shape[1] != len(self.mean):
            raise ValueError(
                f"{name} has {X.shape[1]} columns but {len(self.mean)} were standardised"
            )

    def _unshifted(self, scaled: Any, dtype: Any) -> Any:
        if self.mean.any():
            raise ValueError(
                "a sparse matrix cannot be shifted by a mean that is not 0: fit a sparse matrix, "
                "or give a dense array, X.toarray()"
            )
        return scaled.tocsr().astype(dtype)


class StandardisedRows:
    """Rows on disk that are standardised whenever they are read.

    Parameters
    ----------
    X : object with `shape`, `dtype` and row slicing
    standardiser : Standardiser
    """

    def __init__(self, X: Any, standardiser: Standardiser) -> None:
        self._X = X
        self._standardiser = standardiser
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = standardiser.dtype

    def __getitem__(self, index: Any) -> Any:
        return self._standardiser.transform(as_array(self._X[index], "X"))


def _checked(X: Any, name: str = "X") -> Any:
    if is_operator(X):
        raise TypeError(f"{name} is an operator, whose columns cannot be shifted and scaled")
    X = as_samples(X, name)
    if X.dtype.kind not in "iub":
        check_real_dtype(X.dtype, name)
    if len(X.shape) != 2:
        raise ValueError(f"{name} must be two-dimensional (samples, columns), not {X.shape}")
    return X


def _dense(block: Any) -> _Moments:
    """Moments of some rows; their columns are divided by a largest entry, so that squares exist."""
    if not len(block):
        return _NOTHING
    xp = namespace(block)
    block = as_array(block, "X").astype(np.float64)
    unit = _unit(abs(block).max(axis=0))
    block /= unit
    mean = block.mean(axis=0)
    spread = xp.sqrt(((block - mean) ** 2).mean(axis=0))
    return len(block), to_host(mean * unit), to_host(spread * unit)


def _sparse(X: Any) -> _Moments:
    """Moments of a sparse matrix, from its entries."""
    n, d = X.shape
    X = X.tocsr().astype(np.float64)
    X.sum_duplicates()
    entries = X.tocoo()
    if not n or not entries.nnz:
        return n, np.zeros(d), np.zeros(d)
    xp = namespace(entries.data)
    unit = _unit(abs(entries.data).max())
    values = entries.data / unit
    mean = xp.bincount(entries.col, weights=values, minlength=d) / n
    stored = xp.bincount(entries.col, minlength=d)
    squares = (values - mean[entries.col]) ** 2
    squares = xp.bincount(entries.col, weights=squares, minlength=d)
    spread = xp.sqrt((squares + (n - stored) * mean**2) / n)
    return n, to_host(mean * unit), to_host(spread * unit)


def _unit(peak: Any) -> Any:
    """What to divide numbers up to `peak` by; 1 where that is 0 or not finite."""
    return namespace(peak).where((peak > 0) & (peak < math.inf), peak, 1.0)


def _joined(one: _Moments, other: _Moments) -> _Moments:
    """Moments of all rows from those of some and of the others."""
    (n, mean, spread), (m, other_mean, other_spread) = one, other
    if not n or not m:
        return one if n else other
    here = math.sqrt(n / (n + m))
    there = math.sqrt(m / (n + m))
    shift = other_mean - mean
    within = np.hypot(here * spread, there * other_spread)
    return n + m, mean + shift * (m / (n + m)), np.hypot(within, here * there * shift)
