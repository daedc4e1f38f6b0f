"""What a run on the command line says of itself: its kernel before and after, a table, pictures."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import opflow as of
from opflow.cli.folder import write_pictures
from opflow.data.load import DataSet
from opflow.dynamics.observe import Moment
from opflow.dynamics.routes import run_shapes
from opflow.interface.keywords import product_bar
from opflow.interface.progress import OutOfTime
from opflow.machine.arrays import module_name, to_host
from opflow.machine.ranks import LOCAL, RowDistribution, space_of
from opflow.machine.workspace import THREAD_MEMORY, WORKSPACE, workspace_limit
from opflow.operators import Cost
from opflow.operators.describe import duration, human
from opflow.relu.fields import storage_bytes

#: what draws each picture, by file name
Pictures = dict[str, Callable[[], Any]]

EIGENVALUES = 24
#: vectors in a block of the Lanczos that finds them, and products it takes, roughly
BLOCK, PRODUCTS = 8, 250
#: what is observed of a run, as a table calls it
OBSERVED = {"loss": "loss", "rmse": "RMSE", "r2": "R²", "residual_norm": "residual norm"}
OBSERVED |= {"accuracy": "accuracy"}
OBSERVED |= {
    f"held_out_{name}": f"held-out {OBSERVED[name]}" for name in ("loss", "rmse", "r2", "accuracy")
}
#: seconds that may be spent on them whatever the run takes, and the share of the run's otherwise
ALLOWED, SHARE = 30.0, 0.1


class TrainingAccuracy:
    """The share of training samples whose largest output is that of their class; 2·N·k flops."""

    name = "accuracy"

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def __call__(self, moment: Moment) -> float:
        right = (moment.residual + moment.targets).argmax(axis=1) == self.labels
        return float(moment.space.total(right.sum())) / moment.samples


def fit_of(name: str, scale: Any, test: DataSet | None = None) -> Callable[[Moment], float]:
    """An observer of one number of :func:`fit`; the loss of held-out data is that of a sample."""

    def observer(moment: Moment) -> float:
        key = ("fit", test is None)
        if key not in moment.shared and test is None:
            moment.shared[key] = fit(moment.residual, moment.targets, scale, moment.space)
        elif key not in moment.shared and test is not None:
            found = fit(moment.predict(test.inputs) - test.targets, test.targets, scale)
            moment.shared[key] = found | {"loss": found["loss"] / len(test.targets)}
        return float(moment.shared[key][name])

    return observer


def fit(errors: Any, y: Any, scale: Any, space: RowDistribution = LOCAL) -> dict[str, float]:
    """Loss ½ Σ e², ‖e‖, RMSE and R² of errors (N, k) of targets y, both divided by `scale`.

    Of several targets the last two are means over these, as scikit-learn's.
    """
    count = float(space.total(len(y)))
    mean = space.total(y.sum(axis=0, dtype=np.float64)) / count
    squares, spread = (
        to_host(space.total((part.astype(np.float64) ** 2).sum(axis=0)))
        for part in (errors, y - mean)
    )
    with np.errstate(all="ignore"):
        r2 = np.where(spread > 0, 1 - squares / spread, np.nan).mean()
    total = float((squares * scale**2).sum())
    return {
        "loss": 0.5 * total,
        "residual_norm": math.sqrt(total),
        "rmse": float((np.sqrt(squares / count) * scale).mean()),
        "r2": float(r2),
    }


class Drift(of.observe.Balancedness):
    """Balancedness where the weights are at hand: W¹ of an eliminated layer costs many a step."""

    def __call__(self, moment: Moment) -> float:
        if moment.state.first.route == "eliminated":
            return math.nan
        return super().__call__(moment)

    def state(self) -> dict[str, Any]:
        return {} if self._start is None else super().state()


def observers(data: DataSet, test: DataSet | None, depth: int) -> dict[str, Any]:
    """What the command line records of a run; held-out data cost forward passes.

    Of samples spread over ranks, `data` are those of this one and `test` are whole.
    """
    seen: dict[str, Any] = {
        "step": lambda moment: moment.step,
        "residual_norm": of.observe.ResidualNorm(),
    }
    if depth > 1:
        seen["balancedness_drift"] = Drift()
    if data.labels is not None:
        seen["accuracy"] = TrainingAccuracy(data.labels)
    elif data.task is not None:
        scale = data.task.targets.scale
        for name in ("loss", "residual_norm", "rmse", "r2"):
            seen[name] = fit_of(name, scale)
        if test is not None:
            for name in ("loss", "rmse", "r2"):
                seen[f"held_out_{name}"] = fit_of(name, scale, test)
    if test is not None and "held_out_loss" not in seen:
        seen["held_out_loss"] = of.observe.HeldOutLoss(test.inputs, test.targets)
        if test.labels is not None:
            seen["held_out_accuracy"] = of.observe.Accuracy(test.inputs, test.labels)
    return seen


def analyse(
    network: of.ReLUNetwork,
    X: Any,
    *,
    seconds: float,
    memory: str | None = None,
    told: str = "",
    comm: Any = None,
) -> dict[str, Any]:
    """Eigenvalues of K and layer shares of its trace, or why they are ``"skipped"``.

    The analysis must be small beside the `seconds` that the run is expected to take; `told` is the
    name of its bar.  With `comm` X is this rank's rows, and every rank calls and has the answer.
    """
    space = space_of(comm, int(X.shape[0]))
    p = run_shapes(network, X, int(X.shape[0]))
    cached = storage_bytes(network, p.samples, "cached")
    first = 4.0 * p.entries * network.widths[1]
    product = Cost(first + 8.0 * p.samples * p.upper(), cached, first if p.sparse else 0.0)
    needed = of.machine_profile().seconds(product.times(PRODUCTS), network.dtype)

    held = (
        cached
        + (7 * EIGENVALUES + 2 * BLOCK + 12) * p.residuals  # a basis, then residuals measured
        + 3.0 * network.parameters * p.item * EIGENVALUES
        + 2.0 * p.whole * p.samples * network.widths[1] * p.item * BLOCK
        + p.workspace()
    )
    allowed, budget = max(ALLOWED, SHARE * seconds), space.budget(memory, module_name(X))
    # all ranks skip, or none
    needed, held, allowed = map(float, space.largest(np.array([needed, held, allowed])))
    if needed > allowed:
        return {"skipped": f"it would take about {duration(needed)}, over {duration(allowed)}"}
    if held > budget:
        sizes = f"{human(held, 'B', 1024)}, over the {human(budget, 'B', 1024)}"
        return {"skipped": f"it would hold {sizes} of --memory"}
    spare = p.workspace() + budget - held
    workspace = min(float(WORKSPACE), spare / 2)
    with workspace_limit(workspace, min(float(THREAD_MEMORY), spare / 2 - workspace)):
        fields = network.fields(X, comm=space if space.sharded else None)
        K = of.collective_kernel(fields)
        traces = [float(kernel.trace()) for kernel in of.layer_kernels(fields)]
        try:
            # ranks must stop at one product, and no clock is the same on all
            limit = math.inf if space.sharded else allowed
            with product_bar(told, seconds=limit, disable=not told):
                values = _largest(K, budget - held)
        except OutOfTime:
            return {"skipped": f"its eigenvalues took over {duration(allowed)}"}
        except (ValueError, ArithmeticError) as error:  # no reason to lose a finished run
            return {"skipped": f"its eigenvalues were not found: {error}"}
    total = sum(traces) or 1.0
    return {
        "eigenvalues": values.tolist(),
        "trace": sum(traces),
        "shares": [t / total for t in traces],
    }


def _largest(K: of.Operator, spare: float) -> Any:
    """The largest eigenvalues; of a dense kernel, where that pays and fits into what is spare."""
    n = K.shape[0]
    k, here = min(EIGENVALUES, n), K.domain.here(n)
    least = (EIGENVALUES + 5 * BLOCK) * max(here, 1) * K.dtype.itemsize
    few = n <= 3 * (k + BLOCK) and not K.space.sharded
    return of.spectral.eigsh(
        K,
        k,
        tol=1e-3,
        block=min(BLOCK, n),
        memory=spare + least,
        method="lapack" if few else "lanczos",
    ).eigenvalues


def summary(
    run: of.Trajectory, before: dict[str, Any], after: dict[str, Any], stopped: str, seconds: float
) -> dict[str, Any]:
    """The numbers of a run."""

    def ends(name: str) -> list[float] | None:
        values = run.observations.get(name)
        if values is None or not np.isfinite(values[[0, -1]]).all():
            return None
        return [float(values[0]), float(values[-1])]

    both = (before, after)
    top = [m["eigenvalues"][0] if "eigenvalues" in m else None for m in both]
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
        "step": run.step if np.isfinite(run.step) else None,
        "note": run.note,
        "products": run.products,
        "time": float(run.times[-1]),
        **{name: ends(name) for name in OBSERVED},
        "loss": ends("loss") or [float(run.losses[0]), float(run.losses[-1])],
        "largest_eigenvalue": top,
        "stability_limit": [2 / v if v else None for v in top],
        "trace": [m.get("trace") for m in both],
        "eigenvalues": [m.get("eigenvalues") for m in both],
        "layer_shares": [m.get("shares") for m in both],
        "kernel_skipped": [m.get("skipped") for m in both],
        "balancedness_drift": drift[1] if drift and np.isfinite(drift[1]) else None,
        "seconds": seconds,
        "peak_memory": peak_memory(),
    }


def table(s: dict[str, Any]) -> str:
    """The numbers of a run for people."""

    def pair(name: str) -> str | None:
        if s[name] is None or s[name] == [None, None]:
            return None
        start, end = (f"{v:.4g}" if v is not None else "none" for v in s[name])
        return f"{start:>12}  ->  {end}"

    skipped = dict(zip(("before", "after"), s["kernel_skipped"], strict=True))
    rows = [
        (
            "network",
            f"{'-'.join(map(str, s['widths']))}-{s['outputs']}, "
            f"{s['parameters']:,} parameters, {s['dtype']}",
        ),
        ("samples", f"{s['samples']:,}"),
        ("steps", f"{s['steps']:,}" + (f" (stopped by {s['stopped']})" if s["stopped"] else "")),
        ("route", s["route"]),
        ("step size", s["note"]),
        ("kernel products", f"{s['products']:,}"),
        *((label, pair(name)) for name, label in OBSERVED.items()),
        ("λ_max(K)", pair("largest_eigenvalue")),
        ("2/λ_max(K)", pair("stability_limit")),
        ("tr K", pair("trace")),
        *((f"kernel {when}", f"not analysed: {why}") for when, why in skipped.items() if why),
        ("balancedness drift", s["balancedness_drift"] and f"{s['balancedness_drift']:.3g}"),
        ("time, memory", f"{s['seconds']:.1f} s, {s['peak_memory'] / 2**20:,.0f} MiB at the peak"),
    ]
    return "\n".join(f"{name:20}{value}" for name, value in rows if value is not None)


def attempt(folder: Path, make: Callable[[], Pictures]) -> str:
    """Write the pictures that `make` gives, and say which, or why there are none."""
    try:
        return told(*write(folder, make()))
    except ImportError as error:
        return f"no pictures: {error}"


def write(folder: Path, drawings: Pictures) -> tuple[list[str], dict[str, str]]:
    """Write pictures; the names of those written, and why the others could not be."""
    failed = write_pictures(folder, drawings)
    return [name for name in drawings if name not in failed], failed


def told(made: Sequence[object], failed: Mapping[str, str]) -> str:
    """Which pictures there are, and which there are not."""
    text = f"pictures: {', '.join(map(str, made)) or 'none'}"
    return "; ".join([text, *(f"no {name}: {why}" for name, why in failed.items())])


def pictures(
    run: of.Trajectory,
    before: dict[str, Any],
    after: dict[str, Any],
    data: DataSet | None = None,
    test: DataSet | None = None,
) -> Pictures:
    """What draws the pictures of a run, by file name; those of its answers need its data."""
    from opflow import plot

    def of_kernel(name: str) -> dict[str, Sequence[float]]:
        moments = {"start": before, "end": after}
        return {when: moment[name] for when, moment in moments.items() if name in moment}

    found: Pictures = {"loss.png": partial(plot.loss, run)}
    if of_kernel("eigenvalues"):
        found["eigenvalues.png"] = partial(plot.eigenvalues, of_kernel("eigenvalues"))
        found["layer_shares.png"] = partial(plot.layer_shares, of_kernel("shares"))
    if "held_out_loss" in run.observations:
        found["held_out.png"] = partial(plot.held_out, run)
    if "accuracy" in run.observations:
        found["accuracy.png"] = partial(plot.accuracy, run)
    if run.task is not None and data is not None:
        names = ("predicted", "residuals") if run.task.classes is None else ("confusion",)
        found |= {f"{name}.png": partial(answers, name, run, data, test) for name in names}
    return found


def answers(name: str, run: of.Trajectory, data: DataSet, test: DataSet | None) -> Any:
    """A picture of labels, or of values in their own units, of the training and the test set."""
    from opflow import plot

    task = run.task
    assert task is not None
    outputs = {"training set": (data.targets, run.residual + data.targets)}
    if test is not None:
        model = replace(run, task=None)  # these inputs are prepared
        outputs["held out"] = (test.targets, model.predict(test.inputs))
    sets = {
        label: [task.answers(to_host(part)) for part in pair] for label, pair in outputs.items()
    }
    if name != "confusion":
        return getattr(plot, name)(sets)
    label = list(sets)[-1]  # what was held out says more than what was learned
    true, predicted = sets[label]
    ax = plot.confusion(true, predicted, task.classes)
    ax.set_title(f"{ax.get_title()} ({label})")
    return ax


def saved(folder: Path) -> Pictures:
    """The pictures of a run folder by its trajectory and its summary, if it has one."""
    if not (folder / "trajectory.npz").exists():
        return {}
    run = of.Trajectory.load(folder / "trajectory.npz")
    numbers = {}
    file = folder / "summary.json"
    if file.exists():
        try:
            numbers = dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
    none = [None, None]
    moments = [
        {"eigenvalues": values, "shares": shares} if values and shares else {}
        for values, shares in zip(
            numbers.get("eigenvalues", none), numbers.get("layer_shares", none), strict=True
        )
    ]
    return pictures(run, moments[0], moments[1])


def peak_memory() -> int:
    """Bytes that the process held at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
