r"""Functions of a symmetric operator on vectors: the inverse, the square root, any f.

All come from Krylov spaces, ``f(op) r ≈ ‖r‖ V f(T) e₁``.  For the inverse and the square root (as
for the exponential, in :mod:`opflow.spectral.exponential`) the distance to the answer is bounded
at no product: it is an integral of residuals :math:`\beta_m [g_s(T)]_{m1} v_{m+1}` whose sign does
not change, which T alone gives.  For a general f it is estimated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.arrays import check_integer, check_real, namespace
from opflow.spectral.checks import ConvergenceWarning, check_shift, symmetric_operator
from opflow.spectral.krylov import check_tol
from opflow.spectral.recursion import Recursion, Ritz, check_psd, eigh_tridiagonals

#: of every column: f(Ritz values) (c, m); the error and what rounding adds to it, (c,), both
#: relative to max|f|·‖r‖
Judgement = tuple[np.ndarray, np.ndarray, np.ndarray]


def inv(op: Any, r: Any, shift: float = 0.0, *, tol: float = 1e-8, size: int = 128) -> Any:
    r"""The action of the inverse, (op + shift)⁻¹ r.

    For systems that need more than a few hundred products use :func:`opflow.spectral.solve`,
    which holds no basis and can be preconditioned.

    Parameters
    ----------
    op, r, size
        As in :func:`expm`.
    shift : float, default 0
        Not negative.
    tol : float, default 1e-8
        With a shift the error is at most ``tol·‖(op + shift)⁻¹‖·‖r‖``, without one the residual
        at most ``tol·‖r‖``; plus rounding, some ε times the condition number.

    Returns
    -------
    array of the shape of r

    Raises
    ------
    ValueError, TypeError
        For shapes or dtypes that do not fit, a negative shift, or an `op` seen not to be PSD.

    Warns
    -----
    ConvergenceWarning
        If `size` vectors do not suffice; the result is what they give.

    Notes
    -----
    The residual of the Krylov solution is :math:`\beta_m\|r\|\,|[(T + \lambda)^{-1}]_{m1}|`.  As
    op is PSD, λ is a lower bound of the spectrum, and the error is at most 1/λ times that.
    Some :math:`\frac12\sqrt{\kappa}\log(2/tol)` products, and 8·n·m flops for the m-th.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.inv(of.Gram(np.diag([0.0, 1.0, 2.0])), np.ones(3), 1.0).round(12)
    array([1. , 0.5, 0.2])
    """
    shift = check_shift(shift)

    def judge(space: Recursion, ritz: Ritz, eps: float) -> Judgement:
        top = ritz.values.max(axis=1, keepdims=True) + shift
        values = np.maximum(ritz.values + shift, np.maximum(eps * top, np.finfo(float).tiny))
        residual = np.abs(ritz.beta * (ritz.first * ritz.last / values).sum(axis=1))
        low = values.min(axis=1)
        error = residual * low / shift if shift else residual
        return 1 / values, error, 10 * eps * top[:, 0] / low

    return _by_lanczos(op, r, judge, "inv", tol, size, psd=True)


def sqrtm(op: Any, r: Any, *, tol: float = 1e-8, size: int = 128) -> Any:
    r"""The action of the square root, op^½ r.

    Parameters
    ----------
    op, r, size
        As in :func:`expm`.
    tol : float, default 1e-8
        The error is at most ``tol·‖op‖^½·‖r‖``, plus rounding: some ε·‖op‖/√λ_min, and √(ε‖op‖)
        if `op` is singular, for that is what an error of ε‖op‖ in a null eigenvalue does.

    Returns
    -------
    array of the shape of r

    Raises
    ------
    ValueError, TypeError
        For shapes or dtypes that do not fit, or once `op` is seen not to be PSD.

    Warns
    -----
    ConvergenceWarning
        If `size` vectors do not suffice; the result is what they give.

    Notes
    -----
    :math:`A^{1/2} = \frac1\pi \int_0^\infty s^{-1/2} A (A+s)^{-1} ds`.  The residuals of all
    shifted systems are multiples of one vector, :math:`\beta_m\|r\|\,[(T+s)^{-1}]_{m1} v_{m+1}`
    (see [1]_), of one sign, and :math:`\|(A+s)^{-1}\| \le 1/s`; so the error is at most

    .. math:: \frac{\beta_m\|r\|}\pi \int_0^\infty s^{-1/2} |[(T+s)^{-1}]_{m1}|\, ds
              = \beta_m \|r\|\, |[T^{-1/2}]_{m1}|.

    .. [1] T. Chen, A. Greenbaum, C. Musco, C. Musco, Error bounds for Lanczos-based matrix
       function approximation, SIAM J. Matrix Anal. Appl. 43 (2022).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.sqrtm(of.Gram(np.diag([1.0, 2.0, 3.0])), np.ones(3)).round(12)
    array([1., 2., 3.])
    """

    def judge(space: Recursion, ritz: Ritz, eps: float) -> Judgement:
        top = np.maximum(ritz.values.max(axis=1), np.finfo(float).tiny)
        relative = ritz.values / top[:, None]
        safe = np.maximum(relative, eps)
        error = np.abs(ritz.beta / top * (ritz.first * ritz.last * safe**-0.5).sum(axis=1))
        roots = np.sqrt(relative) * np.sqrt(top)[:, None]
        return roots, error, 10 * eps * safe.min(axis=1) ** -0.5

    return _by_lanczos(op, r, judge, "sqrtm", tol, size, psd=True)


def funm(op: Any, f: Callable[[Any], Any], r: Any, *, tol: float = 1e-8, size: int = 128) -> Any:
    r"""The action of any function, f(op) r.

    Parameters
    ----------
    op, r, size
        As in :func:`expm`, but `op` need not be PSD.
    f : function
        Of an array of eigenvalues (float64, on the host), to an array of the same shape.  Those
        of an `op` with the tag ``psd`` are never negative.
    tol : float, default 1e-8
        Where to stop: once the last fifth of the space changed the result by less than
        ``tol·max|f|·‖r‖``, the maximum over the Ritz values.  An estimate, not a bound: where
        the convergence stalls before it goes on, it is too small.  :func:`expm`, :func:`inv` and
        :func:`sqrtm` have bounds.

    Returns
    -------
    array of the shape of r

    Raises
    ------
    ValueError, TypeError
        For shapes or dtypes that do not fit, or if `f` is not finite on the spectrum.

    Warns
    -----
    ConvergenceWarning
        If `size` vectors do not suffice; the result is what they give.

    Notes
    -----
    :math:`f(op) r \approx \|r\| V f(T) e_1`, exact for polynomials of a degree below the number
    of vectors, so the error is at most twice that of the best polynomial on the spectrum.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.funm(of.Gram(np.diag([0.0, 1.0, 2.0])), np.cos, np.ones(3)).round(4)
    array([ 1.    ,  0.5403, -0.6536])
    """
    op = symmetric_operator(op)

    def values_of(theta: np.ndarray) -> np.ndarray:
        values = np.asarray(f(np.maximum(theta, 0.0) if op.psd else theta), dtype=np.float64)
        if values.shape != theta.shape:
            raise ValueError(f"f maps shape {theta.shape} to shape {values.shape}, not to the same")
        if not np.isfinite(values).all():
            raise ValueError("f is not finite at an estimate of an eigenvalue of op")
        return values

    def judge(space: Recursion, ritz: Ritz, eps: float) -> Judgement:
        values = values_of(ritz.values)
        m = values.shape[1]
        earlier = m - max(1, m // 5)
        rounding = np.full(len(values), 10 * eps)
        if not earlier:
            return values, np.full(len(values), np.inf), rounding
        alpha, beta = space.tridiagonal()
        theta, vectors = eigh_tridiagonals(alpha[:, :earlier], beta[:, : earlier - 1])
        now = _coefficients(values, ritz.vectors)
        now[:, :earlier] -= _coefficients(values_of(theta), vectors)
        scale = np.abs(values).max(axis=1)
        change = np.linalg.norm(now, axis=1) / np.where(scale > 0, scale, 1.0)
        return values, change, rounding

    return _by_lanczos(op, r, judge, "funm", tol, size, psd=False)


def _by_lanczos(
    op: Any,
    r: Any,
    judge: Callable[[Recursion, Ritz, float], Judgement],
    name: str,
    tol: float,
    size: int,
    *,
    psd: bool,
) -> Any:
    """f(op) r from spaces that grow until `judge` is content with them."""
    op, r, tol = symmetric_operator(op), check_real(r, "r"), check_tol(tol)
    if r.ndim not in (1, 2):
        raise ValueError(f"r must be a vector or a block of vectors, not of shape {r.shape}")
    check_integer(size, "size", 2)
    space = Recursion(op, r[:, None] if r.ndim == 1 else r, size)
    eps = float(np.finfo(r.dtype).eps)
    error, wanted = np.where(space.norms > 0, np.inf, 0.0), space.norms > 0
    if not wanted.any():
        return namespace(r).zeros_like(r)
    while (wanted & space.open).any():
        for _ in range(max(1, int(space.counts.max()) // 8)):  # a spectrum costs O(m³)
            space.grow(wanted)
        ritz = space.ritz()
        if psd:
            check_psd(ritz.values, len(r), eps)
            ritz = ritz._replace(values=np.maximum(ritz.values, 0.0))
        values, estimate, rounding = judge(space, ritz, eps)
        invariant = ritz.beta == 0  # then f(T) is f(op) on the space
        error = np.where(wanted, np.where(invariant, 0.0, estimate) + rounding, error)
        wanted = wanted & ~(error <= np.maximum(tol, 2 * rounding))
    # an answer that rounding leaves nothing of is none
    missed = (wanted & ~invariant) | ~(error < 0.5)
    if missed.any():
        warnings.warn(
            f"{name}: with {int(space.counts.max())} vectors {int(missed.sum())} of {len(error)} "
            f"columns are within {float(error[missed].max()):.1e} of the answer (relative to "
            f"max|f|·‖r‖), not {tol:.1e}; give a larger size",
            ConvergenceWarning,
            stacklevel=3,
        )
    out = space.combine(_coefficients(values, ritz.vectors))
    return out[:, 0] if r.ndim == 1 else out


def _coefficients(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """f(T) e₁ of every column, (c, m)."""
    return ((values * vectors[:, 0])[:, None, :] @ vectors.transpose(0, 2, 1))[:, 0]
