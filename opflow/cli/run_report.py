"""What a run reports: its kernel before and after, numbers, the text of a table, pictures."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import opflow as of
from opflow import plot
from opflow.cli.clock import taken, used
from opflow.cli.folder import Numbers, ResultFolder, read_json, write_json, write_text
from opflow.cli.kernel import Kernel, finite
from opflow.cli.observers import LABELS
from opflow.cli.predict import outputs_of
from opflow.cli.words import HINT
from opflow.data.load import DataSet
from opflow.data.task import Task
from opflow.dynamics.routes import RunShapes
from opflow.interface.keywords import product_bar
from opflow.interface.progress import OutOfTime
from opflow.machine.arrays import Array, Data, module_name, to_host
from opflow.machine.files import atomic
from opflow.machine.ranks import space_of
from opflow.machine.workspace import THREAD_MEMORY, most_workspace, workspace_limit
from opflow.operators.describe import duration, human
from opflow.relu.inputs import is_whole

#: what draws each picture, by file name
Pictures = dict[str, Callable[[], Any]]

#: the largest eigenvalues of the kernel that are found
EIGENVALUES = 24
#: vectors in a block of their Lanczos
BLOCK = 8
#: products that Lanczos takes, roughly
PRODUCTS = 250
#: seconds that the analysis may always take
ALLOWED = 30.0
#: share of the run's expected time that it may take if that is more
SHARE = 0.1


def analyse(
    network: of.ReLUNetwork,
    X: Data,
    *,
    seconds: float,
    memory: str | None = None,
    label: str = "",
    comm: Any = None,
) -> Numbers:
    """Eigenvalues of K and layer shares of its trace, or why they are ``"skipped"``.

    The analysis must be small beside the `seconds` that the run is expected to take; `label` is
    the name of its bar.  With `comm` X is this rank's rows, and every rank calls and has the
    answer.
    """
    space = space_of(comm, int(X.shape[0]))
    shapes = RunShapes(network, X, int(X.shape[0]))
    product, held = shapes.kernel_product("cached")
    needed = of.machine_profile().seconds(product.times(PRODUCTS), network.dtype)
    # a Krylov basis, then the pairs that are measured, and a block through the first layer
    held += (7 * EIGENVALUES + 2 * BLOCK + 12) * shapes.residuals
    held += 3.0 * network.parameters * shapes.item * (EIGENVALUES - 1)
    held += 2.0 * is_whole(X) * shapes.samples * network.widths[1] * shapes.item * BLOCK
    held += shapes.workspace()
    budget = space.budget(memory, module_name(X))
    # all ranks skip, or none
    needed, held, allowed = map(
        float, space.largest(np.array([needed, held, max(ALLOWED, SHARE * seconds)]))
    )
    if needed > allowed:
        return {"skipped": f"it would take about {duration(needed)}, over {duration(allowed)}"}
    if held > budget:
        sizes = f"{human(held, 'B', 1024)}, over the {human(budget, 'B', 1024)}"
        return {"skipped": f"it would hold {sizes} of --memory"}
    spare = shapes.workspace() + budget - held
    workspace = min(float(most_workspace(module_name(network.weights[0]))), spare / 2)
    # ranks must stop at one product, and no clock is the same on all
    limit = math.inf if space.sharded else allowed
    with workspace_limit(workspace, min(float(THREAD_MEMORY), spare / 2 - workspace)):
        kernel = Kernel(network.fields(X, comm=space))
        try:
            with product_bar(label, seconds=limit, disable=not label):
                values = _largest(kernel, budget - held)
        except OutOfTime:
            return {"skipped": f"its eigenvalues took over {duration(allowed)}"}
        except (ValueError, ArithmeticError) as error:  # no reason to lose a finished run
            return {"skipped": f"its eigenvalues were not found: {error}"}
    return {"eigenvalues": values.tolist(), "trace": kernel.trace, "shares": kernel.shares.tolist()}


def _largest(kernel: Kernel, spare: float) -> Array:
    """The largest eigenvalues; of a dense kernel, where that pays and fits into what is spare."""
    op = kernel.op
    n = op.shape[0]
    top = min(EIGENVALUES, n)
    least = (EIGENVALUES + 5 * BLOCK) * max(op.space.here(n), 1) * op.dtype.itemsize
    method = "lanczos"
    if n <= 3 * (top + BLOCK) and not op.space.sharded:
        method = "lapack"
    options: Any = {"tol": 1e-3, "block": min(BLOCK, n), "method": method}
    return of.spectral.eigsh(op, top, memory=spare + least, **options).eigenvalues


def summary(
    run: of.Trajectory, before: Numbers, after: Numbers, stopped: str, started: float
) -> Numbers:
    """The numbers of a run that `started` at that moment of ``time.perf_counter``."""

    def ends(name: str) -> list[float] | None:
        values = run.observations.get(name)
        if values is None or not np.isfinite(values[[0, -1]]).all():
            return None
        return [float(values[0]), float(values[-1])]

    def both(name: str) -> list[Any]:
        return [moment.get(name) for moment in (before, after)]

    top = [values and values[0] for values in both("eigenvalues")]
    drift = ends("balancedness_drift")
    return {
        "samples": int(run.residual.shape[0]),
        "widths": list(run.network.widths),
        "outputs": run.network.outputs,
        "parameters": run.network.parameters,
        "dtype": str(run.network.dtype),
        "steps": int(run.observations["step"][-1]),
        "stopped": stopped or None,
        "route": run.route,
        "step": finite(run.step),
        "note": run.note,
        "products": run.products,
        "time": float(run.times[-1]),
        **{name: ends(name) for name in LABELS},
        "loss": ends("loss") or [float(run.losses[0]), float(run.losses[-1])],
        "largest_eigenvalue": top,
        "stability_limit": [2 / value if value else None for value in top],
        "trace": both("trace"),
        "eigenvalues": both("eigenvalues"),
        "layer_shares": both("shares"),
        "kernel_skipped": both("skipped"),
        "balancedness_drift": drift and drift[1],
        **taken(started),
    }


def table(s: Numbers) -> str:
    """The numbers of a run for people."""

    def pair(name: str) -> str | None:
        if s[name] is None or s[name] == [None, None]:
            return None
        start, end = ("none" if value is None else f"{value:.4g}" for value in s[name])
        return f"{start:>12}  ->  {end}"

    widths = "-".join(map(str, [*s["widths"], s["outputs"]]))
    steps = f"{s['steps']:,}"
    if s["stopped"]:
        steps += f" (stopped by {s['stopped']})"
    rows = {
        "network": f"{widths}, {s['parameters']:,} parameters, {s['dtype']}",
        "samples": f"{s['samples']:,}",
        "steps": steps,
        "route": s["route"],
        "step size": s["note"],
        "kernel products": f"{s['products']:,}",
        **{label: pair(name) for name, label in LABELS.items()},
        "λ_max(K)": pair("largest_eigenvalue"),
        "2/λ_max(K)": pair("stability_limit"),
        "tr K": pair("trace"),
    }
    for when, why in zip(("before", "after"), s["kernel_skipped"], strict=True):
        rows[f"kernel {when}"] = why and f"not analysed: {why}"
    if s["balancedness_drift"] is not None:
        rows["balancedness drift"] = f"{s['balancedness_drift']:.3g}"
    rows["time, memory"] = used(s)
    return "\n".join(f"{name:20}{value}" for name, value in rows.items() if value is not None)


def results(
    folder: ResultFolder, name: str, numbers: Numbers, table: str, draw: Callable[[], Pictures]
) -> str:
    """Write the numbers, the table and the pictures of a command, and say what there is."""
    write_json(folder.path / f"{name}.json", numbers)
    write_text(folder.path / f"{name}.txt", table + "\n")
    pictures = attempt(folder.path, draw)
    return f"{table}\n\n{pictures}; everything is in {folder.path}\n{HINT}"


def attempt(folder: Path, make: Callable[[], Pictures]) -> str:
    """Write the pictures that `make` gives, and say which, or why there are none."""
    try:
        return said(*write(folder, make()))
    except ImportError as error:
        return f"no pictures: {error}"


def write(folder: Path, drawings: Pictures) -> tuple[list[str], dict[str, str]]:
    """Write pictures, each atomically; the names of those written, and why others could not be.

    The older ones of these are removed.  Results must not depend on pictures: only a missing
    matplotlib is an error.
    """
    failed = {}
    for name, draw in drawings.items():
        try:
            figure = draw().figure
            with atomic(folder / name) as file:
                figure.savefig(file, format="png")
        except ImportError:
            raise
        except Exception as error:
            failed[name] = " ".join(str(error).split()) or type(error).__name__
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
    return [name for name in drawings if name not in failed], failed


def said(made: Sequence[str], failed: Mapping[str, str]) -> str:
    """The sentence that says which pictures there are, and which there are not."""
    text = f"pictures: {', '.join(made) or 'none'}"
    return "; ".join([text, *(f"no {name}: {why}" for name, why in failed.items())])


def pictures(
    run: of.Trajectory, s: Numbers, data: DataSet | None = None, test: DataSet | None = None
) -> Pictures:
    """What draws the pictures of a run, by file name, from its summary and its data."""
    found: Pictures = {"loss.png": partial(plot.loss, run)}
    if values := _known(s.get("eigenvalues", ())):
        found["eigenvalues.png"] = partial(plot.eigenvalues, values)
        found["layer_shares.png"] = partial(plot.layer_shares, _known(s["layer_shares"]))
    if "held_out_loss" in run.observations:
        found["held_out.png"] = partial(plot.held_out, run)
    if "accuracy" in run.observations:
        found["accuracy.png"] = partial(plot.accuracy, run)
    task = run.task
    if task is not None and data is not None:
        draw = partial(answers, run, task, data, test)
        if task.classes is None:
            found["predicted.png"] = lambda: plot.predicted(draw())
            found["residuals.png"] = lambda: plot.residuals(draw())
        else:
            found["confusion.png"] = lambda: confusion(draw(), task.classes)
    return found


def _known(ends: Sequence[Any]) -> dict[str, Any]:
    """What there is at the start and at the end of a run."""
    return {when: found for when, found in zip(("start", "end"), ends, strict=False) if found}


def answers(
    run: of.Trajectory, task: Task, data: DataSet, test: DataSet | None
) -> dict[str, list[Array]]:
    """True and predicted labels, or values in their own units, of the training and the test set."""
    outputs = {"training set": (data.targets, run.residual + data.targets)}
    if test is not None:
        outputs["held out"] = (test.targets, outputs_of(run, test.inputs))
    return {
        label: [task.answers(to_host(part)) for part in pair] for label, pair in outputs.items()
    }


def confusion(sets: dict[str, list[Array]], classes: Array) -> Any:
    """The confusion matrix of the last set: held-out samples say more than learned ones."""
    label, (true, predicted) = list(sets.items())[-1]
    ax = plot.confusion(true, predicted, classes)
    ax.set_title(f"{ax.get_title()} ({label})")
    return ax


def saved(folder: Path) -> Pictures:
    """The pictures of a run folder by its trajectory and its summary, if it has one."""
    if not (folder / "trajectory.npz").exists():
        return {}
    run = of.Trajectory.load(folder / "trajectory.npz")
    summary: Numbers = {}
    if (folder / "summary.json").exists():
        summary = read_json(folder / "summary.json")
    return pictures(run, summary)
