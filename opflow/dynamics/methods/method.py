"""Base classes of training methods and of their integrators: what a new method is built on.

A *method* (:class:`opflow.GradientDescent`, :class:`opflow.ExponentialFlow`, …) is a description;
:meth:`Method.start` makes the *integrator* that moves the *state* of one run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol, TypeAlias

from opflow.dynamics.methods.field_state import FieldState
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, Data

#: what a run is at
RunState: TypeAlias = State | FieldState


class LinearModel(Protocol):
    """The linearisation of a network at the state `origin`."""

    origin: State

    def predict(self, X: Data) -> Array:
        """Outputs at new inputs, (M, k)."""


class Method(ABC):
    """How a run moves; the options of all methods have a default here."""

    #: for messages
    name: str
    #: whether the step sizes are given, so that no time can be asked for
    stepwise = False
    #: whether a run can end at a time
    timed = True
    #: whether it follows the residual of the quadratic objective alone
    quadratic = False
    #: whether the samples may be spread over ranks
    sharded = True
    #: whether the outputs of all samples may be measured together
    measures = True
    #: copies of the fields of all samples held besides the state
    kept = 0.0
    #: λ of the decay of all parameters
    weight_decay = 0.0
    #: vectors of a Krylov basis at most
    size = 0
    #: samples of a step, if not all
    batch: int | None = None
    #: β of the heavy ball
    momentum = 0.0
    #: the dtype of parameters and sums, if it is not that of the network
    accumulate: str | None = None

    @property
    def by_weights(self) -> bool:
        """Whether the first layer must be stepped as weights: X Xᵀ does not make W¹(0) decay."""
        return self.weight_decay > 0

    @property
    def frozen(self) -> bool:
        """Whether kernels at frozen gates are needed, for λ_max or a Krylov space."""
        return True

    @property
    def extra(self) -> float:
        """Sets of parameters held besides those of the state."""
        return 0.0

    @abstractmethod
    def start(self, state: State, share: float) -> Integrator:
        """The integrator of a run; `share` multiplies the gradient of the summed loss."""


class Integrator(ABC):
    """What moves the state of a run."""

    state: RunState
    #: passes over all samples so far, in products with K
    products: int
    #: how the step sizes were chosen, for people
    note: str
    #: which of :meth:`arrays` have a row for every sample or output
    by_sample: tuple[str, ...] = ()
    #: whether :meth:`evaluate` is a pass that the next step does not need
    stochastic = False

    @property
    def step(self) -> float:
        """The size of the next step; NaN where the time asked for decides."""
        return math.nan

    @property
    def events(self) -> Array | None:
        """The changes of gates so far, where they are located."""
        return None

    @property
    def predictor(self) -> LinearModel | None:
        """The model, where it is not the network of the state."""
        return None

    @abstractmethod
    def evaluate(self, residual: Array) -> float:
        """Fill `residual` with the force at the state; the summed loss."""

    @abstractmethod
    def advance(self, remaining: float) -> float:
        """Move by one step, of at most `remaining` where the step can be chosen; the time moved."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """All that a resumed run needs to go on as if it had not stopped."""

    @abstractmethod
    def restore(self, arrays: dict[str, Array]) -> None:
        """Take up what :meth:`arrays` gave."""


class ParameterIntegrator(Integrator):
    """An integrator whose state is parameters: what is left to say is how they :meth:`advance`."""

    state: State
    note = ""
    #: −η_ℓ ∂(summed loss)/∂θ_ℓ at the state, once it is evaluated
    velocity: list[Array]

    def __init__(self, state: State, share: float) -> None:
        self.state = state
        self.share = share
        self.products = 0

    def evaluate(self, residual: Array) -> float:
        self.products += 1
        loss, self.velocity = self.state.loss_and_velocity(residual)
        return float(loss)

    def arrays(self) -> dict[str, Array]:
        return self.state.arrays()

    def restore(self, arrays: dict[str, Array]) -> None:
        self.state = self.state.restored(arrays)
