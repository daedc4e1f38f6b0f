r"""The gradient flow in adaptive steps, by a stabilised Runge–Kutta method of first order.

A Chebyshev method of s stages is stable up to :math:`h\lambda_{max} \approx 1.93 s^2`, where s
steps of gradient descent reach 2s; it works on the parameters, so that the residual is f − y at
every stage, and takes a gradient at each of them, so that it sees every gate that has flipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from opflow.dynamics.methods.flow import GROW, AdaptiveIntegrator, Flow, Point, Trial
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, namespace
from opflow.spectral.krylov.lanczos import largest_eigenvalue

#: stages of a step at most
STAGES = 200
#: products after which λ_max is measured again
RENEW = 40


class Step(NamedTuple):
    """A Chebyshev step: the residual at its start, its size, its coefficient of (h d/dt)²."""

    residual: Array
    size: float
    curved: float


@dataclass(frozen=True)
class GradientFlow(Flow):
    r"""Gradient flow to a tolerance, by a Runge–Kutta–Chebyshev method of first order.

    Parameters
    ----------
    tol : float, default 1e-4
        The estimated error e of the force (of f, if quadratic) in a step has ‖e‖² <= tol·‖r‖²,
        r the force at its start: 1e-4 allows a hundredth of the residual.
    weight_decay : float, default 0
        λ of dθ/dt = −η_ℓ (∂loss/∂θ + λθ), as in :class:`GradientDescent`.

    See Also
    --------
    opflow.GradientDescent : The Euler step.
    opflow.ExponentialFlow : The flow by exponential steps.
    opflow.ExactFlow : The flow through every gate flip.

    Notes
    -----
    With s stages, :math:`w_0 = 1 + 1/(20 s^2)`, Chebyshev polynomials :math:`T_j` and
    :math:`w_1 = T_s(w_0)/T_s'(w_0)`, a step is the recursion [1]_

    .. math:: \theta_j = \mu_j\theta_{j-1} + \nu_j\theta_{j-2} + (1 - \mu_j - \nu_j)\theta_0
              + \tilde\mu_j h \dot\theta(\theta_{j-1}),

    stable up to :math:`h\lambda_{max} = (w_0 + 1)/w_1 \approx 1.93 s^2`; s is the least that
    suffices, with λ_max(K) from a few Lanczos products every forty.  A kink of the flow limits
    any method to first order, and this one spends all its stages on stability.  One stage is an
    Euler step, a step of gradient descent; its error is measured from the step before.

    A stage j is the state at time :math:`c_j h` to first order, with a known error in
    :math:`h^2\ddot f`, so the difference :math:`f_s - f_j/c_j + (1/c_j - 1) f_0` at
    :math:`c_j \approx 1/2` measures the error of the step on the outputs, at no cost.  A step costs
    s products and keeps some six sets of parameters.

    A flipped gate bends f by some :math:`\|r\|/\sqrt N` (one sample of N), so small sets take many
    short steps, and a gate that the flow holds at its kink shortens all of them; a quarter of the
    attempts fail.  With 200 samples the default takes 2,000 to 4,000 products to λ_max·t = 2,000,
    from half to all of what gradient descent needs for the same error; ``tol=1e-2`` takes 400 to
    1,900 for an error of one per cent of ‖r(0)‖ (descent 2,000).  With 1,797 samples the two take
    a fifth and a seventh of descent.

    Errors of steps add up.  On 250 digits to λ_max·t = 2,000 (one output, width 100) the default
    is off the exact flow by at most 0.16 % of ‖r(0)‖ in f and 1 % in the loss, and at the end by
    9 % of the residual that is left; ``tol=1e-6`` by 0.02 % for 7,860 products, half of what
    descent needs.  With ten outputs they are off by 2 % and 0.9 %.  On small sets of noise descent
    needs fewer products for small errors.

    What counts is λ_max·t: raw targets make λ_max grow, and t = 1 can then be 15,000 steps (targets
    of size 100, 442 samples); standardised ones take 85.

    References
    ----------
    .. [1] J. G. Verwer, "Explicit Runge–Kutta methods for parabolic partial differential
       equations", Appl. Numer. Math. 22, 1996.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    >>> net = of.ReLUNetwork.random([3, 64], seed=0)
    >>> run = of.train(net, X, y, method=of.GradientFlow(), times=[1.0, 2.0])
    >>> run.times
    array([0., 1., 2.])
    """

    tol: float = 1e-4
    weight_decay: float = 0.0

    name = "the gradient flow"
    extra = 6.0

    def __repr__(self) -> str:  # goes into checkpoints, older ones too
        decay = f", weight_decay={self.weight_decay!r}" * bool(self.weight_decay)
        return f"GradientFlow(tol={self.tol!r}{decay})"

    def start(self, state: State, share: float) -> ChebyshevIntegrator:
        return ChebyshevIntegrator(state, share, self.tol)


class ChebyshevIntegrator(AdaptiveIntegrator):
    """Runge–Kutta–Chebyshev steps."""

    by_sample = ("vector", "before")

    def __init__(self, state: State, share: float, tol: float) -> None:
        super().__init__(state, share, tol, f"steps adapted to an error of √{tol:g}·‖r‖ each")
        #: λ_max(K) · curvature from above, its vector, and the products since it was measured
        self._curvature = state.objective.curvature
        self._top = math.nan
        self._vector: Array | None = None
        self._since = 0
        #: whether the last attempt failed
        self._rejected = False
        #: the step that led to the state, and the one that was tried last
        self._before: Step | None = None
        self._taken: Step | None = None

    def first_size(self) -> float:
        self.measure()
        # to first order the error is (hλ)²/2 of what moves, of which this allows all
        return min(self.allowed**0.5, 1.0) / self._top if self._top else 1.0

    def measure(self) -> None:
        """λ_max(K) at the state, from above, starting where it last was."""
        found = largest_eigenvalue(self.state.kernel(), tol=0.05, start=self._vector)
        self._top = self._curvature * max(found.value + found.bound, 0.0) + self.state.stiffness
        self._vector = found.vector
        self._since = 0
        self.products += found.products + 1

    def attempt(self, size: float) -> Trial:
        if self._since >= RENEW:
            self.measure()
        # without a step of like size before it, one stage would have no error estimate
        known = self._before is not None and GROW * self._before.size >= size
        stages, size = stable_stages(1.05 * self._top, size, 2 - known)
        start, r, _, velocity = self.point
        w0 = damped(stages)
        w1, T, consistent, curved = chebyshev(stages)
        middle = max(1, round(0.7 * stages))
        residual = namespace(r).empty_like(r)
        halfway = namespace(r).empty_like(r)
        before = start
        here = start.moved(velocity, size * w1 / w0)
        for j in range(2, stages + 1):
            slope = here.loss_and_velocity(halfway if j == middle + 1 else residual)[1]
            mu = 2 * w0 * T[j - 1] / T[j]
            nu = -T[j - 2] / T[j]
            move = 2 * w1 * T[j - 1] / T[j] * size
            sets = zip(start.parameters, here.parameters, before.parameters, slope, strict=True)
            before = here
            here = start.at(
                [(1 - mu - nu) * origin + mu * p + nu * q + move * v for origin, p, q, v in sets]
            )
        end = Point.of(here, residual)
        self.products += stages
        self._since += stages
        if stages == 1:
            mismatch = self._bend(residual, size)
        else:
            c = consistent[middle]
            weight = (0.5 - curved[stages]) / (curved[stages] - curved[middle] / c)
            mismatch = weight * (residual - halfway / c + (1 / c - 1) * r)
        trial = self.trial(end, size, mismatch)
        rejected = not trial.error <= 1
        if rejected and self._rejected:
            self._since = RENEW  # it may be λ_max that has grown
        self._rejected = rejected
        self._taken = Step(r, size, curved[stages])
        return trial

    def _bend(self, residual: Array, size: float) -> Array:
        """h² f̈/2 of a step of one stage, from the slopes of f along it and the step before."""
        before = self._before
        assert before is not None
        r = self.point.residual
        ratio = size / before.size
        change = residual - r - ratio * (r - before.residual)
        return 0.5 * ratio / (1 - before.curved) * change

    def accepted(self) -> None:
        self._before = self._taken
        self._taken = None

    def arrays(self) -> dict[str, Array]:
        arrays = super().arrays() | {"top": np.array(self._top), "since": np.array(self._since)}
        if self._before is not None:
            arrays["before"] = self._before.residual
            arrays["before_numbers"] = np.array([self._before.size, self._before.curved])
        if self._vector is not None:
            arrays["vector"] = self._vector
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        super().restore(arrays)
        self._top = float(arrays["top"])
        self._since = int(arrays["since"])
        self._vector = arrays.get("vector")
        if "before" in arrays:
            self._before = Step(arrays["before"], *arrays["before_numbers"].tolist())


def damped(stages: int) -> float:
    """w_0, which keeps the amplification of stiff modes at 0.95."""
    return 1 + 0.05 / stages**2


@cache
def chebyshev(stages: int) -> tuple[float, list[float], list[float], list[float]]:
    """w_1, T_j(w_0), and the first two coefficients of the stages as polynomials in hθ̇'."""
    w0 = damped(stages)
    T = [1.0, w0]
    first = [0.0, 1.0]  # derivatives of T at w_0
    second = [0.0, 0.0]
    for _ in range(2, stages + 1):
        second.append(4 * first[-1] + 2 * w0 * second[-1] - second[-2])
        first.append(2 * T[-1] + 2 * w0 * first[-1] - first[-2])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = T[stages] / first[stages]
    consistent = [w1 * d / t for d, t in zip(first, T, strict=True)]
    curved = [w1**2 * d / (2 * t) for d, t in zip(second, T, strict=True)]
    return w1, T, consistent, curved


def stable_stages(top: float, size: float, least: int = 2) -> tuple[int, float]:
    """The fewest stages stable for a step, and the step, cut to what `STAGES` allow."""

    def limit(stages: int) -> float:
        return (damped(stages) + 1) / chebyshev(stages)[0]

    reach = top * size
    stages = min(STAGES, max(least, int((min(reach, 4.0 * STAGES**2) / 2.0) ** 0.5)))
    while stages < STAGES and limit(stages) < reach:
        stages += 1
    if reach > limit(stages):
        size = limit(stages) / top
    return stages, size
