"""``opflow spectrum``: what the kernel of a network looks like, at the start and the end of a run.

Numbers with their error bars, arrays for further work, pictures.  What does not fit in memory, or
would take long, is left out and said.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import opflow as of
from opflow.cli.devices import placed
from opflow.cli.folder import CONFIG, absent, located
from opflow.data.load import DataSet, Reading, load, reading
from opflow.dynamics.observe.eigenpairs import angles_between
from opflow.evaluation.dense import dense_plan
from opflow.evaluation.materialise import candidates
from opflow.interface.keywords import product_bar
from opflow.interface.progress import OutOfTime
from opflow.machine.arrays import module_name, to_host
from opflow.machine.ranks import RowDistribution, Sharded, space_of
from opflow.machine.workspace import THREAD_MEMORY, WORKSPACE, op_namespace, workspace_limit
from opflow.operators.describe import duration, human
from opflow.spectral import Estimate
from opflow.spectral.checks import DENSE
from opflow.spectral.traces.exact import WHOLE_BYTES

#: seconds that a heat map may take unless it is asked for, and from which on one is told things
ALLOWED, LONG = 30.0, 10.0
#: vectors of the product that is timed
PACED = 4
#: block products of the eigenpairs of a flat and of a usual spectrum, products of a norm, and
#: steps of an effective rank
BLOCKS, DECAYING, SCALARS, RANK_STEPS = 26, 11, 60, 60
#: accuracy of the eigenpairs, relative to their eigenvalues
TOL = 1e-6


class Ask(NamedTuple):
    """What is asked of an analysis; the defaults are those of the command line.

    The density and the heat map are computed within the seconds (None), whatever they take
    (True), or not at all.
    """

    top: int = 20
    density: bool | None = None
    steps: int = 100
    probes: int = 10
    heat_map: bool | None = None
    memory: str | None = None
    seed: int = 0
    seconds: float = 60.0
    progress: bool = False


class Subject(NamedTuple):
    """What is analysed: networks by the moment they are of, on a data set."""

    networks: dict[str, of.ReLUNetwork]
    data: DataSet
    step: float = math.nan
    time: float = math.nan


def subject(path: Path, data: str | None, targets: str | None, device: str = "cpu") -> Subject:
    """The networks and the data of a run folder, or of a trajectory file and DATA."""
    config: dict[str, Any] = {}
    file = path
    if path.is_dir():
        file = path / "trajectory.npz"
        try:
            config = dict(json.loads((path / CONFIG).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no run folder: {CONFIG} cannot be read") from error
    if not file.exists():
        raise absent(file)
    if data is None and "data" not in config:
        raise ValueError(f"{path} does not say what data it was trained on: give DATA")
    run = of.Trajectory.load(file)
    network = run.network
    how = Reading(standardise=False)
    if run.task is not None:
        how = reading(config if data is None else {})
    if data is None:
        data, targets = config["data"], targets or config.get("targets")
        if data != "digits" and not located(data).exists():
            raise FileNotFoundError(f"{data}, the data of {path}, does not exist: give DATA")
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
        start = of.ReLUNetwork.random(
            [d, *config["widths"]],
            outputs=k,
            scaling=config["scaling"],
            seed=config["seed"],
            dtype=network.dtype,
        )
        networks = {"start": start}
        if run.model:  # the kernel of a linearised run is that of its start
            networks["end"] = network
    found = placed(network, found, device)[1]
    networks = {when: net.to(device) for when, net in networks.items()}
    return Subject(networks, found, run.step, float(run.times[-1]))


def analyse(
    what: Subject, ask: Ask, say: Callable[[str], None] = print, comm: Any = None
) -> tuple[Any, Any]:
    """The numbers (JSON) and the arrays of an analysis; `say` tells how it gets on.

    With `comm` the data are this rank's rows, every rank calls, the arrays are whole on the first,
    and there is no heat map, which needs entries.

    Per moment some 26·(top + 4) products for the eigenpairs, steps · probes for the density and a
    hundred or two for the norms, through the cheapest form of the kernel that fits; the heat map
    forms all N²·k entries on and above the diagonal, once.
    """
    space = space_of(comm, int(what.data.targets.shape[0]))
    budget = space.budget(ask.memory, module_name(what.data.inputs))
    with workspace_limit(*(min(float(most), budget / 16) for most in (WORKSPACE, THREAD_MEMORY))):
        return _analyse(what, ask, budget, say if space.leads else _silent, space)


def _silent(text: str) -> None:
    """What ranks that do not lead say."""


def _analyse(
    what: Subject, ask: Ask, budget: float, say: Callable[[str], None], space: RowDistribution
) -> tuple[Any, Any]:
    data, y = what.data, what.data.targets
    comm = space if space.sharded else None
    samples = space.size if isinstance(space, Sharded) else y.shape[0]
    arrays: dict[str, Any] = {}
    summary: dict[str, Any] = {"samples": int(samples), "step": _json(what.step)}
    moments: dict[str, Any] = {}
    bases, kernels = {}, {}
    clock = _Clock(math.inf if space.sharded else ask.seconds, ask.progress)
    parts = len(what.networks) + 1  # the last one is the comparison and the heat map
    # at the worst there are the fields of all, a dense kernel of one, the work on another
    share, work = budget / (4 * len(what.networks)), budget * (1 - len(what.networks) / 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", of.spectral.ConvergenceWarning)
        for number, (when, network) in enumerate(what.networks.items()):
            clock.part(when, parts - number)
            fields = network.fields(data.inputs, memory=share, comm=comm)
            K = of.collective_kernel(fields)
            found = _Kernel(K, ask, work, say, clock)
            moments[when] = found.numbers(fields, y)
            arrays |= {f"{when}_{name}": value for name, value in found.arrays.items()}
            kernels[when], bases[when] = found.fast, found.vectors
            residual = (fields.outputs - y).ravel()
            if found.vectors is not None:
                first = next(basis for basis in bases.values() if basis is not None)
                arrays[f"{when}_projections"] = to_host(space.gram(first, residual))
                inside = space.gram(found.vectors, residual)
                size = float(space.total((residual**2).sum())) or 1.0
                moments[when]["residual_in_top"] = float((inside**2).sum()) / size
        if len(kernels) == 2:
            clock.part("start and end", 1)
            left_out = moments[when]["skipped"]
            summary["drift"] = _drift(kernels, bases, arrays, space, clock, left_out)
        if ask.heat_map is not False:
            limit = math.inf if ask.heat_map else min(ALLOWED, clock.left() / 2)
            reason = "it needs entries, which a kernel spread over ranks has not"
            if not space.sharded:
                reason = _heat_map(K, data, arrays, budget, limit)
            if reason:
                moments[when]["skipped"]["heat map"] = reason
    network = next(iter(what.networks.values()))
    summary |= {
        "target": data.about,
        "widths": list(network.widths),
        "outputs": network.outputs,
        "dtype": str(network.dtype),
        "time": _json(what.time),
        "top": ask.top,
        "moments": moments,
        "notes": sorted({str(w.message) for w in caught}),
    }
    if "start_eigenvalues" in arrays and len(kernels) == 2:
        decay = np.exp(-what.time * arrays["start_eigenvalues"])
        arrays["predicted_projections"] = arrays["start_projections"] * decay
    return summary, arrays


class _Clock:
    """Shares the seconds of an analysis among its parts, and stops what takes longer."""

    def __init__(self, seconds: float, progress: bool) -> None:
        self._end = time.monotonic() + seconds
        self._progress = progress
        self.pace = 0.0  #: seconds per product with a vector

    def part(self, name: str, left: int) -> None:
        """Begin a part, after which there are `left` − 1 more."""
        self.name = name
        now = time.monotonic()
        self.until = now + max(self._end - now, 0.0) / left

    def left(self) -> float:
        """Seconds left of the part."""
        return max(self.until - time.monotonic(), 0.0)

    def fits(self, most: int, products: int, share: float = 1.0) -> int:
        """How many of at most so many things, of so many products each, a share of them is for."""
        there = share * self.left() / max(products * self.pace, 1e-9)
        return int(min(most, there))

    @contextmanager
    def free(self, asked: bool) -> Iterator[None]:
        """What is asked for by name takes no time from the rest."""
        started, until = time.monotonic(), self.until
        self.until = math.inf if asked else until
        yield
        spent = (time.monotonic() - started) * asked
        self.until, self._end = until + spent, self._end + spent

    def run(
        self, name: str, products: int, work: Callable[[], Any], skipped: dict[str, str], hint: str
    ) -> Any:
        """What `work` gives; None, and the reason among what is skipped, if time is short."""
        left, need = self.left(), products * self.pace
        if need <= left:
            try:
                told = f"{self.name}: {name.replace('_', ' ')}"
                with product_bar(told, seconds=left, disable=not self._progress):
                    return work()
            except OutOfTime:
                need = left
        takes, there = duration(need), duration(left)
        skipped[name] = f"it takes about {takes} or more, and {there} are left: {hint}--seconds"
        return None


class _Kernel:
    """The analysis of one kernel; what does not fit or was not asked for stays None."""

    def __init__(
        self, K: of.Operator, ask: Ask, budget: float, say: Callable[[str], None], clock: _Clock
    ) -> None:
        n, sharded = K.shape[0], K.space.sharded
        self.say: Callable[[str], None] = _silent
        self.K, self.ask, self.budget, self.clock = K, ask, budget, clock
        self.top = min(ask.top, n)
        # small kernels are decomposed whole
        self.whole = 4.0 * n if n <= DENSE and not sharded else 0.0
        self.arrays: dict[str, Any] = {}
        self.vectors: Any = None
        self.skipped: dict[str, str] = {}
        columns = max(self.top + 4, ask.probes)
        vectors = 4 * SCALARS + (ask.steps * ask.probes if ask.density else 0)
        products = BLOCKS + vectors // columns
        if sharded:
            self.fast, self.how, self.held = K, "sharded", 0.0
            return
        forms = candidates(K, products, columns, budget / 2)
        factored = next(form for form in forms if form.how == "factored")
        used = next((form for form in forms if form.fits), factored)
        if used.seconds > clock.left():  # forming K may not pay for what fits
            products = max(1, int(products * clock.left() / used.seconds))
        if used.seconds > LONG:
            self.say = say
        # factors tell how many eigenvalues are zero, a dense matrix does not
        self.fast = of.materialise(K, products=products, columns=columns, memory=budget / 2)
        self.how, self.held = used.how, used.held
        started = time.perf_counter()
        self.fast.matmat(op_namespace(K).ones((n, PACED), dtype=K.dtype))
        clock.pace = (time.perf_counter() - started) / PACED

    def _allowed(self, name: str, vectors: float, ask: str) -> bool:
        """Whether that many vectors fit in what is left; if not, it is said."""
        rows = self.K.domain.here(self.K.shape[0])
        need = (self.whole or vectors) * rows * self.K.dtype.itemsize
        need, left = float(self.K.space.largest(need)), self.budget - self.held
        if need > left:
            sizes = f"{human(need, 'B', 1024)}, over the {human(max(left, 0), 'B', 1024)}"
            self.skipped[name] = f"it would hold {sizes} left of --memory{ask}"
        return need <= left

    def numbers(self, fields: of.Fields, y: Any) -> dict[str, Any]:
        """Everything that is a number; arrays are kept."""
        found: dict[str, Any] = {"skipped": self.skipped}
        layers = of.layer_kernels(fields)
        traces = np.array([float(layer.trace()) for layer in layers])
        self.arrays["layer_shares"] = traces / (traces.sum() or 1.0)
        found["layer_shares"] = self.arrays["layer_shares"].tolist()
        found["trace"] = _estimate(traces.sum())
        shares = ", ".join(f"{100 * share:.3g} %" for share in found["layer_shares"])
        self.say(f"{self.clock.name}: tr K = {traces.sum():.5g}, by layers {shares} ({self.how})")
        if self._allowed("eigenpairs", 8 * self.top + 40, ": ask for fewer by --top"):
            if not self.whole:  # a few of them rather than none
                self.top = max(1, self.clock.fits(self.top + 4, DECAYING, 0.7) - 4)
            hint = "fewer by --top, or more "
            least = 0 if self.whole else 5 * DECAYING
            pairs = self.clock.run("eigenpairs", least, self._eigenpairs, self.skipped, hint)
            if pairs is not None:
                found |= pairs
                self.arrays["mode_shares"] = of.spectral.spectrum_shares(layers, self.vectors)
                self.say(f"{self.clock.name}: λ_max(K) = {pairs['eigenvalues'][0]:.5g}")
                if self.top < min(self.ask.top, self.K.shape[0]):
                    self.skipped["more eigenpairs"] = f"time is short after {self.top}: --seconds"
        if self._allowed("norms", 80, ""):
            self._numbers(found)
            alignments = [
                self._number("alignment", part, of.spectral.alignment, op, y.ravel())
                for op, part in [(self.fast, 1.0), *((layer, 1 / len(layers)) for layer in layers)]
            ]
            self.arrays["alignment"] = np.array(
                [math.nan if a is None or a["value"] is None else a["value"] for a in alignments]
            )
            found["alignment"] = alignments
            probes = 10 if self.whole else max(2, self.clock.fits(10, RANK_STEPS, 0.5))
            options: Any = {"how": self._whole_or_estimate(), "probes": probes, "steps": RANK_STEPS}
            rank = partial(of.spectral.effective_rank, **options)
            part = probes * RANK_STEPS / SCALARS
            found["effective_rank"] = self._number("effective_rank", part, rank, self.fast)
        self._null(found, fields.network.parameters)
        return found

    def _numbers(self, found: dict[str, Any]) -> None:
        """The norms, of which others are made."""
        if self.vectors is not None and not self.whole:
            top, error = found["eigenvalues"][0], float(self.arrays["residual_norms"][0])
            found["norm"] = _estimate(Estimate(top, top - error, top + error, how="Lanczos"))
        else:
            found["norm"] = self._number("norm", 1.0, of.spectral.norm, self.fast)
        size = self._number("frobenius_norm", 1.0, of.spectral.frobenius_norm, self.fast)
        found["frobenius_norm"] = size
        if size is not None and size["value"] is not None:
            ends = {"value": size["value"], "low": size["high"], "high": size["low"]}
            trace = found["trace"]["value"]
            ratios = {name: (trace / end) ** 2 if end else 0.0 for name, end in ends.items()}
            found["participation_ratio"] = size | ratios

    def _null(self, found: dict[str, Any], parameters: int) -> None:
        """The density, with as many probes as there is time for unless it is asked for."""
        ask = self.ask
        if ask.density is False:
            return
        with self.clock.free(bool(ask.density)):
            probes = ask.probes
            if not self.whole:
                probes = max(2, self.clock.fits(probes, ask.steps))
            vectors = probes * (min(ask.steps, self.K.shape[0]) + 6)
            if self._allowed("density", vectors, ": fewer --steps or --probes"):
                products = 0 if self.whole else probes * ask.steps
                work = partial(self._density, parameters, probes)
                hint = "--density, or more "
                null = self.clock.run("density", products, work, self.skipped, hint)
                if null is not None:
                    found |= {"null": null, "probes": probes}

    def _number(
        self, name: str, part: float, function: Callable[..., Any], *operands: Any
    ) -> dict[str, Any] | None:
        """A number that not every kernel has; if this one has none, it is said why."""
        products = 0 if self.whole else int(part * SCALARS)
        work = partial(function, *operands)
        try:
            found = self.clock.run(name, products, work, self.skipped, "more ")
        except ValueError as error:
            self.skipped[name] = str(error)
            return None
        if found is None:
            return None
        number = _estimate(found)
        if number["value"] is None:
            self.skipped[name] = "it is not finite"
        return number

    def _eigenpairs(self) -> dict[str, Any]:
        pairs = of.spectral.eigsh(
            self.fast,
            self.top,
            tol=TOL,
            memory=self.budget - self.held,
            how="factored",
            rng=self.ask.seed,
        )
        self.vectors = pairs.eigenvectors
        whole = self.K.space.gather(to_host(pairs.eigenvectors))
        self.arrays |= {
            "eigenvalues": pairs.eigenvalues,
            "residual_norms": pairs.residuals,
            "eigenvectors": whole,
        }
        from opflow.plot.spectra import fit_ranks, power_law

        ranks = fit_ranks(pairs.eigenvalues)
        law = None if ranks is None else power_law(pairs.eigenvalues, ranks)
        return {
            "eigenvalues": pairs.eigenvalues.tolist(),
            "largest_residual": float(pairs.residuals.max()),
            "converged": pairs.converged,
            "products": pairs.products,
            "how": f"{pairs.how.partition(',')[0]}, {self.how}",
            "power_law": law and ranks and [law.exponent, law.factor, *ranks, law.r2],
        }

    def _whole_or_estimate(self) -> str | None:
        """How a spectrum is had: all eigenvalues are out of the question where they do not fit."""
        held = WHOLE_BYTES * float(self.K.shape[0]) ** 2
        return None if self.whole or held <= self.budget - self.held else "estimate"

    def _density(self, parameters: int, probes: int) -> dict[str, Any]:
        rho = of.spectral.density(
            self.K if parameters < self.K.shape[0] else self.fast,
            log=True,
            probes=probes,
            steps=self.ask.steps,
            rng=self.ask.seed,
            how=self._whole_or_estimate(),
        )
        grid = rho.grid()
        low, high = rho.band(grid)
        below, above = rho.cdf_band(grid)
        null = np.array([float(rho.null), rho.null.low, rho.null.high, rho.order, rho.width])
        self.arrays |= {
            "grid": grid,
            "density": rho(grid),
            "density_low": low,
            "density_high": high,
            "cdf": rho.cdf(grid),
            "cdf_low": below,
            "cdf_high": above,
            "null": null,
        }
        return _estimate(rho.null)


def _drift(
    kernels: Mapping[str, Any],
    bases: Mapping[str, Any],
    arrays: Any,
    space: RowDistribution,
    clock: _Clock,
    skipped: dict[str, str],
) -> dict[str, Any]:
    before, after = kernels.values()
    found: dict[str, Any] = {}
    for name in ("kernel_distance", "kernel_alignment"):
        work = partial(getattr(of.spectral, name), before, after)
        number = clock.run(name, SCALARS if before.shape[0] > DENSE else 0, work, skipped, "more ")
        if number is not None:
            found[name] = _estimate(number)
    U, V = bases.values()
    if U is not None and V is not None and U.shape == V.shape:
        angles = np.sort(to_host(angles_between(U, V, space)).astype(np.float64))
        arrays["principal_angles"] = angles
        found["largest_angle"] = float(np.degrees(angles[-1]))
        found["median_angle"] = float(np.median(np.degrees(angles)))
    return found


def _heat_map(
    K: of.Operator, data: DataSet, arrays: dict[str, Any], budget: float, limit: float
) -> str:
    """Block means in an order that shows, or why there are none."""
    from opflow.plot import block_means, clustered

    outputs = data.targets.shape[1]
    seconds = of.machine_profile().seconds(dense_plan(K, budget).cost, K.dtype) / outputs
    if seconds > limit:
        return f"it takes about {duration(seconds)}, and {duration(limit)} are left: --heat-map"
    if data.labels is None:
        order = clustered(K, outputs=outputs)
    else:
        labels = to_host(data.labels)
        assert data.task is not None
        order = np.argsort(labels, kind="stable")
        arrays["heat_map_labels"] = data.task.classes[labels[order]]
    arrays["heat_map"] = block_means(K, order, outputs=outputs)
    arrays["heat_map_order"] = order
    return ""


def _json(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _estimate(value: Any) -> dict[str, Any]:
    """An estimate for JSON; plain numbers are exact."""
    value = value if isinstance(value, Estimate) else Estimate(value)
    return {
        "value": _json(value),
        "low": _json(value.low),
        "high": _json(value.high),
        "how": value.how,
        "products": value.products,
    }
