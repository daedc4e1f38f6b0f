"""Two ranks of one thread against one process of two threads, on the same samples.

A product with K and a step of gradient descent at N = 100,000, d = 64, widths [256, 256].  Every
measurement is a launch of its own, for ranks that wait would take cores from a process beside
them; launches alternate, and ratios are medians over medians.  The results are compared first.
Memory is what a process holds at its peak beyond what the imports take; bytes are those of the
sums that a rank takes part in.

    python benchmarks/sharded.py
    python benchmarks/sharded.py --samples 20000 --dtypes float64 --rounds 3 --json sharded.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTHS, PRODUCTS, STEPS = [64, 256, 256], 12, 6


def peak() -> int:
    """Bytes that this process has held at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure(folder: Path, dtype: str) -> None:
    """Times of this process, or of all ranks, into the folder."""
    import numpy as np

    import opflow as of

    comm, rank, ranks = None, 0, 1
    if int(os.environ.get("PMI_SIZE", "1")) > 1:
        from mpi4py import MPI

        comm, rank, ranks = MPI.COMM_WORLD, MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    before = peak()
    X = np.load(folder / f"X-{dtype}.npy", mmap_mode="r")
    n = X.shape[0]
    mine = slice(n * rank // ranks, n * (rank + 1) // ranks)
    X = np.array(X[mine])
    r = np.load(folder / f"r-{dtype}.npy", mmap_mode="r")[mine].copy()
    network = of.ReLUNetwork.random(WIDTHS, seed=0, dtype=np.dtype(dtype))
    K = of.collective_kernel(network.fields(X, comm=comm))

    def timed(work: Callable[[], Any], repeat: int) -> float:
        work()
        seconds = []
        for _ in range(repeat):
            if comm is not None:
                comm.Barrier()
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    image = K @ r
    found = {"product": timed(lambda: K @ r, PRODUCTS)}
    if comm is not None:
        sent = K.space.bytes
        K @ r
        found |= {"bytes": K.space.bytes - sent, "weights": network.parameters * r.itemsize}
    found["memory"] = peak() - before
    marks: list[float] = []

    def mark(moment: Any) -> float:
        marks.append(time.perf_counter())
        return 0.0

    mark.name = "mark"  # type: ignore[attr-defined]
    run = of.train(network, X, r, method=of.GradientDescent(1e-7), steps=STEPS, observe=[mark],
                   eliminate=False, comm=comm)  # fmt: skip
    found["step"] = statistics.median(b - a for a, b in itertools.pairwise(marks[1:]))
    found["loss"] = float(run.losses[-1])
    np.save(folder / f"image-{dtype}-{ranks}-{rank}.npy", image)
    (folder / f"times-{ranks}-{rank}.json").write_text(json.dumps(found))


def launch(folder: Path, dtype: str, ranks: int, threads: int) -> dict[str, Any]:
    """One launch: the slowest rank's times, the largest memory."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    start = [str(mpiexec), "-n", str(ranks)] if ranks > 1 else []
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPFLOW_NUM_THREADS")
    subprocess.run(
        [*start, sys.executable, __file__, "--measure", str(folder), dtype],
        env=os.environ | dict.fromkeys(names, str(threads)), check=True,
    )  # fmt: skip
    found = [json.loads((folder / f"times-{ranks}-{i}.json").read_text()) for i in range(ranks)]
    return {name: max(f[name] for f in found) for name in found[0]}


def main() -> None:
    """Alternate the launches, compare, and tell the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(Path(args.measure[0]), args.measure[1])
        return
    import numpy as np

    results: dict[str, Any] = {"samples": args.samples, "widths": WIDTHS, "rounds": args.rounds}
    for dtype in args.dtypes:
        with tempfile.TemporaryDirectory() as name:
            folder, rng = Path(name), np.random.default_rng(0)
            np.save(folder / f"X-{dtype}.npy", rng.standard_normal((args.samples, WIDTHS[0]))
                    .astype(dtype))  # fmt: skip
            np.save(folder / f"r-{dtype}.npy", rng.standard_normal(args.samples).astype(dtype))
            rounds = [
                (launch(folder, dtype, 1, 2), launch(folder, dtype, 2, 1))
                for _ in range(args.rounds)
            ]
            parts = [np.load(folder / f"image-{dtype}-2-{i}.npy") for i in range(2)]
            whole = np.load(folder / f"image-{dtype}-1-0.npy")
            error = float(abs(np.concatenate(parts) - whole).max() / abs(whole).max())
        assert error < (1e-4 if dtype == "float32" else 1e-12), error
        one, two = (
            {key: statistics.median(r[i][key] for r in rounds) for key in rounds[0][i]}
            for i in (0, 1)
        )
        results[dtype] = {"one process": one, "two ranks": two, "error": error}
        print(
            f"{dtype}: speed of two ranks, one process being 1: product "
            f"{one['product'] / two['product']:.2f} ({1e3 * one['product']:.0f} and "
            f"{1e3 * two['product']:.0f} ms), step {one['step'] / two['step']:.2f} "
            f"({1e3 * one['step']:.0f} and {1e3 * two['step']:.0f} ms); memory a rank "
            f"{two['memory'] / one['memory']:.2f} ({two['memory'] / 2**20:.0f} MiB); "
            f"{two['bytes']:.0f} bytes a product for weights of {two['weights']:.0f}"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
