"""An observer that keeps the networks themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from opflow.dynamics.observe.moment import Moment
from opflow.machine.arrays import Array, check_integer
from opflow.relu.network import ReLUNetwork


class Snapshots:
    """The networks of chosen moments, on the host, by the steps before them.

    Parameters
    ----------
    at : sequence of int, or callable, optional
        Steps, of those that the run records, or whether to keep the network of a
        :class:`Moment`; every moment by default.
    name : str, default "snapshots"

    Notes
    -----
    The observation is a dict from steps to :class:`opflow.ReLUNetwork`.  Each is P numbers, in
    memory, in every checkpoint and in the file of the trajectory; W¹ costs 2·N·d·n_1 flops, if
    the first layer was eliminated.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> keep = of.observe.Snapshots(at=[0, 4])
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[keep])
    >>> run.observations["snapshots"]
    {0: <ReLUNetwork 3-8-1 float64, 24 parameters>, 4: <ReLUNetwork 3-8-1 float64, 24 parameters>}
    """

    def __init__(
        self,
        at: Sequence[int] | Callable[[Moment], bool] | None = None,
        *,
        name: str = "snapshots",
    ) -> None:
        if at is not None and not callable(at):
            at = [check_integer(step, "at", 0) for step in at]
        self.at = at
        self.name = name
        self.networks: dict[int, ReLUNetwork] = {}

    def __call__(self, moment: Moment) -> None:
        if moment.step == 0:
            self.networks = {}
        at = self.at
        if at is None or (at(moment) if callable(at) else moment.step in at):
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
        arrays |= {f"{step}_{name}": part for name, part in parts.items()}
    return arrays


def networks_of(arrays: Mapping[str, Array]) -> dict[int, ReLUNetwork]:
    """The networks that :func:`arrays_of` was given, in the order of their steps."""
    found: dict[int, dict[str, Array]] = {}
    for key, array in arrays.items():
        step, _, name = key.partition("_")
        found.setdefault(int(step), {})[name] = array
    return {
        step: ReLUNetwork.from_arrays(parts, json.loads(parts["settings"][0]))
        for step, parts in sorted(found.items())
    }
