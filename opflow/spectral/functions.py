r"""The actions of exp(−t·op) and of its integral on a vector, from one Krylov space.

For a symmetric PSD operator the Lanczos basis V and tridiagonal T give
``exp(−t·op) r ≈ ‖r‖ V exp(−tT) e₁`` with an error bound that costs no product; a space that
would grow too large is restarted at the latest time it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

from opflow.arrays import check_integer, namespace
from opflow.operators.operator import Operator


class Krylov:
    r"""The linear flow ``dr/dt = −op·r`` in a Krylov space that grows as it is asked to.

    Parameters
    ----------
    op : Operator
        Symmetric PSD, of order n.
    r : array (n,)
        r(0), of the operator's dtype.
    size : int, default 128
        Vectors of the basis held at most, from 2: size·n numbers.

    Attributes
    ----------
    products : int
        Products spent so far.
    top : float
        The largest Ritz value.

    Raises
    ------
    ValueError
        For shapes that do not fit, or once a Ritz value shows that `op` is not PSD.

    Notes
    -----
    With m vectors, T tridiagonal and :math:`\beta_m` the norm of the next residual, the Krylov
    solution has the defect :math:`\beta_m\|r\|\,[e^{-sT}]_{m1}`, whose sign does not depend on s
    (−T has nonnegative off-diagonals up to alternating signs).  As op is PSD no error grows, so

    .. math:: \|r(t) - r_m(t)\| \le \beta_m \|r\| \int_0^t |[e^{-sT}]_{m1}|\, ds
              = \beta_m \|r\|\, |[t\,\varphi_1(-tT)]_{m1}|,

    and t times that bounds the error of :math:`\int_0^t r = t\,\varphi_1(-t\,op)\,r`.  Rounding
    adds some :math:`\epsilon\,(1 + t\lambda_{max})\|r\|`, the conditioning of the exponential.
    Each product is followed by a reorthogonalisation (done twice) of 8·n·m flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> flow = of.spectral.Krylov(of.Gram(np.diag([1.0, 2.0, 3.0])), np.ones(3))
    >>> flow.reach(0.5, tol=1e-10), flow.products
    (True, 3)
    >>> bool(np.allclose(flow.at(0.5), np.exp([-0.5, -2.0, -4.5])))
    True
    """

    def __init__(self, op: Operator, r: Any, *, size: int = 128) -> None:
        if r.ndim != 1 or op.shape != (r.size, r.size):
            raise ValueError(f"op has shape {op.shape} but r has shape {r.shape}")
        if r.dtype != op.dtype:
            raise TypeError(f"op is {op.dtype} but r is {r.dtype}")
        check_integer(size, "size", 2)
        xp = namespace(r)
        self.op, self.size, self._start = op, min(size, r.size), r
        self.norm = float(xp.linalg.norm(r))
        self.products, self.top = 0, 0.0
        self._alpha: list[float] = []
        self._beta: list[float] = []
        self._basis = xp.zeros((min(self.size, 8), r.size), dtype=r.dtype)
        self._next: Any = r / self.norm if self.norm > 0 else None
        self._eps = float(np.finfo(r.dtype).eps)

    @property
    def exhausted(self) -> bool:
        """Whether the space is invariant (or r zero) or has its full size."""
        return self._next is None or len(self._alpha) == self.size

    def grow(self) -> None:
        """Add a vector to the space, for one product."""
        m, xp = len(self._alpha), namespace(self._next)
        n = self._next.size
        if m == len(self._basis):
            more = xp.zeros((min(m, self.size - m), n), dtype=self._basis.dtype)
            self._basis = xp.concatenate([self._basis, more])
        self._basis[m] = self._next
        basis = self._basis[: m + 1]
        w = self.op.matvec(basis[m])
        self.products += 1
        self._alpha.append(float(basis[m] @ w))
        scale = float(xp.linalg.norm(w))
        for _ in range(2):  # once is not enough in floating point
            w = w - basis.T @ (basis @ w)
        beta = float(xp.linalg.norm(w))
        invariant = m + 1 == n or beta <= 10 * n**0.5 * self._eps * scale
        self._beta.append(0.0 if invariant else beta)
        self._next = None if invariant else w / beta
        values, vectors = eigh_tridiagonal(self._alpha, self._beta[:-1])
        self.top = max(float(values[-1]), 0.0)
        if values[0] < -10 * n**0.5 * self._eps * max(self.top, -float(values[0])):
            raise ValueError(f"op must be PSD, but has an eigenvalue of at most {values[0]:.4g}")
        self._ritz, self._vectors = np.maximum(values, 0.0), vectors

    def defect(self, t: Any) -> Any:
        """The bound on the error of r(t), relative to ‖r‖ and without rounding."""
        if not self._alpha:
            return np.where((np.asarray(t) > 0) & (self.norm > 0), np.inf, 0.0)
        rows = self._vectors[-1] * self._vectors[0]
        return np.abs(self._beta[-1] * (integrated(self._ritz, t) @ rows))

    def rounding(self, t: Any) -> Any:
        """What floating point adds to it."""
        return 10 * self._eps * (1 + np.asarray(t) * self.top)

    def bound(self, t: Any) -> Any:
        """The bound on ‖error of r(t)‖, rounding included; t times it is that of the integral."""
        return self.norm * np.minimum(self.defect(t) + self.rounding(t), 1.0)

    def reach(self, t: float, tol: float) -> bool:
        """Grow until r(t) is within `tol`·‖r‖ or rounding; False if the size does not suffice."""
        while not self.defect(t) <= max(tol, self.rounding(t)):
            if self.exhausted:
                return False
            self.grow()
        return True

    def horizon(self, tol: float, t: float) -> float:
        """A time up to which r is within `tol`·‖r‖ times the share of `t` that has passed."""
        times = t * np.geomspace(1.0, 1e-24, 400)
        met = self.defect(times) <= np.maximum(tol * times / t, self.rounding(times))
        return float(times[int(np.argmax(met))])

    def apply(self, function: Callable[[Any], Any]) -> Any:
        """``function(op) r`` in the space.

        `function` maps the Ritz values (m,) to as many values, or to (…, m) for several results.
        """
        basis, xp = self._basis[: len(self._alpha)], namespace(self._basis)
        if not self._alpha:  # nothing is known of op: it is asked for at t = 0 only, or r = 0
            return function(np.zeros(1)) * self._start
        weights = self.norm * (function(self._ritz) * self._vectors[0]) @ self._vectors.T
        return xp.asarray(weights, dtype=self._basis.dtype) @ basis

    def at(self, t: Any) -> Any:
        """r(t) = exp(−t·op) r, (n,), or (times, n) for an array of times; see :meth:`reach`."""
        # as a change of r, so that t = 0 and null modes leave it exactly as it is
        return self._start + self.apply(lambda theta: np.expm1(-np.multiply.outer(t, theta)))

    def integral(self, t: Any) -> Any:
        """∫_0^t r = t φ₁(−t·op) r, of the same shape."""
        return self.apply(lambda theta: integrated(theta, t))


def expm(op: Operator, r: Any, t: Any, *, tol: float = 1e-8, size: int = 128) -> Any:
    r"""The action of the exponential, exp(−t·op) r.

    Parameters
    ----------
    op : Operator
        Symmetric PSD, of order n.
    r : array (n,)
        Of the operator's dtype.
    t : float or array of floats
        Not negative; all times come from the same Krylov spaces.
    tol : float, default 1e-8
        The error is at most ``tol·‖r‖`` in norm, plus rounding, some ε·(1 + t λ_max)·‖r‖.
    size : int, default 128
        Vectors of the basis held at most: size·n numbers.  Smaller ones cost more products.

    Returns
    -------
    array (n,), or ``t.shape + (n,)``

    Raises
    ------
    ValueError, TypeError
        For shapes, dtypes or times that do not fit, or once `op` is seen not to be PSD.

    Notes
    -----
    Costs some :math:`\sqrt{t\lambda_{max}\log(1/tol)}` products, fewer if the spectrum decays,
    and 8·n·m flops for the m-th.  exp(0) is the identity and null vectors are kept.
    :class:`Krylov` tells the products spent and the bound.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag([0.0, 1.0, 2.0]))
    >>> bool(np.allclose(of.spectral.expm(op, np.ones(3), 0.5), np.exp([0.0, -0.5, -2.0])))
    True
    >>> of.spectral.expm(op, np.ones(3), [0.0, 0.5]).shape
    (2, 3)
    """
    return _over_times(op, r, t, tol, size)[0]


def phi1(op: Operator, r: Any, t: Any, *, tol: float = 1e-8, size: int = 128) -> Any:
    r"""The action of the integrated exponential, ∫_0^t exp(−s·op) r ds = t φ₁(−t·op) r.

    Parameters and errors are those of :func:`expm`; the error is at most ``t·tol·‖r‖``, plus
    rounding.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> op = of.Gram(np.diag([0.0, 1.0]))
    >>> bool(np.allclose(of.spectral.phi1(op, np.ones(2), 0.5), [0.5, 1 - np.exp(-0.5)]))
    True
    """
    return _over_times(op, r, t, tol, size)[1]


def _over_times(op: Operator, r: Any, t: Any, tol: float, size: int) -> tuple[Any, Any]:
    """exp(−t·op) r and its integral, restarted wherever the size of the space ends."""
    times = np.asarray(t, dtype=np.float64)
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError(f"t must be finite and not negative, not {t!r}")
    if not tol > 0:
        raise ValueError(f"tol must be positive, not {tol!r}")
    xp = namespace(r)
    values, integrals = (xp.empty((times.size, r.size), dtype=r.dtype) for _ in range(2))
    flat, end = times.ravel(), float(times.max(initial=0.0))
    krylov, total = Krylov(op, r, size=size), xp.zeros_like(r)
    start, scale = 0.0, krylov.norm
    while True:
        left = end - start
        # the bounds of the pieces add up, so each may have its share of the time
        allowed = tol * scale / krylov.norm * (left / end) if krylov.norm and left else tol
        reached = left if krylov.reach(left, allowed) else krylov.horizon(allowed, left)
        here = (flat >= start) & (flat <= start + reached) if start else flat <= reached
        values[here] = krylov.at(flat[here] - start)
        integrals[here] = total + krylov.integral(flat[here] - start)
        if reached >= left:
            return values.reshape(*times.shape, r.size), integrals.reshape(*times.shape, r.size)
        total = total + krylov.integral(reached)
        start += reached
        krylov = Krylov(op, krylov.at(reached), size=size)


def integrated(theta: Any, t: Any) -> Any:
    """``∫_0^t exp(−sθ) ds``, of shape ``t.shape + θ.shape``; accurate for small tθ, t at θ = 0."""
    theta, t = np.asarray(theta), np.asarray(t, dtype=np.float64)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(theta * t > 0, -np.expm1(-theta * t) / theta, t)
