"""opflow on a GPU against torch.func, torch.compile and JAX there, and rows streamed to it.

    python -m benchmarks.gpu FOLDER                # FOLDER/gpu.json, four minutes
    python -m benchmarks.gpu FOLDER --rehearse     # on the emulator of CuPy and on the CPU, tiny
    python -m benchmarks.gpu FOLDER --tests FOLDER/suite.xml    # adds what pytest reported

``.ci/gpu`` runs this after the tests on the device.  Every library is a process of its own, which
serves all cells: importing them takes seconds.  What takes too long is ended and skipped, and the
file is written after each cell.  The contenders are those of :mod:`benchmarks.suite`; their results
stay on the GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_library import LIBRARIES, Library
from benchmarks.suite import contenders, store
from benchmarks.suite.problems import WORKLOADS, Problem, Shape, write
from benchmarks.suite.run import TOLERANCE, relative_error

CONTENDERS = {
    "products": ["opflow", "torch jvp∘vjp", "torch linearize", "JAX linearize"],
    "steps": ["opflow", "torch", "torch.compile", "JAX"],
    "dense": ["opflow", "torch.func"],
    "eigenpairs": ["opflow", "torch linearize, eigsh of CuPy"],
}
#: eigenpairs, their tolerance, and how far from opflow's eigenvalues those of others may be
PAIRS, TOL, NEAR = 8, {"float32": 1e-4, "float64": 1e-7}, 10
#: samples up to which the dense kernel is formed
DENSE = 10_000
#: seconds that a contender may take in a cell, and from which it is timed only once
PATIENCE, LONG = 30.0, 1.0
TINY = {"W1": Shape(20, 6, (8,)), "W3": Shape(24, 6, (8, 7, 6))}
#: X of the streamed run, and the limit of CuPy's memory pool in bytes
STREAMED, LIMIT = Shape(400_000, 784, (512,)), 512 << 20
STREAMED_TINY, LIMIT_TINY = Shape(40_000, 60, (8,)), 4 << 20


# -- in the process of a library ---------------------------------------------------------------


class DeviceProblem(Problem):
    """A problem whose arrays are on the device for opflow; other contenders move their own."""

    def __init__(self, folder: str, library: Library, rehearse: bool) -> None:
        super().__init__(folder, threads=1)
        self.folder = Path(folder)
        self.device, self.backend = ("cpu", "eager") if rehearse else ("cuda", "inductor")
        for name in ("X", "readout", "r", "y"):
            setattr(self, name, library.put(getattr(self, name)))
        self.weights = [library.put(W) for W in self.weights]


def eigenpairs(p: Problem) -> Any:
    """The largest, from the network and the data, as :func:`of.spectral.eigsh` finds them."""
    import opflow as of

    net = of.ReLUNetwork(p.weights, p.readout)

    def call() -> Any:
        K = of.collective_kernel(net.fields(p.X))
        return of.spectral.eigsh(K, PAIRS, tol=TOL[p.dtype.name] / 3).eigenvalues

    return lambda: call


def peer_eigenpairs(p: DeviceProblem) -> Any:
    """CuPy's Lanczos on products of torch, or SciPy's on the CPU."""
    from benchmarks.suite.with_torch import _torch

    torch, f, weights, _ = _torch(p)
    on_host, tol = p.device == "cpu", TOL[p.dtype.name]
    xp = importlib.import_module("numpy" if on_host else "cupy")
    sla = importlib.import_module(f"{'scipy' if on_host else 'cupyx.scipy'}.sparse.linalg")
    if not on_host:
        tol *= float(np.load(p.folder / "eigenpairs.npy")[0])  # CuPy's is absolute

    def call() -> Any:
        pull, push = torch.func.vjp(f, weights)[1], torch.func.linearize(f, weights)[1]
        op = sla.LinearOperator(
            (len(p.X), len(p.X)), dtype=p.dtype,
            matvec=lambda x: xp.from_dlpack(push(pull(torch.from_dlpack(x.reshape(-1)))[0])),
        )  # fmt: skip
        return xp.sort(sla.eigsh(op, k=PAIRS, tol=tol)[0])[::-1]

    return lambda: call


def measure(
    library: Library, problem: DeviceProblem, task: str, name: str, quick: bool
) -> dict[str, Any]:
    """One contender of a cell: its result compared with opflow's, then seconds and memory."""
    if task == "eigenpairs":
        set_up = (eigenpairs if name == "opflow" else peer_eigenpairs)(problem)
    else:
        set_up = contenders.contender(task, name)(problem)
    need = 2.0 * problem.dtype.itemsize * len(problem.X) * sum(W.size for W in problem.weights)
    if name == "torch.func" and need > 0.8 * library.free():
        raise MemoryError(f"its Jacobians take {need / 2e9:.0f} GB, and as much for workspace")
    held = library.forget_peak()
    told: dict[str, Any] = {}
    told["set_up"], call = library.seconds(set_up)
    once: Callable[[], Any] = partial(call, 3) if task == "steps" else call
    told["first"], result = library.seconds(once)
    result = result[0] if task == "steps" else result
    if task == "dense":  # a sample of it is compared
        stride = -(-len(problem.X) // 512)
        result = result[::stride, ::stride]
    told["error"] = compared(library.host(result), task, name, problem)
    del result
    took = told["first"] if told["first"] > 4 * LONG else library.seconds(once)[0]
    rounds = 1 if quick or took > LONG else 3
    if task == "steps":
        more = int(min(max(0.6 / took, 4), 40)) if not quick else 2
        pairs = [[library.seconds(partial(call, n))[0] for n in (2, 2 + more)]
                 for _ in range(rounds)]  # fmt: skip
        times = [max(b - a, 0.0) / more for a, b in pairs]
    else:
        repeats = int(min(max(0.1 / took, 1), 200)) if not quick else 1

        def several() -> Any:
            for _ in range(repeats):
                last = call()
            return last

        times = [library.seconds(several)[0] / repeats for _ in range(rounds)]
    peak = library.peak()
    return told | {"times": times, "peak": None if peak is None else max(peak - held, 0)}


def compared(result: Any, task: str, name: str, problem: DeviceProblem) -> float:
    """How far a result is from opflow's; an error if too far."""
    file, dtype = problem.folder / f"{task}.npy", problem.dtype.name
    if name == "opflow":
        np.save(file, result)
    elif not file.exists():
        raise RuntimeError("there is no result of opflow to compare with")
    error = relative_error(result, np.load(file))
    if not error < (NEAR * TOL[dtype] if task == "eigenpairs" else TOLERANCE[dtype]):
        raise RuntimeError(f"its result differs from opflow's by {error:.1e}")
    return error


def streamed(library: Library, rehearse: bool) -> dict[str, Any]:
    """Steps on an X larger than the limit of the memory pool, beside computing and moving alone."""
    import opflow as of

    shape, limit = (STREAMED_TINY, LIMIT_TINY) if rehearse else (STREAMED, LIMIT)
    xp, steps = library.module, 3
    X = np.random.default_rng(0).standard_normal((shape.N, shape.d), dtype=np.float32)
    net = of.ReLUNetwork.random([shape.d, *shape.widths], seed=0, dtype="float32").to("gpu")
    y = xp.asarray(X[:, 0])

    def step(rows: Any) -> tuple[float, Any]:
        method = of.GradientDescent(step=1e-3 / shape.N)

        def run(count: int) -> Any:
            return of.train(net, rows, y, steps=count, method=method, eliminate=False)

        run(1)
        start, whole = library.seconds(partial(run, 1))[0], library.seconds(partial(run, 1 + steps))
        return (whole[0] - start) / steps, whole[1].losses[-1]

    found: dict[str, Any] = {"shape": str(shape), "bytes": X.nbytes, "limit": limit}
    found["on device"], loss = step(xp.asarray(X))
    library.forget_peak()
    pool = xp.get_default_memory_pool()
    pool.set_limit(size=limit)
    try:
        found["streamed"], same = step(of.Streamed(X))
        found["peak"] = library.peak()
    finally:
        pool.set_limit(size=0)
    found["error"] = abs(float(same) / float(loss) - 1)
    found["bus"], found["to page-locked"] = moved(xp, X)
    return found


def moved(xp: Any, X: Any) -> tuple[float, float]:
    """Seconds in which X moves from page-locked memory, and from its own into that."""
    from cupyx import empty_pinned

    rows = max(1, min(len(X), (32 << 20) // X[0].nbytes))
    buffer, block = (make((rows, X.shape[1]), dtype=X.dtype) for make in (empty_pinned, xp.empty))
    stream, times = xp.cuda.Stream(non_blocking=True), [0.0, 0.0]
    stream.wait_event(xp.cuda.get_current_stream().record(xp.cuda.Event()))
    for start in range(0, len(X) - rows + 1, rows):
        before = time.perf_counter()
        buffer[...] = X[start : start + rows]
        between = time.perf_counter()
        block.set(buffer, stream=stream)
        stream.synchronize()
        times[0] += time.perf_counter() - between
        times[1] += between - before
    whole = len(X) / (len(X) // rows * rows)
    return times[0] * whole, times[1] * whole


def serve(pipe: Any, name: str, rehearse: bool) -> None:
    """Answer requests until there are no more."""
    library: Library | None = None
    problem: Any = None
    while True:
        asked = pipe.recv()
        try:
            library = library or LIBRARIES[name](rehearse)
            if asked[0] == "about":
                told = library.about()
            elif asked[0] == "streamed":
                told = streamed(library, rehearse)
            else:
                task, contender, folder = asked
                if problem is None or problem.folder != Path(folder):
                    problem = None  # the memory of the one before
                    problem = DeviceProblem(folder, library, rehearse)
                told = measure(library, problem, task, contender, rehearse)
        except Exception as error:
            traceback.print_exc()
            first = (str(error).strip().splitlines() or [""])[0]
            told = {"skip": f"{type(error).__name__}: {first[:200]}"}
        if library:
            library.clear()
        pipe.send(told)


# -- in the process that asks ------------------------------------------------------------------


class Server:
    """The process of a library, started again after its end."""

    def __init__(self, name: str, rehearse: bool) -> None:
        self.name, self.rehearse = name, rehearse
        self.process: Any = None

    def ask(self, *what: str, seconds: float) -> dict[str, Any]:
        context = multiprocessing.get_context("spawn")
        if self.process is None:
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(
                target=serve, args=(theirs, self.name, self.rehearse), daemon=True
            )
            self.process.start()
            theirs.close()
            seconds += PATIENCE  # imports
        try:
            self.pipe.send(what)
            if self.pipe.poll(seconds):
                return self.pipe.recv()
            reason = f"it took more than {seconds:.0f} s"
        except (EOFError, OSError):
            reason = "its process ended"
        self.end()
        return {"skip": reason}

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def prepared(folder: str, shape: Shape, dtype: str) -> str:
    """Write a problem, with a step of descent that is stable."""
    import opflow as of

    path = Path(folder)
    path.mkdir()
    write(path, shape, dtype, 1, False)
    p = Problem(path, threads=1)
    few = of.collective_kernel(of.ReLUNetwork(p.weights, p.readout).fields(p.X[:64])).todense()
    about = json.loads((path / "problem.json").read_text())
    about["step"] = float(1 / (shape.N * np.trace(few) / len(few)))
    (path / "problem.json").write_text(json.dumps(about))
    return folder


def cells(rehearse: bool) -> list[tuple[str, Shape, str]]:
    """Workloads and tenfold ones in float32, then in float64; the rehearsal takes half of them."""
    base = TINY if rehearse else WORKLOADS
    tenfold = {f"{name}×10": shape._replace(N=10 * shape.N) for name, shape in base.items()}
    groups = [(base, "float32"), (tenfold, "float32"), (base, "float64"), (tenfold, "float64")]
    return [(name, shape, dtype) for group, dtype in groups[:: 3 if rehearse else 1]
            for name, shape in group.items()]  # fmt: skip


def run(path: Path, rehearse: bool, deadline: float) -> None:
    """Measure what there is time for, and write the file after each cell."""
    servers = {name: Server(name, rehearse) for name in LIBRARIES}

    def ask(name: str, *what: str, most: float = PATIENCE) -> dict[str, Any]:
        left = deadline - time.monotonic()
        if left < 1:
            return {"skip": "no time was left"}
        return servers[name].ask(*what, seconds=min(left, most))

    results = store.here() | {"cells": {}, "date": date.today().isoformat(), "rehearsal": rehearse}
    results["libraries"] = {name: ask(name, "about") for name in servers}
    results["streamed"] = ask("opflow", "streamed", most=2 * PATIENCE)
    print(json.dumps({name: results[name] for name in ("libraries", "streamed")}), flush=True)
    wanted = cells(rehearse)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(1) as ahead:

        def prepare(i: int) -> Any:
            if i < len(wanted) and time.monotonic() < deadline:
                return ahead.submit(prepared, f"{scratch}/{i}", *wanted[i][1:])

        coming = prepare(0)
        for i, (workload, shape, dtype) in enumerate(wanted):
            folder, coming = coming and coming.result(), prepare(i + 1)
            for task, names in CONTENDERS.items():
                if task == "dense" and shape.N > DENSE:
                    continue
                fields = ("median", "times", "set_up", "first", "error", "peak", "skipped")
                cell: dict[str, Any] = {field: {} for field in fields}
                cell |= {"task": task, "workload": workload, "dtype": dtype}
                cell |= {"N": shape.N, "shape": str(shape)}
                for name in names:
                    if name == "torch.compile" and ("×" in workload or dtype == "float64"):
                        continue  # compilation takes too long
                    told = ask(name.replace(".", " ").split()[0], task, name, folder)
                    if "skip" in told:
                        cell["skipped"][name] = told["skip"]
                        continue
                    cell["median"][name] = statistics.median(told["times"])
                    for field, value in told.items():
                        cell[field][name] = value
                results["cells"][f"{task}/{workload}/{dtype}"] = cell
                store.save(path, results)
                print(f"{task} {workload} {dtype}:", json.dumps(cell["median"]),
                      json.dumps(cell["skipped"], ensure_ascii=False), flush=True)  # fmt: skip
            shutil.rmtree(folder or scratch + "/none", ignore_errors=True)
    for server in servers.values():
        server.end()


def reported(files: list[Path]) -> dict[str, Any]:
    """Numbers of tests, and the first lines of failures, of JUnit's files."""
    found: dict[str, Any] = {}
    for file in files:
        if not file.exists():
            found[file.stem] = {"skip": "it did not end in time"}
            continue
        suites = list(ElementTree.parse(file).iter("testsuite"))
        counts = {key: sum(int(s.get(key, 0)) for s in suites)
                  for key in ("tests", "failures", "errors", "skipped")}  # fmt: skip
        failed = {
            f"{case.get('classname')}::{case.get('name')}": (bad.get("message") or "")[:300]
            for case in (c for s in suites for c in s.iter("testcase"))
            for bad in [*case.iter("failure"), *case.iter("error")]
        }
        found[file.stem] = counts | {"failed": failed}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, default=230.0, help="no measurement after these")
    parser.add_argument("--tests", type=Path, nargs="+", help="JUnit files to add, and no more")
    args = parser.parse_args()
    path = args.folder / "gpu.json"
    if args.tests:
        store.save(path, store.load(path) | {"tests": reported(args.tests)})
        return
    os.environ.update(CUPY_PYLOPS="0", TORCH_PYLOPS="0", JAX_PYLOPS="0")  # of this process
    run(path, args.rehearse, time.monotonic() + args.seconds)


if __name__ == "__main__":
    main()
