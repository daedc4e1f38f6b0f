"""What a method is to the loop, and the step size that methods of fixed step share.

A *method* (:class:`opflow.GradientDescent`, :class:`opflow.ExponentialFlow`, …) is a description;
:meth:`Method.start` makes the *integrator* that moves the state of one run.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from opflow.dynamics.state import State
from opflow.spectral.krylov.lanczos import largest_eigenvalue

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


class AutoStep:
    r"""The step size "auto": 1/λ_max(K), half the stability limit, followed as K moves.

    λ_max is measured again after 1, 2, 4, … steps, at most `LONGEST`, from the vector where it last
    was, and sooner where it has moved.

    Parameters
    ----------
    share : float
        What multiplies the gradient of the summed loss.
    batch, momentum : int, optional, and float
        Samples of a step, and β; see the notes of :class:`opflow.GradientDescent`.
    """

    def __init__(self, share: float, batch: int | None = None, momentum: float = 0.0) -> None:
        self.share, self.batch, self.momentum = share, batch, momentum
        self.size = math.nan
        #: λ_max of the summed loss at the start and now, and its vector
        self.first, self.top, self.vector = math.nan, math.nan, None
        #: steps since λ_max was measured, and until it is again
        self.since, self.wait = 0.0, 1.0
        #: steps that were taken back, and the loss that none may lead above
        self.halved, self.level = 0.0, math.inf

    def follow(self, state: Any) -> int:
        """Measure λ_max where it is time to, before a step; the products it took."""
        begins, before = math.isnan(self.size), self.top
        self.since += 1
        if not begins and self.since <= self.wait:
            return 0
        kernel = state.kernel()
        # one or two products, from where it was
        tol, steps = (1e-2, LANCZOS) if begins else (0.05, FOLLOW)
        found = largest_eigenvalue(kernel, tol=tol, steps=steps, start=self.vector)
        self.top, self.vector, self.since = found.value, found.vector, 1.0
        if self.batch is not None:
            n, b, own = state.samples, self.batch, kernel.diagonal()
            one = float(state.space.largest(own.max() if len(own) else np.zeros(())))
            noise = (n - b) / (b * max(n - 1, 1)) * (n * one - found.value)
            self.top = found.value + max(noise, 0.0) / (1 - self.momentum)
        if begins:
            self.first, self.since = self.top, 0.0
        elif (change := abs(self.top - before)) <= STEADY * before:
            passes = 1.0 if self.batch is None else state.samples / self.batch
            self.wait = min(2 * self.wait, LONGEST * passes)
        elif change > MOVING * before:
            self.wait = max(1.0, self.wait / 4)
        if begins and not self.top > 0:  # no gate is open anywhere, and nothing will move
            self.size = 1.0
        elif begins or (self.top > 0 and not LOW <= self.size * self.share * self.top <= HIGH):
            # a NumPy number would widen float32
            self.size = float(1 / (self.share * (self.top + begins * found.bound)))
        return found.products + (not begins)  # and the fields

    def halve(self) -> None:
        """A step was too long: K moved on the way."""
        self.size /= 2
        self.halved += 1
        self.wait = 1.0

    @property
    def note(self) -> str:
        """Which step it is and why."""
        if not self.first > 0:
            return "step 1: K = 0, nothing will move"
        of = "1/λ_max, half the stability limit, with λ_max(K) ="
        if self.batch is not None:
            of = f"1/λ, half the stability limit of batches of {self.batch:,}, with λ ="
        text = f"step {self.size:.4g} (auto: {of} {self.first:.4g} at the start"
        text += f" and {self.top:.4g} when last measured)"
        times = f"; {self.halved:,.0f} times a step raised the loss, was taken back and halved"
        return text + times * (self.halved > 0)

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        numbers = [self.size, self.first, self.top, self.since, self.wait, self.halved, self.level]
        return {"auto": np.array(numbers), "auto_vector": self.vector}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`arrays` gave; files of before have nothing, and it begins anew."""
        if "auto" in arrays:
            numbers = map(float, arrays["auto"])
            self.size, self.first, self.top, self.since, self.wait, self.halved, self.level = (
                numbers
            )
            self.vector = arrays["auto_vector"]


def check_step(step: Any, name: str = "step") -> None:
    """Raise unless `step` is a positive finite number or "auto"."""
    if isinstance(step, str):
        if step != "auto":
            raise ValueError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not isinstance(step, int | float) or isinstance(step, bool):
        raise TypeError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not 0 < step < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {step}")
