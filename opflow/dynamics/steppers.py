"""Methods: how the state moves from one moment to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from opflow.arrays import check_integer
from opflow.dynamics.flow import WeightState
from opflow.dynamics.truncated import FieldState
from opflow.relu.network import ReLUNetwork


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent, the Euler step of the gradient flow.

    Parameters
    ----------
    step : float or "auto"
        The step size; "auto" takes 1/λ_max(K) at the start, half the limit of stability
        2/λ_max(K), from a few Lanczos products.

    Raises
    ------
    ValueError, TypeError
        If `step` is neither "auto" nor a positive finite number.

    Examples
    --------
    >>> import opflow as of
    >>> of.GradientDescent(step=0.1)
    GradientDescent(step=0.1)
    """

    step: float | str = "auto"

    name = "gradient descent"

    def __post_init__(self) -> None:
        _check_step(self.step)

    def start(self, network: ReLUNetwork, X: Any, y: Any) -> WeightState:
        """The state this method moves."""
        return WeightState(network, X, y)


@dataclass(frozen=True)
class TruncatedFlow:
    r"""Hidden and conjugate fields as the state, their velocities truncated at an order.

    Parameters
    ----------
    order : int
        p: keep the members of the hierarchy with at most p Gram factors.  From L on (L layers)
        it is gradient descent, to rounding.
    step : float or "auto"
        As in :class:`GradientDescent`.

    Raises
    ------
    ValueError, TypeError
        If `order` is not an integer >= 0, or `step` is not as above.

    Notes
    -----
    Residual, losses and the network of the trajectory are those of the truncated fields, whose
    weights are driven by φ and a alone.  The exact descent runs next to it with the same steps:
    observers see it as ``moment.exact`` and the state as ``moment.fields``, and
    :class:`opflow.observe.TruncationError` compares them.

    A change is carried through at most p weight matrices a step, in finite increments, so that
    gate flips and the jumps of ψ they cause are part of it; per unit of time and for a small
    step the increments are the operators of :func:`opflow.hierarchy.field_velocities` at that
    order.  A step costs about twice a step of the exact descent at low order and up to
    2·N·(1 + k)·P·p flops more, and the state N·(1 + k)·Σn_ℓ numbers.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net, X = of.ReLUNetwork.random([3, 8, 8, 8], seed=0), np.eye(3)
    >>> run = of.train(
    ...     net, X, np.ones(3), method=of.TruncatedFlow(order=3), steps=10,
    ...     observe=[of.observe.TruncationError()],
    ... )
    >>> bool(run.observations["truncation_error"].max() < 1e-12)
    True
    """

    order: int
    step: float | str = "auto"

    name = "the truncated flow"

    def __post_init__(self) -> None:
        check_integer(self.order, "order", 0)
        _check_step(self.step)

    def start(self, network: ReLUNetwork, X: Any, y: Any) -> FieldState:
        """The state this method moves."""
        return FieldState(network, X, y, self.order)


def _check_step(step: Any) -> None:
    if isinstance(step, str):
        if step != "auto":
            raise ValueError(f"step must be a positive number or 'auto', not {step!r}")
    elif not isinstance(step, int | float) or isinstance(step, bool):
        raise TypeError(f"step must be a positive number or 'auto', not {step!r}")
    elif not 0 < step < math.inf:
        raise ValueError(f"step must be positive and finite, not {step}")
