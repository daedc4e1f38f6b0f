"""Routes of a training step against each other, side by side.

    python benchmarks/training_routes.py streamed     # N = 1,000,000, X on disk against in memory
    python benchmarks/training_routes.py sparse       # text-like data: sparse against dense

Each contender runs in turn (round robin); results are compared first.  `streamed` runs each
contender in a process of its own and reports the peak memory of the process.  Steps of torch and
JAX beside them, and the elimination of the first layer, are in ``python -m benchmarks.suite``.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def step_seconds(run) -> float:
    """Median time between moments, the first step left out."""
    return statistics.median(np.diff(run.observations["clock"][1:]))


def clock(moment) -> float:
    return time.perf_counter()


# -- X on disk ------------------------------------------------------------------------------


def streamed(args: argparse.Namespace) -> None:
    n, d = args.samples or 1_000_000, 64
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "X.npy"
        X = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
        rng = np.random.default_rng(0)
        for start in range(0, n, 10_000):
            stop = min(start + 10_000, n)
            X[start:stop] = rng.standard_normal((stop - start, d), dtype=np.float32)
        X.flush()
        del X
        times: dict[str, list[float]] = {"on disk": [], "in memory": []}
        peaks: dict[str, list[float]] = {"on disk": [], "in memory": []}
        ends = {}
        for _ in range(args.rounds):
            for how in times:
                out = subprocess.run(
                    [sys.executable, __file__, "one", str(path), how.replace(" ", "-")],
                    check=True, capture_output=True, text=True,
                ).stdout.split()  # fmt: skip
                times[how].append(float(out[0]))
                peaks[how].append(float(out[1]))
                ends[how] = out[2]
        if ends["on disk"] != ends["in memory"]:
            sys.exit("the two runs differ")
    print(f"N = {n:,}, d = {d}, widths [256], float32, 10 steps, {args.threads} threads")
    for how in times:
        print(f"   {how:10} {statistics.median(times[how]):7.3f} s a step, peak of the process "
              f"{max(peaks[how]) / 2**20:7.0f} MiB")  # fmt: skip
    ratios = [a / b for a, b in zip(times["on disk"], times["in memory"], strict=True)]
    print(f"   ratio {statistics.median(ratios):.3f} (median of {args.rounds} rounds)")


def one(path: str, how: str) -> None:
    """Ten steps in this process; prints seconds a step, peak bytes, the last loss."""
    import opflow as of

    X = np.load(path, mmap_mode="r")
    if how == "in-memory":
        X = np.array(X)
    y = np.sin(np.arange(X.shape[0], dtype=np.float32))
    net = of.ReLUNetwork.random([X.shape[1], 256], seed=0, dtype=np.float32)
    run = of.train(net, X, y, steps=10, observe=[clock])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(step_seconds(run), peak, float(run.losses[-1]).hex())


# -- sparse data ----------------------------------------------------------------------------


def sparse(args: argparse.Namespace) -> None:
    import tracemalloc

    import scipy.sparse as sp

    import opflow as of

    n, d, width = args.samples or 20_000, 200_000, 256
    rng = np.random.default_rng(0)
    # words by rank, Zipf: 0.1 % of the entries
    words = np.minimum(rng.zipf(1.2, size=(n, 5 * d // 2000)) - 1, d - 1)
    X = sp.csr_array(
        (np.ones(words.size, np.float32), words.ravel(), np.arange(n + 1) * words.shape[1]), (n, d)
    )
    X.sum_duplicates()
    X = sp.csr_array(X.multiply(1 / np.sqrt(X.multiply(X).sum(axis=1))[:, None]), dtype=np.float32)
    y = rng.standard_normal(n, dtype=np.float32)
    net = of.ReLUNetwork.random([d, width], scaling="standard", seed=0, dtype=np.float32)
    method = of.GradientDescent(step=1e-3)
    share = min(n, args.dense)  # the dense matrix of all rows may not fit: as many as are asked for
    few, dense = X[:share], [X[:share].toarray()]
    runs = {
        "sparse": lambda steps: of.train(net, few, y[:share], steps=steps, method=method,
                                         observe=[clock]),
        "dense": lambda steps: of.train(net, dense[0], y[:share], steps=steps, method=method,
                                        eliminate=False, observe=[clock]),
    }  # fmt: skip
    a, b = (run(1).residual for run in runs.values())
    error = np.linalg.norm(a - b) / np.linalg.norm(b)
    if not error < 1e-4:
        sys.exit(f"the two differ by {error:.1e}")
    times = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            times[name].append(step_seconds(run(3)))
    ratio = statistics.median(a / b for a, b in zip(times["dense"], times["sparse"], strict=True))
    print(f"N = {share:,} of {n:,}, d = {d:,}, {X.nnz / n / d:.2%} dense, widths [{width}], "
          f"float32, {args.threads} threads")  # fmt: skip
    for name, seconds in times.items():
        print(f"   {name:8} {statistics.median(seconds):7.3f} s a step")
    print(f"   dense over sparse {ratio:.1f}")
    dense.clear()
    tracemalloc.start()
    run = of.train(net, X, y, steps=2, method=method, observe=[clock])
    peak = tracemalloc.get_traced_memory()[1]
    mib = 2.0**20
    print(f"   all {n:,} rows: {step_seconds(run):.3f} s a step, route {run.route}; peak "
          f"{peak / mib:.0f} MiB beyond X ({(X.data.nbytes + X.indices.nbytes) / mib:.0f} MiB), "
          f"of which the final W¹ {net.weights[0].nbytes / mib:.0f}, a field "
          f"{n * width * 4 / mib:.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["streamed", "sparse"])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--dense", type=int, default=4_000, help="rows of the dense comparison")
    parser.add_argument("--folder", help="where the file of `streamed` is written")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    {"streamed": streamed, "sparse": sparse}[args.what](args)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(*sys.argv[2:])
    else:
        threads = "--threads"
        if threads in sys.argv:
            for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                if os.environ.get(variable) != sys.argv[sys.argv.index(threads) + 1]:
                    os.environ[variable] = sys.argv[sys.argv.index(threads) + 1]
                    os.execv(sys.executable, [sys.executable, *sys.argv])
        main()
