r"""The actions of exp(−t·op) and of its φ-functions, from the Krylov spaces of the linear flow.

A space that would grow too large is restarted at the latest time it serves.
"""

from __future__ import annotations

import math

import numpy as np

from opflow.machine.arrays import Array, Data, as_array, check_integer, check_real, namespace
from opflow.spectral.blocks import divisor, matching
from opflow.spectral.checks import check_tol, not_converged, symmetric_operator
from opflow.spectral.krylov.flow import Krylov

#: Spaces in a row at most: a time that needs more is out of reach.
SPACES = 1000
#: Numbers in the bases (1 GiB of float64) up to which they may have 512 vectors by default.
BASIS_NUMBERS = 2**27


def expm(op: Data, r: Data, t: Data, *, tol: float = 1e-8, size: int | None = None) -> Array:
    r"""The action of the exponential, exp(−t·op) r.

    Parameters
    ----------
    op : operator or array (n, n)
        Symmetric PSD.
    r : array (n,) or (n, c)
        A block costs block products.  Of the operator's dtype, or converted to it; with a
        warning if that rounds.
    t : float or array of floats
        Not negative; all times come from the same Krylov spaces.
    tol : float, default 1e-8
        The error is at most ``tol·‖r‖`` in norm (of every column), plus rounding: ε·λ_max times
        t or 1/λ, whichever is less, on the modes of r.
    size : int, optional
        Vectors of a basis held at most: size·n·c numbers, allocated as they are needed; 512 by
        default, fewer (down to 128) where those would take more than 2²⁷ numbers.  Smaller ones
        cost more products.

    Returns
    -------
    array of shape ``t.shape + r.shape``

    Warns
    -----
    ConvergenceWarning
        If 1000 spaces of `size` vectors do not reach the last time, or the first 30 come less than
        a thousandth of what is left nearer each; it says how far they came, and later times are
        what the last of them gives.

    See Also
    --------
    opflow.spectral.phi1 : The integral of the exponential.
    opflow.spectral.Krylov : The same, with products and bounds.
    opflow.LinearisedFlow : The flow of a linearised network.

    Notes
    -----
    Costs some :math:`\sqrt{t\lambda_{max}\log(1/tol)}` products [1]_, fewer if the spectrum decays,
    n at most if `size` allows, and 8·n·m flops for the m-th.  Where it does not, a space of m
    vectors serves a time of some :math:`m^2/(\lambda_{max}\log(1/tol))` at least: long times are
    cheaper with one large space than with many small ones.  exp(0) is the identity, and null
    vectors are kept at all times: eigenvalues below 10·ε·λ_max count as zero.  :class:`Krylov`
    tells the products spent and the bound.

    References
    ----------
    .. [1] M. Hochbruck, C. Lubich, "On Krylov subspace approximations to the matrix exponential
       operator", SIAM J. Numer. Anal. 34, 1997.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag([0.0, 1.0, 2.0]))
    >>> bool(np.allclose(of.spectral.expm(op, np.ones(3), 0.5), np.exp([0.0, -0.5, -2.0])))
    True
    >>> of.spectral.expm(op, np.ones(3), [0.0, 0.5]).shape
    (2, 3)
    """
    return _over_times(op, r, t, 0, tol, size)


def phi1(op: Data, r: Data, t: Data, *, tol: float = 1e-8, size: int | None = None) -> Array:
    r"""The action of the integrated exponential, ∫_0^t exp(−s·op) r ds = t φ₁(−t·op) r.

    Parameters
    ----------
    op, r, t, tol, size
        As in :func:`expm`; the error is at most ``t·tol·‖r‖``, plus rounding.

    Returns
    -------
    array of shape ``t.shape + r.shape``

    See Also
    --------
    opflow.spectral.expm : The exponential.
    opflow.spectral.phi : The φ-functions of any order.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag([0.0, 1.0]))
    >>> bool(np.allclose(of.spectral.phi1(op, np.ones(2), 0.5), [0.5, 1 - np.exp(-0.5)]))
    True
    """
    out = _over_times(op, r, t, 1, tol, size)
    return _factors(t, out) * out


def phi(
    op: Data, r: Data, t: Data, order: int = 1, *, tol: float = 1e-8, size: int | None = None
) -> Array:
    r"""The action of a φ-function of exponential integrators, φ_k(−t·op) r.

    Parameters
    ----------
    op, r, t
        As in :func:`expm`.
    order : int, default 1
        k, from 0; φ₀ is the exponential.
    tol, size
        As in :func:`expm`; the error is at most ``tol·‖r‖/k!``, plus rounding.

    Returns
    -------
    array of shape ``t.shape + r.shape``

    See Also
    --------
    opflow.spectral.expm : The exponential, φ₀.
    opflow.spectral.phi1 : The integrated exponential, t φ₁.

    Notes
    -----
    :math:`\varphi_k(-tA) = \int_0^1 e^{-(1-s)tA} s^{k-1}/(k-1)!\, ds`, which solves
    :math:`dx/dt = -Ax + t^{k-1}/(k-1)!\, r` as :math:`t^k\varphi_k(-tA)r` [1]_; 1/k! at t = 0 and
    on null vectors.  The products are those of the exponential.  Where a space of `size` vectors
    ends at a time s, the next one starts from :math:`r_s = e^{-sA}r`, and with
    :math:`\lambda = t/(s+t)`

    .. math:: \varphi_k(-(s+t)A)r = \lambda^k \varphi_k(-tA) r_s
              + \sum_{j<k} \frac{\lambda^j (1-\lambda)^{k-j}}{j!} \varphi_{k-j}(-sA) r.

    References
    ----------
    .. [1] M. Hochbruck, A. Ostermann, "Exponential integrators", Acta Numerica 19, 2010.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag([0.0, 1.0]))
    >>> bool(np.allclose(of.spectral.phi(op, np.ones(2), 1.0, 2), [0.5, np.exp(-1)]))
    True
    """
    check_integer(order, "order", 0)
    return _over_times(op, r, t, order, tol, size)


def _factors(times: Array, out: Array) -> Array:
    """Times (or a power) in front of results `out`, one each."""
    times = np.asarray(times, dtype=np.float64)
    return matching(times.reshape(times.shape + (1,) * (out.ndim - times.ndim)), out)


def _over_times(op: Data, r: Data, t: Data, order: int, tol: float, size: int | None) -> Array:
    """φ_k(−t·op) r, restarted wherever the size of the space ends."""
    op = symmetric_operator(op)
    tol = check_tol(tol)
    r = check_real(r, "r", dtype=op.dtype)
    t = as_array(t, "t")
    times = np.asarray(t, dtype=np.float64)
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError(f"t must be finite and not negative, not {t!r}")
    if size is None:
        size = max(128, min(512, int(BASIS_NUMBERS // max(op.space.largest(r.size), 1))))
    xp = namespace(r)
    krylov = Krylov(op, r, size=size)
    norm = krylov.norm
    flat = times.ravel()
    end = float(times.max(initial=0.0))
    start = 0.0
    out = xp.empty((times.size, *r.shape), dtype=r.dtype)
    at_start: list[Array] = []  # φ_1 … φ_k at the start of the space

    def result(k: int, ahead: np.ndarray) -> Array:
        """φ_k at times after the start of the space."""
        last = krylov.phi(k, ahead)
        if not k or not start:
            return last
        share = ahead / (start + ahead)
        total = _factors(share**k, last) * last
        for j in range(k):
            weight = share**j * (1 - share) ** (k - j) / math.factorial(j)
            total = total + _factors(weight, last) * at_start[k - j - 1]
        return total

    for spaces in range(1, SPACES + 1):
        left = end - start
        # The bounds of the spaces add up: half of the tolerance is shared by time, half by number.
        half = 0.5 * tol * norm / divisor(krylov.norm)
        share = left / (end or 1.0)
        reached = left
        if not krylov.reach(left, half * max(share, 1 / SPACES) if start else tol):
            reached = krylov.horizon(half * share, left, half / SPACES)
            hopeless = spaces >= 30 and reached * 1000 < left
            if hopeless or spaces == SPACES:
                error = np.max(krylov.bound(left) / divisor(norm))
                not_converged(
                    f"after {spaces} spaces of {krylov.size} vectors the solution is known up to "
                    f"t = {start + reached:.3g}, and at {end:.3g} within {error:.1e}·‖r‖, not "
                    f"{tol:.1e}; give a larger size or a shorter time",
                )
                reached = left
        inside = flat <= start + reached
        if start:
            inside &= flat >= start
        out[xp.asarray(inside)] = result(order, flat[inside] - start)
        if reached >= left:
            break
        at_start = [result(k, np.asarray(reached)) for k in range(1, order + 1)]
        start += reached
        krylov = Krylov(op, krylov.at(reached), size=size)
    return out.reshape(*times.shape, *r.shape)
