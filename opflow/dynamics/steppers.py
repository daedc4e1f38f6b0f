"""What a method is to the loop, and the step size that methods of fixed step share.

A *method* (:class:`opflow.GradientDescent`, :class:`opflow.ExponentialFlow`, …) is a description;
:meth:`Method.start` makes the *integrator* that moves the state of one run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import eigh_tridiagonal

from opflow.arrays import namespace
from opflow.dynamics.flow import State
from opflow.operators import Operator
from opflow.spectral.tridiagonal import lanczos

#: Lanczos products that may be spent on λ_max(K), and where it is followed
LANCZOS, FOLLOW = 30, 4
#: a relative change of λ_max that doubles the wait for the next measurement, one that quarters it
STEADY, MOVING = 0.1, 0.3
#: products of steps between two measurements at most
LONGEST = 128.0
#: step·λ_max stays as it is between these
LOW, HIGH = 0.8, 1.1
#: a loss may rise by this factor in a step: gates that flip back and forth do that at any step size
RISE = 1.01


class Integrator(Protocol):
    """What moves the state of a run."""

    state: State
    products: int
    note: str
    #: which of `arrays` have a row for every sample or output
    by_sample: tuple[str, ...]

    def evaluate(self, residual: Any) -> float:
        """Fill `residual` at the state; ½ Σ |r|²."""

    def advance(self, remaining: float) -> float:
        """Move by one step, of at most `remaining` where the step can be chosen; the time moved."""

    def arrays(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as if it had not stopped."""

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`arrays` gave."""


class Method(Protocol):
    """How a run moves."""

    @property
    def name(self) -> str:
        """For messages."""

    def start(self, state: State, share: float) -> Integrator:
        """The integrator of a run; `share` multiplies the gradient of the summed loss."""


def parameter_arrays(state: State) -> dict[str, Any]:
    """The parameters of a state by name."""
    return {f"parameter_{i}": p for i, p in enumerate(state.parameters)}


def restored(state: State, arrays: dict[str, Any]) -> State:
    """The state at the parameters that :func:`parameter_arrays` gave."""
    return state.at([arrays[f"parameter_{i}"] for i in range(len(state.parameters))])


class Sharpest(NamedTuple):
    """λ_max of a kernel from below, its error bound, its vector, and the products it took."""

    value: float
    bound: float
    vector: Any
    products: int


def sharpest(
    kernel: Operator, vector: Any = None, steps: int = LANCZOS, tol: float = 1e-2
) -> Sharpest:
    """λ_max of a kernel, by Lanczos from `vector`, where it last was."""
    alpha, beta, basis = lanczos(kernel, steps, vector, tol=tol)
    unit = float(max(np.abs(alpha).max(), beta.max())) or 1.0  # LAPACK takes squares here
    values, vectors = eigh_tridiagonal(alpha / unit, beta[:-1] / unit)
    vector = basis @ namespace(basis).asarray(vectors[:, -1], dtype=basis.dtype)
    bound = abs(float(beta[-1] * vectors[-1, -1]))
    return Sharpest(unit * float(values[-1]), bound, vector, len(alpha))


class AutoStep:
    r"""The step size "auto": 1/λ_max(K), half the stability limit, while K moves.

    λ_max is measured again after 1, 2, 4, … steps, at most `LONGEST`, from the vector where it last
    was, and sooner where it has moved.  A step that raises the loss is taken back and halved: the
    quadratic model of the loss falls by any step up to 2/λ_max.

    Parameters
    ----------
    share : float
        What multiplies the gradient of the summed loss.
    batch : int, optional
        Samples of a step; of fewer than all N, λ of the mean square of (1 − step·K_batch) r takes
        the place of λ_max.
    """

    by_sample: tuple[str, ...] = ("auto_vector",)

    def __init__(self, share: float, batch: int | None = None) -> None:
        self.share, self.batch = share, batch
        self.size = math.nan
        #: λ_max of the summed loss at the start and now, and its vector
        self.first, self.top, self._vector = math.nan, math.nan, None
        #: steps since λ_max was measured, and until it is again
        self.since, self.wait = 1.0, 1.0
        #: steps that were taken back, and the loss that none may lead above
        self.halved, self.level = 0.0, math.inf

    def begin(self, state: Any) -> int:
        """Measure λ_max at the start; the products it took."""
        found = self._measured(state, LANCZOS, 1e-2)
        self.first, self.since, self.size = self.top, 0.0, 1.0
        if self.top > 0:  # a NumPy number would widen float32
            self.size = float(1.0 / (self.share * (self.top + found.bound)))
        return found.products

    def _measured(self, state: Any, steps: int, tol: float) -> Sharpest:
        kernel = state.kernel()
        found = sharpest(kernel, self._vector, steps, tol)
        self.top, self._vector, self.since = found.value, found.vector, 1.0
        if self.batch is not None:
            n, b, diagonal = state.samples, self.batch, kernel.diagonal()
            own = diagonal.max() if len(diagonal) else np.zeros(())
            one = float(state.space.largest(own))
            self.top = ((n - b) / b * one + (b - 1) / b * found.value) * n / max(n - 1, 1)
        return found

    def follow(self, state: Any) -> int:
        """Measure λ_max where it is time to, before a step; the products it took."""
        self.since += 1
        # where no gate is open anywhere the kernel stays zero
        if self.since <= self.wait or not self.top > 0:
            return 0
        before = self.top
        found = self._measured(state, FOLLOW, 0.05)
        change = abs(self.top / before - 1)
        if change < STEADY:
            steps = 1.0 if self.batch is None else state.samples / self.batch  # in a pass
            self.wait = min(2 * self.wait, LONGEST * steps)
        elif change > MOVING:
            self.wait = max(1.0, self.wait / 4)
        reach = self.size * self.share * self.top
        if self.top > 0 and not LOW <= reach <= HIGH:
            self.size = 1.0 / (self.share * self.top)
        return found.products + 1

    def halve(self) -> None:
        """The step was too long: K moved on the way."""
        self.size /= 2
        self.halved += 1
        self.wait = 1.0  # λ_max is another one now

    @property
    def note(self) -> str:
        """Which step it is and why."""
        if not self.first > 0:
            return "step 1: K = 0, nothing will move"
        what = "1/λ_max, half the stability limit, with λ_max(K) ="
        if self.batch is not None:
            what = f"1/λ of batches of {self.batch:,}, half the stability limit, with λ ="
        text = f"step {self.size:.4g} (auto: {what} {self.first:.4g} at the start"
        text += f" and {self.top:.4g} when last measured)"
        if self.halved:
            text += f"; {self.halved:,.0f} times a step raised the loss, was taken back and halved"
        return text

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds, once it has begun."""
        if math.isnan(self.size):
            return {}
        numbers = [self.size, self.first, self.top, self.since, self.wait, self.halved, self.level]
        return {"auto": np.array(numbers), "auto_vector": self._vector}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`arrays` gave; files of before have nothing, and it begins anew."""
        if "auto" not in arrays:
            return
        numbers = map(float, arrays["auto"])
        self.size, self.first, self.top, self.since, self.wait, self.halved, self.level = numbers
        self._vector = arrays["auto_vector"]


def check_step(step: Any, name: str = "step") -> None:
    """Raise unless `step` is a positive finite number or "auto"."""
    if isinstance(step, str):
        if step != "auto":
            raise ValueError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not isinstance(step, int | float) or isinstance(step, bool):
        raise TypeError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not 0 < step < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {step}")
