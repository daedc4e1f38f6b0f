"""What a run leaves behind, and its file."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from opflow.arrays import Array, to_host
from opflow.dynamics.checkpoint import FORMAT, checksum, write_npz
from opflow.operators.space import Space
from opflow.relu.network import ReLUNetwork

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The result of :func:`opflow.train`.

    Attributes
    ----------
    network : ReLUNetwork
        As the run left it; for a method whose state is fields, the weights these drive; for a
        linearised flow, the parameters of the linear model, which is not this network.
    residual : array (N, k)
        f − y of the model, or of the fields where they are the state; of a run with a
        communicator the rows of this rank.
    times, losses : arrays (moments,)
        Time and loss of each moment: the start, those recorded on the way, and the end.
    products : int
        Kernel products spent: one a step (a gradient and the recomputed residual), and those
        that found the step size.
    observations : dict of str to array
        What the observers returned, first axis in the order of `times`; nothing of those that
        return None.
    step : float
        The step size used.
    note : str
        Which step that is and why.
    interrupted : bool
        Whether Ctrl-C or a signal ended the run early.
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
    """

    network: ReLUNetwork
    residual: Array
    times: Array
    losses: Array
    products: int
    observations: dict[str, Array] = field(default_factory=dict)
    step: float = float("nan")
    note: str = ""
    interrupted: bool = False
    route: str = "weights"
    coefficients: Any = None
    model: bool = True
    steps: Any = None
    _predictor: Any = field(default=None, repr=False)

    @classmethod
    def of_state(cls, state: Any, **recorded: Any) -> Trajectory:
        """What was recorded on the way to a state, and what the state gives."""
        weights = state.first.has_weights
        return cls(
            state.network if weights else state.upper,
            **recorded,
            route=state.first.route,
            coefficients=None if weights else state.parameters[0],
            model=weights and recorded.get("_predictor", state) is state,
        )

    def predict(self, X: Any) -> Array:
        """Outputs at new inputs, (M, k), computed in row blocks.

        Parameters
        ----------
        X : array (M, d), rows on disk, sparse matrix or operator
            Whole: every rank of a run with a communicator knows the model and predicts alone.

        Raises
        ------
        ValueError
            If the first layer moved in the space of a kernel that is not known as a function
            (the run was loaded from a file, or the kernel was given as a matrix).
        """
        if self._predictor is not None:
            return self._predictor.predict(X)
        if not self.model:
            raise ValueError(
                "the model of this run is not its network, but a linearisation or a function of a "
                "kernel, which no file keeps: predict before saving"
            )
        return self.network(X)

    def __repr__(self) -> str:
        known = self.steps is not None
        count = int(self.steps[-1]) if known else len(self.times)
        unit = ("step" if known else "moment") + "s" * (count != 1)
        return (
            f"<Trajectory of {count:,} {unit} to t = {self.times[-1]:.4g}, "
            f"loss {self.losses[0]:.4g} -> {self.losses[-1]:.4g}>"
        )

    def gathered(self, space: Space) -> Trajectory | None:
        """The run with the residual of all ranks, on the one that leads; None on the others.

        Parameters
        ----------
        space : Space
            Of the run; all its ranks call.  With none there is nothing to gather.
        """
        residual = space.gather(self.residual)
        return replace(self, residual=residual) if space.leads else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file atomically: complete, or not there.

        Of a run with a communicator, the one that leads saves what :meth:`gathered` gives.

        Raises
        ------
        OSError
            If it cannot be written; a file of that name is then as it was.
        """
        net = self.network
        arrays = {"times": self.times, "losses": self.losses, "residual": self.residual,
                  "readout": net.readout}  # fmt: skip
        arrays |= {f"weight_{i}": W for i, W in enumerate(net.weights)}
        arrays |= {f"bias_{i}": b for i, b in enumerate(net.biases) if b is not None}
        if self.steps is not None:
            arrays["steps"] = self.steps
        if self.coefficients is not None:
            arrays["coefficients"] = self.coefficients
        arrays |= {f"observation_{name}": value for name, value in self.observations.items()}
        arrays = {name: np.ascontiguousarray(to_host(value)) for name, value in arrays.items()}
        for name, array in arrays.items():
            if array.dtype == object:
                what = name.removeprefix("observation_")
                raise TypeError(
                    f"the observations {what!r} cannot be saved: they are neither numbers nor text"
                )
        meta = {
            "schema": SCHEMA,
            "rates": net.rates,
            "products": self.products,
            "step": self.step,
            "note": self.note,
            "interrupted": self.interrupted,
            "route": self.route,
            "model": self.model,
            "checksum": checksum(arrays),
        }
        write_npz(path, arrays | {"metadata": np.array(json.dumps(meta))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trajectory:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a trajectory, is corrupt, or has another schema.
        """
        try:
            with open(os.path.expanduser(path), "rb") as raw, np.load(raw, allow_pickle=False) as f:
                arrays = {name: f[name] for name in f.files}
            meta = dict(json.loads(str(arrays.pop("metadata"))))
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a trajectory, or is corrupt: {error}") from error
        if meta.get("format") == FORMAT:
            raise ValueError(
                f"{path} is a checkpoint, not a trajectory: train(resume=...) goes on from it; in "
                "a run folder the trajectory is trajectory.npz"
            )
        if "checksum" not in meta:
            raise ValueError(f"{path} is not a trajectory")
        if meta.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {meta.get('schema')}; this version reads {SCHEMA}")
        if meta["checksum"] != checksum(arrays):
            raise ValueError(f"{path} is corrupt: its checksum does not match")
        depth = sum(name.startswith("weight_") for name in arrays)
        network = ReLUNetwork(
            [arrays[f"weight_{i}"] for i in range(depth)],
            arrays["readout"],
            biases=[arrays.get(f"bias_{i}") for i in range(depth)],
            rates=meta["rates"],
        )
        prefix = "observation_"
        return cls(
            network,
            arrays["residual"],
            arrays["times"],
            arrays["losses"],
            meta["products"],
            {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)},
            meta["step"],
            meta["note"],
            meta["interrupted"],
            meta.get("route", "weights"),
            arrays.get("coefficients"),
            meta.get("model", True),
            arrays.get("steps"),
        )
