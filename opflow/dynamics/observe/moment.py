"""``Moment``: the state of a run at one recorded step, as observers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opflow.dynamics.methods.method import LinearModel, RunState
from opflow.dynamics.objectives import RunObjective
from opflow.machine.arrays import Array, Data, namespace
from opflow.machine.ranks import RowDistribution
from opflow.machine.threads import cached_property
from opflow.operators.operator import Operator
from opflow.relu.fields import Fields
from opflow.relu.kernels import collective_kernel, layer_kernels
from opflow.relu.network import ReLUNetwork


class Remembering:
    """An observer that remembers: a checkpoint holds its attributes `remembered`.

    Those that are None, before the first moment, are left out; numbers come back as they were.
    """

    remembered: tuple[str, ...] = ()

    def state(self) -> dict[str, Array]:
        """What is remembered, by name."""
        found = {name: vars(self)[name] for name in self.remembered}
        return {name: namespace(a).asarray(a) for name, a in found.items() if a is not None}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take up what :meth:`state` gave."""
        vars(self).update({name: a if a.ndim else float(a) for name, a in arrays.items()})


@dataclass(frozen=True)
class Moment:
    """The state of a run at one moment, which observers receive.

    Attributes
    ----------
    step : int
    time : float
    loss : float
    residual : array (N, k)
        f − y, or the force ∂loss/∂f of another objective; G f − d, (M, 1), if measured.  A buffer
        of the run: copy what is to be kept.  Of a run with a communicator, the rows of this rank,
        as are `targets` and `inputs`; `space` completes sums over them.
    state : State
        Parameters on the training set.
    inputs : array (N, d) or other inputs
        None where only their Gram is known.
    share : float
        What multiplies the gradient of the summed loss: 1, or 1/N for the mean loss.
    predictor : object with `predict` and `origin`, optional
        The model, where it is not the state's network: the linearisation at the state `origin`.
    shared : dict
        What an observer computed that others of the moment may use.
    observations : mapping of str to list
        What the observers gave before, by name; for the condition `stop` of a run, now too.

    See Also
    --------
    opflow.train : Makes moments.
    opflow.observe.Function : An observer of the fields.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> seen = {"last": lambda moment: moment.residual[-1, 0], "step": lambda moment: moment.step}
    >>> of.train(net, np.eye(3), np.ones(3), steps=3, observe=seen).observations["step"]
    array([0, 1, 2, 3])
    """

    step: int
    time: float
    loss: float
    residual: Array
    state: RunState
    inputs: Data
    share: float = 1.0
    predictor: LinearModel | None = None
    shared: dict[Any, Any] = field(default_factory=dict, repr=False)
    observations: Mapping[str, list[Any]] = field(default_factory=dict, repr=False)

    @property
    def network(self) -> ReLUNetwork:
        """The network; if its first layer was eliminated, W¹ is computed on first use.

        Of a linearised flow it holds the parameters of the linear model, and is not the model.
        """
        return self.state.network

    def __repr__(self) -> str:
        return f"<Moment of step {self.step}, time {self.time:.4g}, loss {self.loss:.4g}>"

    @property
    def linearised(self) -> bool:
        """Whether the model is the network's linearisation at the start of the run."""
        return self.predictor is not None

    @property
    def tangent(self) -> RunState:
        """The state whose gates and kernel are those of the model: the start, if linearised."""
        return self.state if self.predictor is None else self.predictor.origin

    @property
    def targets(self) -> Array:
        """y, (N, k), or what was measured, (M, 1)."""
        return self.state.targets

    @property
    def force(self) -> Array:
        """The force on the outputs, (N, k): the residual, or Gᵀ times it."""
        return self.state.measurement.pulled(self.residual)

    @property
    def objective(self) -> RunObjective:
        """The loss of every sample, its force and its curvature."""
        return self.state.objective

    @property
    def space(self) -> RowDistribution:
        """How the samples are held: all here, or those of `residual` by this rank."""
        return self.state.space

    @property
    def samples(self) -> int:
        """N, of all ranks."""
        return self.state.samples

    @property
    def fields(self) -> Fields | None:
        """A copy of the state, for a method whose state is fields."""
        return self.state.fields

    @property
    def exact(self) -> ReLUNetwork | None:
        """The exact run next to an approximate one."""
        return self.state.exact

    @cached_property
    def snapshot(self) -> Fields:
        """The fields at :attr:`tangent`, computed once; W¹ is not in them, if it was eliminated."""
        return self.tangent.snapshot()

    @cached_property
    def kernel(self) -> Operator:
        """K of the model, G K Gᵀ if measured; of a linearised flow always that of its start."""
        return self.state.measurement.kernel(collective_kernel(self.snapshot))

    @cached_property
    def layer_kernels(self) -> list[Operator]:
        """The shares of the layers in K."""
        return [self.state.measurement.kernel(K) for K in layer_kernels(self.snapshot)]

    def predict(self, X: Data) -> Array:
        """Outputs at new inputs, (M, k)."""
        return (self.predictor or self.state).predict(X)
