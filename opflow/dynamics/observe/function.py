"""An observer of any function of the fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opflow.dynamics.observe.moment import Moment


class Function:
    """What a function gives of the fields, such as those of :mod:`opflow.features`.

    Parameters
    ----------
    function : callable
        Called with the :class:`opflow.Fields` of a moment; of a linearised flow, those of its
        start.  It gives a number or an array of one shape.
    *arguments, **options
        Its other arguments.
    name : str, optional
        That of the function by default.

    Notes
    -----
    Costs the function, and the fields (2·N·P flops and up to N·(1 + k)·Σn_ℓ numbers), once for all
    observers of a moment.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> watch = [
    ...     of.observe.Function(of.features.feature_ansatz, 2, start=net),
    ...     of.observe.Function(lambda f: of.features.agop(f, 1).trace(), name="sensitivity"),
    ... ]
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=watch)
    >>> {name: values.shape for name, values in run.observations.items()}
    {'feature_ansatz': (6,), 'sensitivity': (6,)}
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, name: str = "", **options: Any
    ) -> None:
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.function = function
        self.arguments = arguments
        self.options = options

    def __call__(self, moment: Moment) -> Any:
        return self.function(moment.snapshot, *self.arguments, **self.options)
