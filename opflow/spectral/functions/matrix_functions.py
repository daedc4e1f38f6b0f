r"""Functions of a symmetric operator on vectors: the square root, any f.

All come from Krylov spaces, ``f(op) r ≈ ‖r‖ V f(T) e₁``.  For the square root (as for the
exponential, in :mod:`opflow.spectral.functions.exponential`) the distance to the answer is
bounded at no product: it is an integral of residuals :math:`\beta_m [g_s(T)]_{m1} v_{m+1}`
whose sign does not change, which T alone gives.  For a general f it is estimated.  The inverse
is :func:`opflow.spectral.solve`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from opflow.machine.arrays import Array, Data, check_integer, check_real, namespace
from opflow.operators.operator import Operator
from opflow.spectral.blocks import as_columns, divisor, eps_of
from opflow.spectral.checks import check_psd, check_tol, not_converged, symmetric_operator
from opflow.spectral.krylov.recursion import Recursion, Ritz

#: Points at which funm looks at f, about.
SAMPLES = 1024
#: Vectors of a basis below which its Ritz values do not show where the spectrum ends.
MIN_VECTORS = 8


class Judgement(NamedTuple):
    """How good f(T) is, of every column; errors are relative to max|f|·‖r‖."""

    values: np.ndarray  #: f(Ritz values), (c, m)
    error: np.ndarray  #: (c,)
    rounding: np.ndarray  #: what rounding adds to the error, (c,)


Judge = Callable[[Ritz, float], Judgement]


def sqrtm(op: Data, r: Data, *, tol: float = 1e-8, size: int = 128) -> Array:
    r"""The action of the square root, op^½ r, of the shape of r.

    Parameters
    ----------
    op, r
        As in :func:`expm`.
    tol : float, default 1e-8
        The error is at most ``tol·‖op‖^½·‖r‖``, plus rounding: some ε·‖op‖/√λ_min, and √(ε‖op‖)
        if `op` is singular, for that is what an error of ε‖op‖ in a null eigenvalue does.
    size : int, default 128
        Vectors of a basis held at most: size·n·c numbers.  If they do not suffice there is a
        `ConvergenceWarning`, and the result is what they give.

    Returns
    -------
    array of the shape of r

    See Also
    --------
    opflow.spectral.funm : Any function.
    opflow.spectral.expm : The exponential.

    Notes
    -----
    :math:`A^{1/2} = \frac1\pi \int_0^\infty s^{-1/2} A (A+s)^{-1} ds`.  The residuals of all
    shifted systems are multiples of one vector, :math:`\beta_m\|r\|\,[(T+s)^{-1}]_{m1} v_{m+1}`
    (see [1]_), of one sign, and :math:`\|(A+s)^{-1}\| \le 1/s`; so the error is at most

    .. math:: \frac{\beta_m\|r\|}\pi \int_0^\infty s^{-1/2} |[(T+s)^{-1}]_{m1}|\, ds
              = \beta_m \|r\|\, |[T^{-1/2}]_{m1}|.

    References
    ----------
    .. [1] T. Chen, A. Greenbaum, C. Musco, C. Musco, "Error bounds for Lanczos-based matrix
       function approximation", SIAM J. Matrix Anal. Appl. 43 (2022).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.sqrtm(of.Gram(np.diag([1.0, 2.0, 3.0])), np.ones(3)).round(12)
    array([1., 2., 3.])
    """

    def judge(ritz: Ritz, eps: float) -> Judgement:
        top = np.maximum(ritz.values.max(axis=1), np.finfo(float).tiny)
        relative = ritz.values / top[:, None]
        safe = np.maximum(relative, eps)
        error = np.abs(ritz.beta / top * (ritz.first * ritz.last * safe**-0.5).sum(axis=1))
        roots = np.sqrt(relative) * np.sqrt(top)[:, None]
        return Judgement(roots, error, 10 * eps * safe.min(axis=1) ** -0.5)

    return _by_lanczos(symmetric_operator(op), r, judge, "sqrtm", tol, size, psd=True)


def funm(
    op: Data, f: Callable[[Array], Array], r: Data, *, tol: float = 1e-8, size: int = 128
) -> Array:
    r"""The action of any function, f(op) r, of the shape of r.

    Parameters
    ----------
    op : operator or array (n, n)
        Symmetric; it need not be PSD.
    f : function
        Of an array of eigenvalues (float64, on the host), to an array of the same shape.  Those
        of an `op` with the tag ``psd`` are never negative, but those that are zero may come as the
        rounding of λ_max: f must not tell these apart (:func:`expm` does not).
    r : array (n,) or (n, c)
        As in :func:`expm`.
    tol : float, default 1e-8
        The error is at most ``tol·max|f|·‖r‖``, the maximum over the interval of the Ritz values,
        plus rounding; as far as f shows what it does at 1024 points of the interval.
    size : int, default 128
        As in :func:`sqrtm`.

    Returns
    -------
    array of the shape of r

    See Also
    --------
    opflow.spectral.sqrtm : The square root.
    opflow.spectral.expm : The exponential.
    opflow.spectral.quadrature : The trace of a function.

    Notes
    -----
    :math:`f(op) r \approx \|r\| V f(T) e_1`, exact for polynomials of a degree below the number
    m of vectors.  Along an eigenvector of op with eigenvalue λ the error is

    .. math:: \beta_m \|r\| \, v_{m+1}(\lambda) \sum_i y_{1i}\, y_{mi}
              \frac{f(\lambda) - f(\theta_i)}{\lambda - \theta_i}

    with the Ritz values θ and the eigenvectors y of T; :math:`v_{m+1}` is of norm one, so the error
    is at most the maximum of the rest over the spectrum.  That is taken over points in the gaps of
    the Ritz values and, beyond the outer ones, as far as their residuals go; points where `f` is
    not finite are no eigenvalues.  Some 1024·m flops a column each time the error is looked at.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.funm(of.Gram(np.diag([0.0, 1.0, 2.0])), np.cos, np.ones(3)).round(4)
    array([ 1.    ,  0.5403, -0.6536])
    """
    op = symmetric_operator(op)

    def values_of(theta: np.ndarray) -> np.ndarray:
        values = np.asarray(f(np.maximum(theta, 0.0) if op.psd else theta))
        if values.dtype.kind not in "fiub":
            raise TypeError(f"f must be real, not {values.dtype}: give its parts one by one")
        if values.shape != theta.shape:
            raise ValueError(f"f maps shape {theta.shape} to shape {values.shape}, not to the same")
        return values.astype(np.float64, copy=False)

    def judge(ritz: Ritz, eps: float) -> Judgement:
        theta = ritz.values
        values = values_of(theta)
        if not np.isfinite(values).all():
            raise ValueError("f is not finite at an estimate of an eigenvalue of op")
        points, inside = _between(ritz)
        ends = (ritz.first * ritz.last)[:, :, None]
        with np.errstate(all="ignore"):
            samples = values_of(points)
            nearness = 1 / (points[:, :, None] - theta[:, None, :])
            slopes = (samples[:, :, None] - values[:, None, :]) * nearness
            errors = np.abs((slopes @ ends)[:, :, 0])
            # What the rounding of the ends and of f makes of the error is none.
            noise = np.abs(slopes).sum(axis=2)
            noise += np.abs(samples) * (np.abs(nearness) @ np.abs(ends))[:, :, 0]
            errors = np.maximum(errors - 10 * eps * noise, 0.0)
        known = np.isfinite(samples) & np.isfinite(errors)  # f is finite on the spectrum
        error = ritz.beta * np.where(known, errors, 0.0).max(axis=1)
        scale = np.abs(np.where(known & inside, samples, 0.0)).max(axis=1)
        scale = np.maximum(scale, np.abs(values).max(axis=1))
        if theta.shape[1] < MIN_VECTORS:
            error = np.where(ritz.beta > 0, np.inf, error)
        rounding = np.full(len(values), 10 * eps)
        return Judgement(values, error / divisor(scale), rounding)

    return _by_lanczos(op, r, judge, "funm", tol, size, psd=False)


def _by_lanczos(
    op: Operator, r: Data, judge: Judge, name: str, tol: float, size: int, *, psd: bool
) -> Array:
    """f(op) r from spaces that grow until `judge` is content with them."""
    tol = check_tol(tol)
    r = check_real(r, "r", dtype=op.dtype)
    if r.ndim not in (1, 2):
        raise ValueError(f"r must be a vector or a block of vectors, not of shape {r.shape}")
    check_integer(size, "size", 2)
    space = Recursion(op, as_columns(r), size)
    eps = eps_of(op)
    unsolved = space.norms > 0
    if not unsolved.any():
        return namespace(r).zeros_like(r)
    error = np.where(unsolved, np.inf, 0.0)
    while (unsolved & space.open).any():
        for _ in range(max(1, int(space.counts.max()) // 8)):  # a spectrum costs O(m³)
            space.grow(unsolved)
        ritz = space.ritz()
        if psd:
            check_psd(op, ritz.values)
            ritz = ritz._replace(values=np.maximum(ritz.values, 0.0))
        values, bound, rounding = judge(ritz, eps)
        error = np.where(unsolved, bound + rounding, error)
        unsolved = unsolved & ~(error <= np.maximum(tol, 2 * rounding))
    if unsolved.any():
        not_converged(
            f"{name}: with {int(space.counts.max())} vectors {int(unsolved.sum())} of "
            f"{len(error)} columns are within {float(error[unsolved].max()):.1e} of the answer "
            f"(relative to max|f|·‖r‖), not {tol:.1e}; give a larger size",
        )
    return space.combine(values).reshape(r.shape)


def _between(ritz: Ritz) -> tuple[np.ndarray, np.ndarray]:
    """Points (c, g) between the Ritz values, and as far beyond as the outer residuals go.

    And which of them are between.
    """
    theta = ritz.values
    m = theta.shape[1]
    slack = np.abs(ritz.beta[:, None] * ritz.last)
    edges = np.c_[theta[:, 0] - slack[:, 0], theta, theta[:, -1] + slack[:, -1]]
    count = max(4, SAMPLES // (m + 1))  # in each gap
    fractions = np.arange(0.5, count) / count
    points = edges[:, :-1, None] + np.diff(edges)[:, :, None] * fractions
    inside = np.isin(np.arange(m + 1), [0, m], invert=True).repeat(count)
    return points.reshape(len(theta), -1), inside
