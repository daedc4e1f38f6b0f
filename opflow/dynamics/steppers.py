"""What a method is to the loop, and the step size that methods of fixed step share.

A *method* (:class:`opflow.GradientDescent`, :class:`opflow.ExponentialFlow`, …) is a description;
:meth:`Method.start` makes the *integrator* that moves the state of one run.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from opflow.dynamics.flow import State
from opflow.spectral.tridiagonal import Largest, largest_eigenvalue

#: Lanczos products that may be spent on λ_max(K)
LANCZOS = 30


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


def sharpness(state: State, share: float = 1.0) -> Largest:
    """λ_max of share · K at a state."""
    top = largest_eigenvalue(state.kernel(), steps=LANCZOS)
    return Largest(share * top.value, share * top.bound, top.products)


def auto_step(state: State, share: float) -> tuple[float, str, int]:
    """The step size "auto", why, and the products it took."""
    top = sharpness(state, share)
    if not top.value > 0:
        # No gate is open anywhere: the kernel is zero and no step moves anything.
        return 1.0, "step 1: K = 0, nothing will move", top.products
    step = float(1.0 / (top.value + top.bound))  # a NumPy number would widen float32
    note = (
        f"step {step:.4g} (auto: 1/λ_max, half the stability limit, with λ_max(K) = "
        f"{top.value:.4g} at the start from {top.products} Lanczos products)"
    )
    return step, note, top.products


def check_step(step: Any, name: str = "step") -> None:
    """Raise unless `step` is a positive finite number or "auto"."""
    if isinstance(step, str):
        if step != "auto":
            raise ValueError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not isinstance(step, int | float) or isinstance(step, bool):
        raise TypeError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not 0 < step < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {step}")
