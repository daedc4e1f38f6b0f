"""Cells of the benchmark: their contenders compared first, then timed in turn, round by round.

A cell is a task on a workload in a dtype, on so many threads, of so many vectors.  Every contender
is a process of its own, and only one works at a time.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.pool import ROOT, Cell, Options, Pool, Skipped, Worker
from benchmarks.suite.problems import write

#: how far a result may be from opflow's: the gates are shared, so rounding is all there is
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}
#: ways of the cost model are measured if within this of the best for 1, 20 or 200 products
WITHIN = 4.0
#: of the memory must be free for one contender more beside those of the cell
SPARE = 0.2


def measure(cell: Cell, folder: Path, pool: Pool) -> dict[str, Any]:
    """One cell; `folder` holds its problem."""
    options, found = pool.options, _head(cell)
    names = wanted(cell, options)
    if cell.task == "products":
        within = 1.0 if options.quick else WITHIN
        found |= _ways(cell, folder, pool.worker(cell, "opflow"))
        names[1:1] = [f"opflow, {how}" for how in worth_measuring(found["predicted"], within)]
    workers: dict[str, Worker] = {}
    for name in names:
        if reason := left_out(cell, name):
            found["skipped"][name] = reason
        else:
            workers[name] = pool.worker(cell, name)
            workers[name].tell(f"load {folder}")  # all import at once

    def each(work: Callable[[str, Worker], None], names: Any = None) -> None:
        """`work` with workers; those that fail end, and the results say why."""
        for name in list(workers if names is None else names):
            try:
                work(name, workers[name])
            except Skipped as reason:
                if name == "opflow":
                    raise SystemExit(f"{cell.key}: opflow cannot be timed: {reason}") from None
                found["skipped"][name] = str(reason)
                for field in ("times", "set_up", "first_set_up", "first"):
                    found[field].pop(name, None)
                del workers[name]
                pool.end(name)

    each(lambda name, worker: _loaded(found, name, worker))
    spare = 0.0 if options.quick else SPARE
    each(lambda name, worker: _prepare(found, name, worker, cell, spare))
    spent = dict.fromkeys(workers, 0.0)
    for number in range(options.rounds):
        if number and time.monotonic() > options.deadline:
            break
        patient = [name for name in workers if not number or spent[name] < options.patience]
        each(lambda name, worker: _round(found, spent, name, worker),
             patient[:: -1 if number % 2 else 1])  # fmt: skip
    each(lambda name, worker: found["peak"].update({name: worker.ask("peak")["peak"]}))
    pool.rest()
    return _with_medians(found)


def wanted(cell: Cell, options: Options) -> list[str]:
    """The contenders of a cell, opflow first: the others are held to its result."""
    return [
        name
        for name in CONTENDERS[cell.task]
        if name == "opflow" or not options.contenders or name in options.contenders
        if (cell.columns > 1 and not options.quick) or not name.endswith(", loop")
        if not options.quick or name != "torch.compile"  # which takes half a minute
    ]


def worth_measuring(predicted: dict[str, dict[str, float]], within: float = WITHIN) -> list[str]:
    """Ways but the factored one that the cost model does not think hopeless."""
    best = {
        count: min(way[count] for way in predicted.values() if count in way)
        for count in next(iter(predicted.values()))
    }
    return [
        how
        for how, way in predicted.items()
        if how != "factored" and any(way[c] <= within * best[c] for c in way)
    ]


def left_out(cell: Cell, name: str) -> str | None:
    """Why a contender is not even started: its Jacobians would not fit."""
    if name != "torch.func":
        return None
    need = 2.0 * cell.shape.N * cell.shape.parameters * np.dtype(cell.dtype).itemsize
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need <= 0.8 * have:
        return None
    return f"its Jacobians take {need / 2e9:.0f} GB, and half of what it holds is workspace"


def _head(cell: Cell) -> dict[str, Any]:
    shape = cell.shape
    about = {"N": shape.N, "d": shape.d, "widths": list(shape.widths)}
    about |= {"parameters": shape.parameters, "date": date.today().isoformat()}
    fields = ("times", "set_up", "first_set_up", "first", "error", "resident", "peak", "skipped")
    return {**cell._asdict(), **about, **{field: {} for field in fields}, "shape": str(shape)}


def _ways(cell: Cell, folder: Path, worker: Worker) -> dict[str, Any]:
    try:
        worker.ask(f"load {folder}")
        return worker.ask("ways")
    except Skipped as reason:
        raise SystemExit(f"{cell.key}: opflow's cost model fails: {reason}") from None


def _loaded(found: dict[str, Any], name: str, worker: Worker) -> None:
    found["resident"][name] = worker.hear()["resident"]


def _prepare(
    found: dict[str, Any], name: str, worker: Worker, cell: Cell, spare: float = 0.0
) -> None:
    if (left := memory_left()) < spare:
        raise Skipped(f"{left:.0%} of the memory were left beside the other contenders")
    told = worker.ask("prepare")
    file = Path(told["result"])
    reference = file.with_name("reference.npy")
    if name == "opflow":
        os.replace(file, reference)
        file = reference
    error = relative_error(np.load(file), np.load(reference))
    found["error"][name] = error
    if not error < TOLERANCE[cell.dtype]:
        raise Skipped(f"its result differs from opflow's by {error:.1e}")
    if name != "opflow":
        file.unlink()
    for field in ("set_up", "first_set_up", "first"):
        found[field][name] = told[field]


def memory_left() -> float:
    """The share of the machine's memory that is free; all of it, where that is not told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1.0
    known = {name: float(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return known["MemAvailable"] / known["MemTotal"]


def relative_error(result: Any, reference: Any) -> float:
    """In the 2-norm, relative; infinite for another shape."""
    if result.shape != reference.shape:
        return float("inf")
    return float(np.linalg.norm(result - reference) / np.linalg.norm(reference))


def _round(found: dict[str, Any], spent: dict[str, float], name: str, worker: Worker) -> None:
    start = time.monotonic()
    found["times"].setdefault(name, []).append(worker.ask("round")["seconds"])
    spent[name] += time.monotonic() - start


def _with_medians(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"median": {name: statistics.median(t) for name, t in found["times"].items()}}


def start_up(cell: Cell, folder: Path, pool: Pool) -> dict[str, Any]:
    """Imports, and from an imported library to the first product: fresh processes each round."""
    found, options = _head(cell), pool.options
    modules = {"opflow": "opflow; opflow.train", "pylops": "pylops"}  # a name, to import all
    modules |= {"torch": "torch.func", "JAX": "jax"}
    names = wanted(cell, options)
    for number in range(1 if options.quick else options.rounds):
        if number and time.monotonic() > options.deadline:
            break
        for label, module in modules.items():
            if options.contenders and label not in ("opflow", "pylops", *options.contenders):
                continue
            code = f"import time; s = time.perf_counter(); import {module}; "
            done = subprocess.run(
                [sys.executable, "-c", code + "print(time.perf_counter() - s)"],
                capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
            if done.returncode:
                found["skipped"][f"import {label}"] = done.stderr.strip().rpartition("\n")[2]
            else:
                times = found["times"].setdefault(f"import {label}", [])
                times.append(float(done.stdout))
        for name in [name for name in names if name not in found["skipped"]]:
            worker = pool.worker(cell, name)
            try:
                worker.tell(f"load {folder}")
                _loaded(found, name, worker)
                _prepare(found, name, worker, cell)
            except Skipped as reason:
                found["skipped"][name] = str(reason)
                continue
            finally:
                pool.end(name)
            first = found["first_set_up"][name] + found["first"][name]
            found["times"].setdefault(f"first product, {name}", []).append(first)
    return _with_medians(found)


def run(cells: list[Cell], options: Options) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measure cells in order until the deadline; each is yielded as soon as it is done."""
    pool, held, folder = Pool(options), None, Path()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for cell in cells:
                if time.monotonic() > options.deadline:
                    return
                problem = (cell.shape, cell.dtype, cell.columns, cell.task == "steps")
                if problem != held:
                    if held:
                        shutil.rmtree(folder)
                    folder = Path(tempfile.mkdtemp(dir=scratch))
                    write(folder, *problem)
                    held = problem
                work = start_up if cell.task == "start" else measure
                yield cell, work(cell, folder, pool)
                if cell.task in ("dense", "scaling") and not options.quick:
                    pool.close()  # the memory of these is reported: no arrays of before
        finally:
            pool.close()
