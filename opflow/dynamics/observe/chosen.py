"""Observers of what a person chooses: any function of the fields, networks at any moments."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment
from opflow.machine.arrays import Array
from opflow.machine.files import prefixed, under
from opflow.relu.fields import Fields
from opflow.relu.network import ReLUNetwork


class Function:
    """The values of a function of the fields, such as those of :mod:`opflow.features`.

    Parameters
    ----------
    function : callable
        Of the :class:`opflow.Fields` of a moment (of a linearised flow, of its start): a number,
        or an array of one shape.
    name : str, optional
        That of the function by default.

    See Also
    --------
    opflow.Fields : The argument of the function.
    opflow.observe.Snapshots : Keeps networks instead, for later.

    Notes
    -----
    Costs the function, and the fields (2·N·P flops), which observers of a moment share; with an
    eliminated first layer each makes its own, with W¹.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> moved = lambda fields: of.features.feature_ansatz(fields, 2, start=net)
    >>> seen = [of.observe.Function(moved, "ansatz")]
    >>> of.train(net, np.eye(3), np.ones(3), steps=5, observe=seen).observations["ansatz"].shape
    (6,)
    """

    def __init__(self, function: Callable[[Fields], Any], name: str = "") -> None:
        self.name = name or function.__name__
        self.function = function

    def __call__(self, moment: Moment) -> Any:
        fields = moment.snapshot
        if fields.gram is not None:  # the first layer is eliminated: its weights are not there
            fields = moment.tangent.network.fields(moment.inputs)
        return self.function(fields)


class Snapshots:
    """The networks of chosen moments, on the host: a dict from steps to networks.

    Parameters
    ----------
    at : container of int, or callable, optional
        Steps, of those that the run records, or a function that says of a :class:`Moment` whether
        to keep its network; every moment by default.

    See Also
    --------
    opflow.observe.Function : Values of a function of the fields.
    opflow.Checkpoint : Saves the state of a run.

    Notes
    -----
    Each is P numbers, in memory, in every checkpoint and in the file of the trajectory; W¹ costs
    2·N·d·n_1 flops, if the first layer was eliminated.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.Snapshots([0, 4])])
    >>> run.observations["snapshots"]
    {0: <ReLUNetwork 3-8-1 float64, 24 parameters>, 4: <ReLUNetwork 3-8-1 float64, 24 parameters>}
    """

    name = "snapshots"

    def __init__(self, at: Container[int] | Callable[[Moment], bool] | None = None) -> None:
        if not (at is None or callable(at) or isinstance(at, Container)):
            raise TypeError(f"at must hold steps, or be a callable of a moment, not {at!r}")
        self.at = at
        self.networks: dict[int, ReLUNetwork] = {}

    def __call__(self, moment: Moment) -> None:
        if moment.step == 0:
            self.networks = {}
        if self.at is None or (self.at(moment) if callable(self.at) else moment.step in self.at):
            self.networks[moment.step] = moment.network.to("cpu")

    def state(self) -> dict[str, Array]:
        """The networks so far."""
        return arrays_of(self.networks)

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take up what :meth:`state` gave."""
        self.networks = networks_of(arrays)


def arrays_of(networks: Mapping[int, ReLUNetwork]) -> dict[str, Array]:
    """Networks as arrays, whose names begin with their steps."""
    arrays: dict[str, Array] = {}
    for step, network in networks.items():
        parts = network.arrays() | {"settings": np.array([json.dumps(network.settings())])}
        arrays |= prefixed(f"{step}_", parts)
    return arrays


def networks_of(arrays: Mapping[str, Array]) -> dict[int, ReLUNetwork]:
    """The networks that :func:`arrays_of` was given, in the order of their steps."""
    steps = sorted({int(name.partition("_")[0]) for name in arrays})
    held = {step: under(f"{step}_", arrays) for step in steps}
    return {s: ReLUNetwork.from_arrays(a, json.loads(a["settings"][0])) for s, a in held.items()}
