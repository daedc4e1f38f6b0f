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


class PointIntegrator(ParameterIntegrator):
    """An integrator that evaluates its state once."""

    _point: Point | None = None

    @property
    def point(self) -> Point:
        """The state, evaluated."""
        if self._point is None:
            point = self.evaluated(self.state)
            self._point = point._replace(loss=float(point.loss))
        return self._point

    def evaluated(self, state: State) -> Point:
        """A state with its residual, loss and velocity: one product."""
        self.products += 1
        return Point.of(state, namespace(state.targets).empty_like(state.targets))

    def evaluate(self, residual: Array) -> float:
        residual[...] = self.point.residual
        return float(self.point.loss)

    def restore(self, arrays: dict[str, Array]) -> None:
        super().restore(arrays)
        self._point = None


class AdaptiveIntegrator(PointIntegrator):
    """Steps whose size follows an estimate of their error; time is in units of 1/share."""

    def __init__(self, state: State, share: float, tol: float, note: str) -> None:
        super().__init__(state, share)
        self.tol = tol
        self.note = note
        #: of the next step, in units of time
        self.size = math.nan
        #: the error of a step, in parts of ‖r‖: tol is in units of the loss
        self.allowed = tol**0.5
        #: errors of this norm or less are rounding of f
        self._rounding = math.nan

    @property
    def step(self) -> float:
        """The size of the next step, if nothing cuts it short."""
        return self.size / self.share

    def advance(self, remaining: float) -> float:
        left = remaining * self.share
        if math.isnan(self.size):
            self.size = self.first_size()
        least = 1e-14 * self.size
        while True:
            tried = self.size
            trial = self.attempt(min(tried, left))
            self.size = change_of_size(trial.error) * trial.size
            if trial.error <= 1:
                break
            if not self.size > least:
                raise ArithmeticError(
                    f"the step size fell to {self.step:.3g} without meeting tol={self.tol:g}"
                )
        if left < tried:  # a step cut short says nothing against the size it was cut from
            self.size = max(tried, self.size)
        self._point = trial.end
        self.state = trial.end.state
        self.accepted()
        return remaining if trial.size == left else trial.size / self.share

    def trial(self, end: Point, size: float, mismatch: Array) -> Trial:
        """A step of this size to `end`, whose error on the outputs is `mismatch`."""
        space = self.state.space
        if math.isnan(self._rounding):
            y = self.state.targets
            self._rounding = 1e3 * float(np.finfo(y.dtype).eps * space.norm(y))
        scale = math.sqrt(2 * abs(float(self.point.loss)))
        if not isinstance(self.state.objective, Quadratic):
            scale = float(space.norm(self.point.residual))
        scale = max(scale, self._rounding)
        both = namespace(mismatch).stack([end.loss, space.norm(mismatch)])
        loss, error = map(float, to_host(both))
        if error:
            error /= self.allowed * scale
        if not math.isfinite(error):
            error = math.inf
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
        self.accepted()


def change_of_size(error: float) -> float:
    """The ratio of the next step to one with this error, which is of second order in it."""
    return min(GROW, max(SHRINK, SAFETY * max(error, 1e-99) ** -0.5))
