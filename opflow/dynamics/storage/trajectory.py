"""``Trajectory``: the result of a run, and its file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from opflow.data.task import Task
from opflow.dynamics.observe.chosen import arrays_of, networks_of
from opflow.interface.pictured import Pictured
from opflow.interface.words import counted
from opflow.machine.arrays import Array, Data
from opflow.machine.files import FilePath, load_arrays, prefixed, save_arrays, under
from opflow.machine.ranks import RowDistribution
from opflow.relu.network import ReLUNetwork

#: attributes that are no arrays, in the metadata of a file
KEPT = ("products", "step", "note", "interrupted", "stopped", "route", "model")
#: arrays that a file has, and those that it may have
ARRAYS = ("times", "losses", "residual")
OPTIONAL = ("steps", "coefficients", "events")


@dataclass(frozen=True, eq=False)
class Trajectory(Pictured):
    """The result of :func:`opflow.train`.

    Attributes
    ----------
    network : ReLUNetwork
        At the end of the run; for a method whose state is fields, the weights that these drive; for
        a linearised flow, the parameters of the linear model, which is not this network.
    residual : array (N, k)
        f − y of the model, or of the fields where they are the state; the force ∂loss/∂f of an
        objective that is not quadratic; G f − d, (M, 1), of measured outputs.  Of a run with a
        communicator the rows of this rank.
    times, losses : arrays (moments,)
        Time and loss of each moment: the start, those recorded on the way, and the end.
    products : int
        Kernel products spent: one a step (a gradient and the recomputed residual), and those
        that found the step size, followed it, or were taken back.
    observations : dict of str to array
        Values of the observers, first axis in the order of `times`, without those that return None;
        of :class:`opflow.observe.Snapshots` a dict from steps to networks.
    step : float
        The step size at the end.
    note : str
        Which step that is and why.
    interrupted : bool
        Whether Ctrl-C or a signal ended the run early.
    stopped : str
        The name of the condition `stop` that held at the end; empty if none did.
    route : str
        "weights", or "eliminated": whether the first layer moved as weights or through the Gram
        of its inputs.
    coefficients : array (N, n_1) or None
        C of a first layer that moved in the space of a kernel, h¹ = h¹(0) + G C on the samples;
        the first weights of `network` are then those of the start.  None where weights say all.
    model : bool
        Whether `network` is the model: not so with such a kernel, nor for a linearised flow.
    steps : int array (moments,) or None
        Steps taken before each moment; −1, or None, where a file of an older version does not say.
    events : structured array or None
        Of :class:`opflow.ExactFlow`, the changes of gates: `time`; `layer`, `unit` and `sample`,
        from 0 on; `kind`, one of "on", "off", "slide in" and "slide out".
    task : Task or None
        How the inputs and targets were made of a person's data, for :meth:`predict`.

    See Also
    --------
    opflow.train : Returns it.
    opflow.plot : Draws runs.
    opflow.Checkpoint : Saves the state on the way.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(of.ReLUNetwork.random([3, 8], seed=0), np.eye(3), np.ones(3), steps=5)
    >>> run.times.shape, run.steps.tolist(), run.predict(np.eye(3)).shape
    ((6,), [0, 1, 2, 3, 4, 5], (3, 1))
    """

    network: ReLUNetwork
    residual: Array
    times: Array
    losses: Array
    products: int
    observations: dict[str, Any] = field(default_factory=dict)
    step: float = float("nan")
    note: str = ""
    interrupted: bool = False
    stopped: str = ""
    route: str = "weights"
    coefficients: Array | None = None
    model: bool = True
    steps: Any = None
    events: Any = None
    task: Task | None = None
    _predictor: Any = field(default=None, repr=False)
    _picture = "loss"

    @classmethod
    def of_state(cls, state: Any, **recorded: Any) -> Trajectory:
        """The trajectory to a state, of what was recorded on the way."""
        route = state.first.route
        if state.first.has_weights:
            model = recorded.get("_predictor", state) is state
            return cls(state.network, **recorded, route=route, model=model)
        coefficients = state.parameters[0]
        return cls(state.upper, **recorded, route=route, coefficients=coefficients, model=False)

    def predict(self, X: Data, raw: bool = False) -> Array:
        """Outputs at new inputs, (M, k), computed in row blocks; of a `task`, its answers.

        Parameters
        ----------
        X : array (M, d), rows on disk, sparse matrix or operator
            In the user's form if there is a `task`, which then prepares it.  Every rank of a run
            with a communicator knows the model and predicts all rows that it is given.
        raw : bool
            Return the outputs of the network, (M, k), and not the labels or the values in their
            own units that the task makes of them.

        Raises
        ------
        ValueError
            If the first layer was trained through a kernel that is not known as a function (the
            run was loaded from a file, or the kernel was given as a matrix).
        """
        if self.task is not None:
            X = self.task.prepare(X)
        if self._predictor is not None:
            outputs = self._predictor.predict(X)
        elif self.model:
            outputs = self.network(X)
        else:
            raise ValueError(
                "the model of this run is not its network, but a linearisation or a function of a "
                "kernel, which no file keeps: predict before saving"
            )
        if raw or self.task is None:
            return outputs
        return self.task.answers(outputs)

    def __repr__(self) -> str:
        length = counted(len(self.times), "moment")
        if self.steps is not None:
            length = counted(int(self.steps[-1]), "step")
        return (
            f"<Trajectory of {length} to t = {self.times[-1]:.4g}, "
            f"loss {self.losses[0]:.4g} -> {self.losses[-1]:.4g}"
            f"{self.stopped and f', ended by stop={self.stopped}'}>"
        )

    def gathered(self, space: RowDistribution) -> Trajectory | None:
        """The run with the residual of all ranks, on the first rank; None on the others.

        Parameters
        ----------
        space : RowDistribution
            Of the run; all its ranks call.
        """
        residual = space.gather(self.residual)
        return None if residual is None else replace(self, residual=residual)

    def save(self, path: FilePath) -> None:
        """Write one ``.npz`` file atomically: complete, or not there.

        Of a run with a communicator, the first rank saves the result of :meth:`gathered`.  If the
        file cannot be written, one of that name stays as it was.
        """
        own = vars(self)
        arrays = {name: own[name] for name in ARRAYS} | self.network.arrays()
        if self.task is not None:
            arrays |= self.task.arrays()
        arrays |= {name: own[name] for name in OPTIONAL if own[name] is not None}
        seen = self.observations
        kept = [name for name, value in seen.items() if isinstance(value, dict)]
        arrays |= {f"observation_{name}": seen[name] for name in seen if name not in kept}
        for i, name in enumerate(kept):  # by number, for a name may begin with another
            arrays |= prefixed(f"snapshots_{i}_", arrays_of(seen[name]))
        meta = {name: own[name] for name in KEPT} | {"snapshots": kept}
        save_arrays(path, arrays, meta | self.network.settings())

    @classmethod
    def load(cls, path: FilePath) -> Trajectory:
        """Read what :meth:`save` wrote; errors are those of :meth:`opflow.ReLUNetwork.load`."""
        arrays, meta = load_arrays(path, "trajectory", "residual")
        seen = under("observation_", arrays)
        for i, name in enumerate(meta.get("snapshots", ())):
            seen[name] = networks_of(under(f"snapshots_{i}_", arrays))
        found: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
        found |= {name: arrays.get(name) for name in OPTIONAL}
        found |= {name: meta[name] for name in KEPT if name in meta}  # older files have not all
        network = ReLUNetwork.from_arrays(arrays, meta)
        return cls(network, observations=seen, task=Task.from_arrays(arrays), **found)
