"""Hidden and conjugate fields as the state, with the hierarchy truncated at an order.

What a layer hands on to the next travels through one weight matrix, so a change is carried
through `order` weight matrices at most.  Steps use finite increments, not velocities: at full
order they are gradient descent to rounding, gate flips included, and for a small step they are
the Euler step of the truncated flow.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np

from opflow.dynamics.methods.field_state import FieldState
from opflow.dynamics.methods.method import Integrator, Method, RunState
from opflow.dynamics.methods.step_size import AutoStep, check_step
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, check_integer, is_array, is_sparse


@dataclass(frozen=True)
class TruncatedFlow(Method):
    r"""Gradient descent of the hidden and conjugate fields, with velocities truncated at an order.

    Parameters
    ----------
    order : int
        p: keep the members of the hierarchy with at most p Gram factors.  From L on (L layers)
        it is gradient descent, to rounding.
    step : float or "auto"
        As in :class:`GradientDescent`; "auto" follows λ_max, and takes no step back.

    See Also
    --------
    opflow.observe.TruncationError : The distance from the exact run.
    opflow.hierarchy.field_velocities : The truncated velocities.
    opflow.GradientDescent : The exact descent.

    Notes
    -----
    The hierarchy is that of [1]_.  Residual and losses are those of the truncated fields.  The
    network of the trajectory, its predictions, and the gates and kernels that observers see are
    those of the weights that φ and a drive, whose own fields differ from the state.  The exact
    descent runs next to it with the same steps: observers see it as ``moment.exact`` and the state
    as ``moment.fields``, and :class:`opflow.observe.TruncationError` compares them.

    A change is carried through at most p weight matrices a step, in finite increments, so that
    gate flips and the jumps of ψ they cause are part of it; per unit of time and for a small
    step the increments are the operators of :func:`opflow.hierarchy.field_velocities` at that
    order.  A step costs about twice a step of the exact descent at low order and up to
    2·N·(1 + k)·P·p flops more, and the state N·(1 + k)·Σn_ℓ numbers.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net, X = of.ReLUNetwork.random([3, 8, 8, 8], seed=0), np.eye(3)
    >>> run = of.train(
    ...     net, X, np.ones(3), method=of.TruncatedFlow(order=3, step=0.3), steps=10,
    ...     observe=[of.observe.TruncationError()],
    ... )
    >>> bool(run.observations["truncation_error"].max() < 1e-12)
    True
    """

    order: int
    step: float | str = "auto"

    name = "the truncated flow"
    by_weights = True
    stepwise = True
    sharded = measures = False
    extra = 4.0
    kept = 3.0  # with a moment's copy, while it is set up

    def __post_init__(self) -> None:
        check_integer(self.order, "order", 0)
        check_step(self.step)

    def start(self, state: State, share: float) -> TruncatedIntegrator:
        return TruncatedIntegrator(self, state, share)


class TruncatedIntegrator(Integrator):
    """The fields of the truncated flow, and the exact run next to them, step by step."""

    state: FieldState
    step: float = math.nan

    def __init__(self, method: TruncatedFlow, state: State, share: float) -> None:
        if not is_array(state.first.inputs) and not is_sparse(state.first.inputs):
            raise ValueError("the truncated flow needs X as an array or a sparse matrix")
        self.products = 0
        self.share = share
        self._auto: AutoStep | None = None
        if method.step == "auto":
            self._auto = AutoStep(share * state.objective.curvature)
            self._follow(self._auto, state)
        else:
            self.step = float(method.step)
            self.note = f"step {self.step:.4g}, as given"
        self.state = FieldState(state, method.order)

    def evaluate(self, residual: Array) -> float:
        self.products += 1
        return self.state.evaluate(residual)

    def advance(self, remaining: float) -> float:
        if self._auto is not None:
            self._follow(self._auto, self.state)
        # A state of its own, so that what was reached keeps its network; the fields are shared.
        self.state = copy.copy(self.state)
        self.state.advance(self.step * self.share)
        return self.step

    def _follow(self, auto: AutoStep, state: RunState) -> None:
        self.products += auto.follow(state)
        self.step = auto.size
        self.note = auto.note

    def arrays(self) -> dict[str, Array]:
        arrays = self.state.arrays() | {"step": np.array(self.step)}
        if self._auto is not None:
            arrays |= self._auto.arrays()
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        self.step = float(arrays["step"])
        self.state.restore(arrays)
        if self._auto is not None:
            self._auto.restore(arrays)
