"""The first zero of many polynomials, with none missed."""

from __future__ import annotations

import numpy as np

from opflow.machine.arrays import Array

#: zeros this close to the first, relative to its time, count as one
TOGETHER = 1e-12
#: steps after which the search ends early
STEPS = 200


def may_vanish(coefficients: Array, end: float) -> Array:
    """Where polynomials may be zero on [0, end], by the sizes of their coefficients."""
    reach = np.zeros_like(coefficients[0])
    for c in coefficients[:0:-1]:
        reach = (reach + abs(c)) * end
    return abs(coefficients[0]) <= reach


def first_zero(coefficients: Array, end: float) -> tuple[float, Array]:
    r"""The first time at which one of m polynomials, not negative at 0, becomes negative.

    Parameters
    ----------
    coefficients : array (orders, m)
        In powers of t.
    end : float

    Returns
    -------
    float
        Before it there is none.  At most `end`; infinite if none does.
    bool array (m,)
        Which of them do then; none where the search ends early.

    Notes
    -----
    With M the bound :math:`\sum_j j(j-1)|c_j| end^{j-2}` of the second derivative, a polynomial
    stays positive from t until t + δ, :math:`q + q'\delta - M\delta^2/2 = 0`.  Steps of that size
    pass no zero and converge to the first one as Newton's do.
    """
    times = np.full(coefficients.shape[1], np.inf)
    left = np.arange(len(times))
    t = np.zeros(len(times))
    c = coefficients
    powers = np.arange(2, len(c))
    curved = (powers * (powers - 1) * end ** (powers - 2.0)) @ abs(c[2:])
    for _ in range(STEPS):
        q, slope = np.zeros((2, len(left)))
        for row in c[::-1]:
            slope = slope * t + q
            q = q * t + row
        q = np.maximum(q, 0.0)
        root = np.sqrt(slope**2 + 2 * curved * q)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(slope < 0, 2 * q / (root - slope), (slope + root) / curved)
        step[np.isnan(step)] = np.inf  # zero, and stays
        there = step <= 1e-15 * end
        times[left[there]] = t[there]
        t = t + step
        keep = ~there & (t <= min(end, (1 + TOGETHER) * times.min(initial=np.inf)))
        if not keep.any():
            break
        left, t, c, curved = left[keep], t[keep], c[:, keep], curved[keep]
    else:
        return float(t.min()), np.zeros(len(times), dtype=bool)
    first = float(times.min(initial=np.inf))
    return first, (times < np.inf) & (times <= (1 + TOGETHER) * first + 1e-15 * end)
