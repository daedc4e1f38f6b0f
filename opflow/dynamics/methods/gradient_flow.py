r"""The gradient flow by a stabilised Runge–Kutta method, and the step control of the flows.

A Chebyshev method of s stages is stable up to :math:`h\lambda_{max} \approx 1.93 s^2`, where s
steps of gradient descent reach 2s; it works on the parameters, so that the residual is f − y at
every stage, and takes a gradient at each of them, so that it sees every gate that has flipped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from opflow.dynamics.methods.method import parameter_arrays, restored
from opflow.dynamics.state import State
from opflow.machine.arrays import namespace, to_host
from opflow.spectral.krylov.lanczos import largest_eigenvalue

#: of a step's size: how much of the predicted one is taken, and the limits of its change
SAFETY, SHRINK, GROW = 0.9, 0.2, 4.0
#: stages of a step at most
STAGES = 200
#: products after which λ_max is measured again
RENEW = 40


class Trial(NamedTuple):
    """A step that may be taken: where it led, and its error in units of what is allowed."""

    state: State
    residual: Any
    loss: float
    size: float
    error: float


class Step(NamedTuple):
    """A Chebyshev step: the residual at its start, its size, its coefficient of (h d/dt)²."""

    residual: Any
    size: float
    curved: float


class AdaptiveIntegrator(ABC):
    """Steps whose size follows an estimate of their error; time is in units of 1/share."""

    by_sample: tuple[str, ...] = ()

    def __init__(self, state: State, share: float, tol: float, note: str) -> None:
        self.state, self.share, self.tol, self.note = state, share, tol, note
        #: the error of a step, in parts of ‖r‖: tol is in units of the loss
        self.allowed = tol**0.5
        self.products, self.size = 0, math.nan
        self._residual: Any = None
        #: the norm of an error that is the rounding of f
        self._rounding: float | None = None

    @property
    def step(self) -> float:
        """The size of the next step, if nothing cuts it short."""
        return self.size / self.share

    def evaluate(self, residual: Any) -> float:
        if self._residual is None:
            self._residual = namespace(residual).empty_like(residual)
            self._loss = self.state.evaluate(self._residual)
            self.products += 1
        residual[...] = self._residual
        return self._loss

    def advance(self, remaining: float) -> float:
        left = remaining * self.share
        if math.isnan(self.size):
            self.size = self.first_size()
        least = 1e-14 * self.size
        while True:
            clipped = left < self.size
            trial = self.attempt(min(self.size, left))
            with np.errstate(divide="ignore"):
                wanted = SAFETY * float(np.float64(trial.error)) ** -0.5 if trial.error else GROW
            change = min(GROW, max(SHRINK, wanted)) if trial.error < math.inf else SHRINK
            if trial.error <= 1:
                break
            self.size = change * trial.size
            if not self.size > least:
                raise ArithmeticError(
                    f"the step size fell to {self.step:.3g} without meeting tol={self.tol:g}"
                )
        # A step cut short by `remaining` says nothing against the size it was cut from.
        self.size = max(self.size if clipped else 0.0, change * trial.size)
        self.state, self._residual, self._loss = trial.state, trial.residual, trial.loss
        self.accepted()
        return remaining if trial.size == left else trial.size / self.share

    def measured(self, loss: Any, mismatch: Any) -> tuple[float, float]:
        """The loss, and the norm of an error of f in units of √tol·‖r‖ (or of the rounding of f).

        Both come to the host together.
        """
        xp, space = namespace(mismatch), self.state.space
        if self._rounding is None:
            y = self.state.targets
            self._rounding = 1e3 * float(np.finfo(y.dtype).eps * space.norm(y))
        scale = max(math.sqrt(2 * self._loss), self._rounding)
        loss, error = map(float, to_host(xp.stack([loss, space.norm(mismatch)])))
        return loss, error / (self.allowed * scale) if error else 0.0

    @abstractmethod
    def first_size(self) -> float:
        """The size of the first step."""

    @abstractmethod
    def attempt(self, size: float) -> Trial:
        """A step of at most `size`."""

    @abstractmethod
    def accepted(self) -> None:
        """The state has moved."""

    def arrays(self) -> dict[str, Any]:
        return parameter_arrays(self.state) | {"size": np.array(self.size)}

    def restore(self, arrays: dict[str, Any]) -> None:
        self.state, self.size = restored(self.state, arrays), float(arrays["size"])
        self._residual = None
        self.accepted()


def check_tol(tol: Any) -> None:
    """Raise unless `tol` is a positive number."""
    if not isinstance(tol, int | float) or isinstance(tol, bool):
        raise TypeError(f"tol must be a positive number, not {tol!r}")
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be positive and finite, not {tol}")


@dataclass(frozen=True)
class GradientFlow:
    r"""Gradient flow to a tolerance, by a Runge–Kutta–Chebyshev method of first order.

    Parameters
    ----------
    tol : float, default 1e-4
        The estimated error e of f in a step has ‖e‖² <= tol·‖r‖², r at its start: in units of
        the loss, so that 1e-4 allows a hundredth of the residual.

    Notes
    -----
    With s stages, :math:`w_0 = 1 + 1/(20 s^2)`, Chebyshev polynomials :math:`T_j` and
    :math:`w_1 = T_s(w_0)/T_s'(w_0)`, a step is the recursion

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
    a fifth and a seventh of descent.  For errors below a tenth of a per cent on small sets choose
    gradient descent with a step well below its limit: it counts no failed attempts.  What counts is
    λ_max·t: raw targets make λ_max grow, and t = 1 can then be 15,000 steps (targets of size 100,
    442 samples); standardised ones take 85.

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

    name = "the gradient flow"
    #: kernels at frozen gates are needed; sets of parameters besides the state
    frozen, extra = True, 6.0

    def __post_init__(self) -> None:
        check_tol(self.tol)

    def start(self, state: State, share: float) -> ChebyshevIntegrator:
        """The integrator of a run."""
        return ChebyshevIntegrator(state, share, self.tol)


class ChebyshevIntegrator(AdaptiveIntegrator):
    """Runge–Kutta–Chebyshev steps."""

    by_sample = ("vector", "before")

    def __init__(self, state: State, share: float, tol: float) -> None:
        super().__init__(state, share, tol, f"steps adapted to an error of √{tol:g}·‖r‖ each")
        self._top, self._vector, self._since = math.nan, None, 0
        self._rejected = False
        self._before: Step | None = None
        self._taken: Step | None = None

    def first_size(self) -> float:
        self.measure()
        # to first order the error is (hλ)²/2 of what moves, of which this allows all
        return min(self.allowed**0.5, 1.0) / self._top if self._top else 1.0

    def measure(self) -> None:
        """λ_max(K) at the state, from above, starting where it last was."""
        found = largest_eigenvalue(self.state.kernel(), tol=0.05, start=self._vector)
        self._top, self._vector = max(found.value + found.bound, 0.0), found.vector
        self.products += found.products + 1
        self._since = 0

    def attempt(self, size: float) -> Trial:
        if self._since >= RENEW:
            self.measure()
        # without a step of like size before it, one stage would have no error estimate
        known = self._before is not None and GROW * self._before.size >= size
        stages, size = stable_stages(1.05 * self._top, size, 1 if known else 2)
        start, slope, w0 = self.state, self.state.slope, damped(stages)
        w1, T, consistent, curved = chebyshev(stages)
        middle = max(1, round(0.7 * stages))
        empty = namespace(self._residual).empty_like
        halfway, residual = empty(self._residual), empty(self._residual)
        before, here = start, start.moved(slope, size * w1 / w0)
        for j in range(2, stages + 1):
            here.fill(halfway if j == middle + 1 else residual)
            mu, nu = 2 * w0 * T[j - 1] / T[j], -T[j - 2] / T[j]
            move = 2 * w1 * T[j - 1] / T[j] * size
            parameters = [
                (1 - mu - nu) * origin + mu * p + nu * q + move * g
                for origin, p, q, g in zip(
                    start.parameters, here.parameters, before.parameters, here.slope, strict=True
                )
            ]
            before, here = here, start.at(parameters)
        total = here.fill(residual)
        self.products += stages
        self._since += stages
        if stages == 1:
            mismatch = self._bend(residual, size)
        else:
            c = consistent[middle]
            weight = (0.5 - curved[stages]) / (curved[stages] - curved[middle] / c)
            mismatch = weight * (residual - halfway / c + (1 / c - 1) * self._residual)
        loss, error = self.measured(total, mismatch)
        if not error <= 1 and self._rejected:
            self._since = RENEW  # it may be λ_max that has grown
        self._rejected = not error <= 1
        self._taken = Step(self._residual, size, curved[stages])
        return Trial(here, residual, loss, size, error if math.isfinite(error) else math.inf)

    def _bend(self, residual: Any, size: float) -> Any:
        """h² f̈/2 of a step of one stage, from the slopes of f along it and the step before."""
        before = self._before
        assert before is not None
        ratio = size / before.size
        change = residual - self._residual - ratio * (self._residual - before.residual)
        return 0.5 * ratio / (1 - before.curved) * change

    def accepted(self) -> None:
        self._before = self._taken
        self._taken = None

    def arrays(self) -> dict[str, Any]:
        arrays = super().arrays() | {"top": np.array(self._top), "since": np.array(self._since)}
        if self._before is not None:
            numbers = np.array([self._before.size, self._before.curved])
            arrays |= {"before": self._before.residual, "before_numbers": numbers}
        return arrays if self._vector is None else arrays | {"vector": self._vector}

    def restore(self, arrays: dict[str, Any]) -> None:
        super().restore(arrays)
        self._top, self._since = float(arrays["top"]), int(arrays["since"])
        self._vector = arrays.get("vector")
        if "before" in arrays:
            self._before = Step(arrays["before"], *map(float, arrays["before_numbers"]))


def damped(stages: int) -> float:
    """w_0, which keeps the amplification of stiff modes at 0.95."""
    return 1 + 0.05 / stages**2


@cache
def chebyshev(stages: int) -> tuple[float, list[float], list[float], list[float]]:
    """w_1, T_j(w_0), and the first two coefficients of the stages as polynomials in hθ̇'."""
    w0 = damped(stages)
    T, D, DD = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        DD.append(4 * D[-1] + 2 * w0 * DD[-1] - DD[-2])
        D.append(2 * T[-1] + 2 * w0 * D[-1] - D[-2])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = T[stages] / D[stages]
    return (
        w1,
        T,
        [w1 * d / t for d, t in zip(D, T, strict=True)],
        [w1**2 * d / (2 * t) for d, t in zip(DD, T, strict=True)],
    )


def stable_stages(top: float, size: float, least: int = 2) -> tuple[int, float]:
    """The fewest stages stable for a step, and the step, cut to what `STAGES` allow."""

    def limit(stages: int) -> float:
        return (damped(stages) + 1) / chebyshev(stages)[0]

    reach = top * size
    stages = min(STAGES, max(least, int((min(reach, 4.0 * STAGES**2) / 2.0) ** 0.5)))
    while stages < STAGES and limit(stages) < reach:
        stages += 1
    return stages, size if reach <= limit(stages) else limit(stages) / top
