"""What the gradient flows share: their options, and steps whose size follows an error estimate."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from opflow.dynamics.methods.method import Method, ParameterIntegrator
from opflow.dynamics.objectives import Quadratic
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, check_integer, namespace, to_host
from opflow.spectral.checks import check_shift, check_tol

#: of the size that the error estimate predicts for the next step, the part that is taken
SAFETY = 0.9
#: a step is at least and at most this many times the one before
SHRINK, GROW = 0.2, 4.0


@dataclass(frozen=True)
class Flow(Method):
    """A gradient flow, to a tolerance `tol`."""

    tol: float

    def __post_init__(self) -> None:
        check_tol(self.tol)
        check_shift(self.weight_decay, "weight_decay")


@dataclass(frozen=True)
class KrylovFlow(Flow):
    """A flow by Krylov spaces of at most `size` vectors."""

    size: int = 128

    quadratic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self.size, "size", 2)


class Point(NamedTuple):
    """A state with its residual, the loss, and the velocity."""

    state: State
    residual: Array
    loss: float | Array
    velocity: list[Array]

    @classmethod
    def of(cls, state: State, residual: Array) -> Point:
        """Evaluate a state, into `residual`; the loss is left on the device."""
        return cls(state, residual, *state.loss_and_velocity(residual))


class Trial(NamedTuple):
    """A step that may be taken: where it led, and its error in units of what is allowed."""

    end: Point
    size: float
    error: float


class AdaptiveIntegrator(ParameterIntegrator):
    """Steps whose size follows an estimate of their error; time is in units of 1/share."""

    def __init__(self, state: State, share: float, tol: float, note: str) -> None:
        super().__init__(state, share)
        self.tol = tol
        self.note = note
        #: of the next step, in units of time
        self.size = math.nan
        #: the error of a step, in parts of ‖r‖: tol is in units of the loss
        self.allowed = tol**0.5
        self._point: Point | None = None
        #: errors of this norm or less are rounding of f
        self._rounding = math.nan

    @property
    def point(self) -> Point:
        """The state, evaluated."""
        assert self._point is not None  # a moment is evaluated before a step
        return self._point

    @property
    def step(self) -> float:
        """The size of the next step, if nothing cuts it short."""
        return self.size / self.share

    def evaluate(self, residual: Array) -> float:
        if self._point is None:
            point = Point.of(self.state, namespace(residual).empty_like(residual))
            self._point = point._replace(loss=float(point.loss))
            self.products += 1
        residual[...] = self._point.residual
        return float(self._point.loss)

    def advance(self, remaining: float) -> float:
        left = remaining * self.share
        if math.isnan(self.size):
            self.size = self.first_size()
        least = 1e-14 * self.size
        clipped = left < self.size
        trial = self.attempt(min(self.size, left))
        while not trial.error <= 1:
            self.size = change_of_size(trial.error) * trial.size
            if not self.size > least:
                raise ArithmeticError(
                    f"the step size fell to {self.step:.3g} without meeting tol={self.tol:g}"
                )
            clipped = left < self.size
            trial = self.attempt(min(self.size, left))
        size = change_of_size(trial.error) * trial.size
        # A step cut short by `remaining` says nothing against the size it was cut from.
        self.size = max(self.size, size) if clipped else size
        self._point = trial.end
        self.state = trial.end.state
        self.accepted()
        return remaining if trial.size == left else trial.size / self.share

    def trial(self, end: Point, size: float, mismatch: Array) -> Trial:
        """A step of this size to `end`, whose error on the outputs is `mismatch`."""
        xp, space = namespace(mismatch), self.state.space
        if math.isnan(self._rounding):
            y = self.state.targets
            self._rounding = 1e3 * float(np.finfo(y.dtype).eps * space.norm(y))
        scale = math.sqrt(2 * abs(float(self.point.loss)))
        if not isinstance(self.state.objective, Quadratic):
            scale = float(space.norm(self.point.residual))
        scale = max(scale, self._rounding)
        # both come to the host together
        loss, error = map(float, to_host(xp.stack([end.loss, space.norm(mismatch)])))
        if error:
            error /= self.allowed * scale
        error = error if math.isfinite(error) else math.inf
        return Trial(end._replace(loss=loss), size, error)

    @abstractmethod
    def first_size(self) -> float:
        """The size of the first step."""

    @abstractmethod
    def attempt(self, size: float) -> Trial:
        """A step of at most `size`."""

    @abstractmethod
    def accepted(self) -> None:
        """The state has moved."""

    def arrays(self) -> dict[str, Array]:
        return super().arrays() | {"size": np.array(self.size)}

    def restore(self, arrays: dict[str, Array]) -> None:
        super().restore(arrays)
        self.size = float(arrays["size"])
        self._point = None
        self.accepted()


def change_of_size(error: float) -> float:
    """The ratio of the next step to one with this error, which is of second order in it."""
    if not error < math.inf:
        return SHRINK
    if not error:
        return GROW
    return min(GROW, max(SHRINK, SAFETY * error**-0.5))
