r"""The linear flow ``dr/dt = −op·r`` in a Krylov space, with an error bound free of products.

For a symmetric PSD operator the Lanczos basis V and tridiagonal T give
``exp(−t·op) r ≈ ‖r‖ V exp(−tT) e₁``, and the integrals of it, the φ-functions, likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.machine.arrays import Array, check_integer, check_real
from opflow.operators.operator import Operator
from opflow.spectral.blocks import as_columns, eps_of, matching
from opflow.spectral.checks import check_psd
from opflow.spectral.krylov.recursion import Recursion


class Krylov:
    r"""The linear flow ``dr/dt = −op·r``, solved in a Krylov space that grows as needed.

    Parameters
    ----------
    op : Operator
        Symmetric PSD, of order n.
    r : array (n,) or (n, c)
        r(0), in the operator's dtype or converted to it.
    size : int, default 128
        Vectors of a basis held at most, from 2: size·n·c numbers.

    Attributes
    ----------
    top : float
        The largest Ritz value.
    norm : float, or array (c,)
        ‖r‖.

    See Also
    --------
    opflow.spectral.expm : The exponential at given times.
    opflow.ExponentialFlow : A training method built on it.

    Notes
    -----
    With m vectors, T tridiagonal and :math:`\beta_m` the norm of the next residual, the Krylov
    solution has the defect [1]_ :math:`\beta_m\|r\|\,[e^{-sT}]_{m1}`, whose sign does not depend on
    s (−T has nonnegative off-diagonals up to alternating signs).  As op is PSD no error grows, so

    .. math:: \|r(t) - r_m(t)\| \le \beta_m \|r\| \int_0^t |[e^{-sT}]_{m1}|\, ds
              = \beta_m \|r\|\, |[t\,\varphi_1(-tT)]_{m1}|,

    and t times that bounds the error of :math:`\int_0^t r = t\,\varphi_1(-t\,op)\,r`, 1/k! times
    that the error of :math:`\varphi_k(-t\,op)\,r`.  Ritz values below
    :math:`10\,\epsilon\,\lambda_{max}` count as zero, in the bounds as well: what r has in the null
    space stays for all times.  Rounding moves the others by some :math:`\epsilon\lambda_{max}`, and
    adds that times t or :math:`1/\lambda`, whichever is less, on each mode.
    Each product is followed by a reorthogonalisation (done twice) of 8·n·m flops.

    For a block, `norm` and the bounds have a last axis for its columns, and a tolerance may have
    one value a column; columns that have reached theirs spend no more products.

    References
    ----------
    .. [1] M. A. Botchev, V. Grimm, M. Hochbruck, "Residual, restarting and Richardson iteration for
       the matrix exponential", SIAM J. Sci. Comput. 35, 2013.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> flow = of.spectral.Krylov(of.Gram(np.diag([1.0, 2.0, 3.0])), np.ones(3))
    >>> flow.reach(0.5, tol=1e-10), flow.products
    (True, 3)
    >>> bool(np.allclose(flow.at(0.5), np.exp([-0.5, -2.0, -4.5])))
    True
    """

    def __init__(self, op: Operator, r: Array, *, size: int = 128) -> None:
        r = check_real(r, "r", dtype=op.dtype)
        if r.ndim not in (1, 2) or len(r) != op.domain.here(op.shape[1]):
            raise ValueError(f"op has shape {op.shape} but r has shape {r.shape}")
        check_integer(size, "size", 2)
        self._start = r
        self._space = Recursion(op, as_columns(r), size)
        self.op = op
        self.size = self._space.size
        self.top = 0.0
        self.norm = self._shaped(self._space.norms)
        #: relative rounding that is allowed for
        self._rounding_unit = 10 * eps_of(op)

    def _shaped(self, columns: Array) -> Any:
        """Numbers (…, c), without the axis of the columns if r is a vector."""
        if self._start.ndim == 2:
            return columns
        return float(columns[0]) if columns.ndim == 1 else columns[..., 0]

    @property
    def products(self) -> int:
        """Products spent so far, each with one vector."""
        return self._space.products

    @property
    def exhausted(self) -> bool:
        """Whether no space can grow: each is invariant (or r zero) or has its full size."""
        return not self._space.open.any()

    def grow(self, wanted: Array | None = None) -> None:
        """Add a vector to the space, for one product; of a block, to those that are `wanted`."""
        self._space.grow(wanted)
        self._look()

    def _look(self) -> None:
        values = self._space.ritz().values
        check_psd(self.op, values)
        self.top = max(float(values.max()), 0.0)

    def _level(self) -> Array:
        """Below which rounding does not tell the Ritz values of a column from zero, (c, 1)."""
        values = self._space.ritz().values
        return self._rounding_unit * np.maximum(values.max(axis=1, keepdims=True), 0.0)

    def _rates(self) -> Array:
        """The Ritz values (c, m); those that are zero to rounding do not decay."""
        values = self._space.ritz().values
        return np.where(values > self._level(), values, 0.0)

    def _defects(self, t: Array | float) -> Array:
        space = self._space
        later = np.asarray(t)[..., None] > 0
        unknown = np.where(later & (space.norms > 0), np.inf, 0.0)
        if not space.counts.any():
            return unknown
        ritz = space.ritz()
        rates = self._rates()
        # the residual of a null vector is rounding in the end, and no time makes more of it
        found = (rates == 0) & (np.abs(ritz.beta[:, None] * ritz.last) <= self._level())
        ends = np.where(found, 0.0, ritz.first * ritz.last)
        inner = (integrated(rates, t) * ends).sum(-1)
        return np.where(space.counts > 0, np.abs(ritz.beta * inner), unknown)

    def defect(self, t: Array | float) -> Array | float:
        """The bound on the error of r(t), relative to ‖r‖ and without rounding."""
        return self._shaped(self._defects(t))

    def rounding(self, t: Array | float) -> Array | float:
        """What floating point adds to it."""
        return self._shaped(self._rounding(t))

    def _rounding(self, t: Array | float) -> Array:
        """Rates are moved by ε·λ_max, which tells until they have decayed."""
        space = self._space
        moved = np.zeros((*np.shape(t), len(space.norms)))
        if space.counts.any():
            rates = self._rates()
            ages = np.where(rates > 0, integrated(rates, t), 0.0)
            moved = np.linalg.norm(self.top * ages * space.ritz().first, axis=-1)
        return self._rounding_unit * (1 + moved)

    def bound(self, t: Array | float) -> Array | float:
        """The bound on ‖error of r(t)‖, rounding included; t times it is that of the integral."""
        relative = np.minimum(self._defects(t) + self._rounding(t), 1.0)
        return self._shaped(self._space.norms * relative)

    def reach(self, t: float, tol: Array | float) -> bool:
        """Grow until r(t) is within `tol`·‖r‖ or rounding; False if the size does not suffice."""
        while True:
            missed = ~(self._defects(t) <= np.maximum(tol, self._rounding(t)))
            if not missed.any():
                return True
            if not (missed & self._space.open).any():
                return False
            # the spectra of many or large spaces cost more than a few products too many
            m = int(self._space.counts.max())
            some = m * len(missed) // 256 if m < 128 else m
            for _ in range(max(1, min(m // 8, some))):
                self._space.grow(missed)
            self._look()

    def horizon(self, tol: Array | float, t: float, least: Array | float = 0.0) -> float:
        """A time up to which r is within `tol`·‖r‖ times the share of `t` that has passed.

        Or within `least`·‖r‖, where that is more.
        """
        times = t * np.geomspace(1.0, 1e-24, 400)
        share = (times / t)[:, None]
        enough = np.maximum(np.maximum(tol * share, least), self._rounding(times))
        met = (self._defects(times) <= enough).all(axis=-1)
        return float(times[int(np.argmax(met))])

    def apply(self, function: Callable[[Array], Array]) -> Array:
        """``function(op) r`` in the space.

        `function` maps the Ritz values (c, m) to as many values, or to (…, c, m) for several
        results, each of the shape of r.
        """
        if not self._space.counts.any():  # it is asked for at t = 0 only, or r = 0
            return self._multiples(function(np.zeros((1, 1))))
        out = self._space.combine(function(self._rates()))
        return out.reshape(*out.shape[:-2], *self._start.shape)

    def _multiples(self, factors: Array) -> Array:
        """r times each of the factors (…, 1, 1)."""
        start = self._start
        factors = factors.reshape(factors.shape[:-2] + (1,) * start.ndim)
        return matching(factors, start) * start

    def _decreasing(self, function: Callable[[Array], Array]) -> Array:
        """``function(op) r``, as r times its least value and what the slower modes have more.

        So the basis rounds only what it has to tell apart.
        """
        least = function(np.array([[self.top]]))
        return self._multiples(least) + self.apply(lambda theta: function(theta) - least)

    def at(self, t: Array | float) -> Array:
        """r(t) = exp(−t·op) r, (n,), or (times, n) for an array of times; see :meth:`reach`."""
        # as a change of r, so that t = 0 and null modes leave it exactly as it is
        return self._start + self.apply(lambda theta: np.expm1(-_outer(t, theta)))

    def phi(self, order: int, t: Array | float) -> Array:
        """φ_k(−t·op) r for the order k, of the same shape."""
        if order == 0:
            return self.at(t)
        return self._decreasing(lambda theta: phi_values(order, _outer(t, theta)))

    def integral(self, t: Array | float) -> Array:
        """∫_0^t r = t φ₁(−t·op) r, of the same shape."""
        return self._decreasing(lambda theta: integrated(theta, t))


def _outer(t: Array | float, theta: Array) -> Array:
    return np.multiply.outer(np.asarray(t, dtype=np.float64), theta)


def integrated(theta: Array, t: Array | float) -> Array:
    """``∫_0^t exp(−sθ) ds``, of shape ``t.shape + θ.shape``; accurate for small tθ, t at θ = 0."""
    t = np.asarray(t, dtype=np.float64)
    t = t.reshape(t.shape + (1,) * theta.ndim)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(theta * t > 0, -np.expm1(-theta * t) / theta, t)


@np.errstate(under="ignore")  # what has decayed is zero
def phi_values(order: int, x: Array) -> Array:
    r"""``φ_k(−x)`` for ``x >= 0``, to full relative accuracy.

    :math:`\varphi_0(z) = e^z` and :math:`\varphi_{k+1}(z) = (\varphi_k(z) - 1/k!)/z`, which
    cancels for :math:`|z|` below the order.  There Kummer's transformation has positive terms,

    .. math:: \varphi_k(-x) = \frac{e^{-x}}{k!} \sum_{j \ge 0} \frac{k}{k + j} \frac{x^j}{j!}.
    """
    x = np.asarray(x, dtype=np.float64)
    if order == 0:
        return np.exp(-x)
    small = np.minimum(x, order)
    series = np.zeros_like(x)
    term = np.ones_like(x)
    for j in range(40 + 5 * order):
        series += term * (order / (order + j))
        term = term * (small / (j + 1))
    large = np.maximum(x, order)
    value = -np.expm1(-large) / large
    for k in range(1, order):
        value = (1 / math.factorial(k) - value) / large
    return np.where(x < order, np.exp(-small) * series / math.factorial(order), value)
