"""``opflow spectrum``: the kernel of a network at the start and the end of a run.

Numbers with their error bars, arrays for further work, pictures.  What does not fit in memory, or
would take long, is left out, and the reason is given.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import opflow as of
from opflow.cli import options
from opflow.cli.clock import Clock
from opflow.cli.devices import placed
from opflow.cli.folder import CONFIG, Arrays, Numbers, read_json
from opflow.cli.kernel import SCALARS, Analysis, Ask, finite, number
from opflow.data.files import Reading
from opflow.data.load import DataSet, load, reading
from opflow.data.paths import absent, located
from opflow.dynamics.observe.eigenpairs import angles_between
from opflow.evaluation.dense import dense_plan
from opflow.machine.arrays import module_name, to_host
from opflow.machine.ranks import LOCAL
from opflow.machine.workspace import THREAD_MEMORY, most_workspace, parse_memory, workspace_limit
from opflow.operators.describe import duration
from opflow.plot import block_means, clustered

#: seconds that a heat map may take unless it is asked for
ALLOWED = 30.0


class Subject(NamedTuple):
    """What is analysed: networks by the moment they are of, on a data set."""

    networks: dict[str, of.ReLUNetwork]
    data: DataSet
    step: float = math.nan
    time: float = math.nan


def subject(path: Path, data: str | None, targets: str | None, device: str = "cpu") -> Subject:
    """The networks and the data of a run folder, or of a trajectory file and DATA."""
    config: Numbers = {}
    file = path
    if path.is_dir():
        file = path / "trajectory.npz"
        try:
            config = read_json(path / CONFIG)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no run folder: {CONFIG} cannot be read") from error
    if not file.exists():
        raise absent(file)
    if data is None and "data" not in config:
        raise ValueError(f"{path} does not say what data it was trained on: give DATA")
    run = of.Trajectory.load(file)
    network = run.network
    how = Reading()
    if data is None:
        how = reading(config)
        data = config["data"]
        targets = targets or config.get("targets")
        if data != "digits" and not located(data).exists():
            raise FileNotFoundError(f"{data}, the data of {path}, does not exist: give DATA")
    if run.task is None:
        how = Reading(standardise=False)
    found = load(data, targets, network.dtype, how, like=run.task)
    if run.task is None and found.labels is None:  # a run of Python takes targets as they are
        y = found.task.targets.inverse(found.targets)  # type: ignore[union-attr]
        found = found._replace(targets=y)
    d, k = found.inputs.shape[1], found.targets.shape[1]
    if (d, k) != (network.widths[0], network.outputs):
        takes = f"takes {network.widths[0]} to {network.outputs}"
        raise ValueError(f"{data} has {d} features and {k} targets, the network of {path} {takes}")
    if not run.model and config.get("method") != "linearised":
        raise ValueError(f"the model of {path} is not its network: no file keeps its kernel")
    networks = {"network": network}
    if config:
        networks = {"start": options.start(config, d, k)}
        if run.model:  # the kernel of a linearised run is that of its start
            networks["end"] = network
    networks = {when: net.to(device) for when, net in networks.items()}
    return Subject(networks, placed(found, device), run.step, float(run.times[-1]))


def analyse(what: Subject, ask: Ask) -> tuple[Numbers, Arrays]:
    """The numbers (JSON) and the arrays of an analysis.

    Per moment some 26·(top + 4) products for the eigenpairs, steps · probes for the density and a
    hundred or two for the norms, through the cheapest form of the kernel that fits; the heat map
    forms all N²·k entries on and above the diagonal, once.
    """
    where = module_name(what.data.inputs)
    budget = parse_memory(ask.memory, where)
    limits = (min(float(most), budget / 16) for most in (most_workspace(where), THREAD_MEMORY))
    with workspace_limit(*limits), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", of.spectral.ConvergenceWarning)
        moments, arrays, drift = _moments(what, ask, budget)
    network = next(iter(what.networks.values()))
    summary = {
        "samples": int(what.data.targets.shape[0]),
        "step": finite(what.step),
        **drift,
        "target": what.data.about,
        "widths": list(network.widths),
        "outputs": network.outputs,
        "dtype": str(network.dtype),
        "time": finite(what.time),
        "top": ask.top,
        "moments": moments,
        "notes": sorted({str(w.message) for w in caught}),
    }
    return summary, arrays


def _moments(what: Subject, ask: Ask, budget: float) -> tuple[Numbers, Arrays, Numbers]:
    """The numbers of each moment, the arrays of all, and how far the kernel has moved."""
    y = what.data.targets
    count = len(what.networks)
    clock = Clock(ask.seconds, ask.progress)
    moments: Numbers = {}
    arrays: Arrays = {}
    drift: Numbers = {}
    found: list[Analysis] = []
    # at worst: the fields of all moments, the dense kernel of one, the work on another
    share = budget / (4 * count)
    work = budget * (1 - count / 4)
    for i, (when, network) in enumerate(what.networks.items()):
        clock.part(when, count + 1 - i)
        fields = network.fields(what.data.inputs, memory=share)
        kernel = Analysis(fields, ask, work, clock)
        moments[when] = kernel.numbers(y)
        found.append(kernel)
        residual = (fields.outputs - y).ravel()
        if kernel.vectors is not None:
            first = next(one.vectors for one in found if one.vectors is not None)
            kernel.arrays["projections"] = to_host(first.T @ residual)
            inside = float(((kernel.vectors.T @ residual) ** 2).sum())
            moments[when]["residual_in_top"] = inside / (float((residual**2).sum()) or 1.0)
        arrays |= {f"{when}_{name}": value for name, value in kernel.arrays.items()}
    clock.part("start and end", 1)  # the last part is the comparison and the heat map
    if count == 2:
        drift = {"drift": _drift(found[0], found[1], arrays, clock)}
        if "start_eigenvalues" in arrays:
            decay = np.exp(-what.time * arrays["start_eigenvalues"])
            arrays["predicted_projections"] = arrays["start_projections"] * decay
    if ask.heat_map is not False:
        limit = math.inf
        if not ask.heat_map:
            limit = min(ALLOWED, clock.left() / 2)
        _heat_map(kernel.factored, what.data, arrays, budget, limit, clock)
    moments[when]["skipped"] |= clock.skipped
    return moments, arrays, drift


def _drift(before: Analysis, after: Analysis, arrays: Arrays, clock: Clock) -> Numbers:
    """Distance and angles between two kernels, and between their leading eigenvectors."""
    found: Numbers = {}
    for measure in (of.spectral.kernel_distance, of.spectral.kernel_alignment):
        name = measure.__name__
        value = clock.run(name, SCALARS, partial(measure, before.op, after.op))
        if value is not None:
            found[name] = number(value)
    U = before.vectors
    V = after.vectors
    if U is not None and V is not None and U.shape == V.shape:
        angles = np.sort(to_host(angles_between(U, V, LOCAL)).astype(np.float64))
        arrays["principal_angles"] = angles
        found["largest_angle"] = float(np.degrees(angles[-1]))
        found["median_angle"] = float(np.median(np.degrees(angles)))
    return found


def _heat_map(
    K: of.Operator, data: DataSet, arrays: Arrays, budget: float, limit: float, clock: Clock
) -> None:
    """Block means of the kernel, classes or clusters of samples side by side."""
    outputs = data.targets.shape[1]
    seconds = of.machine_profile().seconds(dense_plan(K, budget).cost, K.dtype) / outputs
    if seconds > limit:
        takes = f"it takes about {duration(seconds)}"
        clock.skipped["heat map"] = f"{takes}, and {duration(limit)} are left: --heat-map"
        return
    if data.task is None or data.labels is None:
        order = clustered(K, outputs=outputs)
    else:
        labels = to_host(data.labels)
        order = np.argsort(labels, kind="stable")
        arrays["heat_map_labels"] = data.task.classes[labels[order]]
    arrays["heat_map"] = block_means(K, order, outputs=outputs)
    arrays["heat_map_order"] = order
