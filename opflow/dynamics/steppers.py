"""Methods: how the state moves from one moment to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass


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

    def __post_init__(self) -> None:
        if isinstance(self.step, str):
            if self.step != "auto":
                raise ValueError(f"step must be a positive number or 'auto', not {self.step!r}")
        elif not isinstance(self.step, int | float) or isinstance(self.step, bool):
            raise TypeError(f"step must be a positive number or 'auto', not {self.step!r}")
        elif not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, not {self.step}")
