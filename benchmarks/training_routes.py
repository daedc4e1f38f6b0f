"""Routes of a training step against each other and against autodiff frameworks, side by side.

    python benchmarks/training_routes.py streamed     # N = 1,000,000, X on disk against in memory
    python benchmarks/training_routes.py eliminated   # d = 100,000: the Gram against torch and JAX
    python benchmarks/training_routes.py sparse       # text-like data: sparse against dense

Each contender runs in turn (round robin); results are compared first.  `streamed` runs each
contender in a process of its own and reports the peak memory of the process; torch and JAX are
timed where they are installed (``pip install 'opflow[bench]'``).
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


# -- elimination ----------------------------------------------------------------------------


def eliminated(args: argparse.Namespace) -> None:
    import opflow as of

    n, d, width = args.samples or 1_000, 100_000, 256
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype=np.float32) / np.float32(d**0.5)
    y = rng.standard_normal(n, dtype=np.float32)
    net = of.ReLUNetwork.random([d, width], scaling="standard", seed=0, dtype=np.float32)
    net = net.replace([net.weights[0] * np.float32((d / 2) ** 0.5)])
    step = 0.05
    method = of.GradientDescent(step=step)
    contenders = {}
    for name, yes in (("opflow, weights", False), ("opflow, eliminated", True)):
        contenders[name] = lambda yes=yes: of.train(
            net, X, y, steps=3, method=method, eliminate=yes
        ).residual[:, 0]
    contenders |= frameworks(net, X, y, step, args.threads)
    want = contenders["opflow, weights"]()
    for name, run in contenders.items():
        error = np.linalg.norm(run() - want) / np.linalg.norm(want)
        if not error < 1e-4:
            sys.exit(f"{name} differs by {error:.1e}")
        print(f"   {name:22} the same residual after 3 steps to {error:.0e}")
    steps = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, run in contenders.items():
            if name.startswith("opflow"):
                found = of.train(net, X, y, steps=40 if "elim" in name else 3, method=method,
                                 eliminate="elim" in name, observe=[clock])  # fmt: skip
                steps[name].append(step_seconds(found))
            else:
                steps[name].append(run(timed=True))
    print(f"N = {n:,}, d = {d:,}, widths [{width}], float32, {args.threads} threads, a step:")
    best = statistics.median(steps["opflow, eliminated"])
    for name, seconds in steps.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, steps["opflow, eliminated"],
                                                        strict=True))  # fmt: skip
        print(f"   {name:22} {1e3 * statistics.median(seconds):9.2f} ms  {ratio:8.1f} times")
    start = time.perf_counter()
    found = of.train(net, X, y, steps=1, method=method, eliminate=True, observe=[clock])
    set_up = found.observations["clock"][0] - start
    print(f"   set-up of the elimination (the Gram, h¹) {set_up:.2f} s: {set_up / best:.0f} steps")


def frameworks(net, X, y, step, threads) -> dict:
    """Full-batch steps of torch and JAX: ``run()`` the residual after 3, ``run(timed=True)`` s."""
    found = {}
    try:
        import torch
    except ImportError:
        print("   torch is not installed")
    else:
        torch.set_num_threads(threads)
        Xt, yt, V = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(net.readout)

        def with_torch(timed=False):
            W = torch.from_numpy(net.weights[0].copy()).requires_grad_()
            optimiser = torch.optim.SGD([W], lr=step)
            seconds = []
            for _ in range(4 if timed else 3):
                start = time.perf_counter()
                optimiser.zero_grad()
                r = (torch.relu(Xt @ W.T) @ V.T)[:, 0] - yt
                (0.5 * (r**2).sum()).backward()
                optimiser.step()
                seconds.append(time.perf_counter() - start)
            if timed:
                return statistics.median(seconds[1:])
            with torch.no_grad():
                return ((torch.relu(Xt @ W.T) @ V.T)[:, 0] - yt).numpy()

        found["torch"] = with_torch
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        print("   JAX is not installed")
    else:
        Xj, yj, Vj = jnp.asarray(X), jnp.asarray(y), jnp.asarray(net.readout)

        def residual(W):
            return (jax.nn.relu(Xj @ W.T) @ Vj.T)[:, 0] - yj

        update = jax.jit(lambda W: W - step * jax.grad(lambda W: 0.5 * (residual(W) ** 2).sum())(W))

        def with_jax(timed=False):
            W = jnp.asarray(net.weights[0])
            seconds = []
            for _ in range(4 if timed else 3):
                start = time.perf_counter()
                W = update(W).block_until_ready()
                seconds.append(time.perf_counter() - start)
            return statistics.median(seconds[1:]) if timed else np.asarray(residual(W))

        found["JAX"] = with_jax
    return found


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
    parser.add_argument("what", choices=["streamed", "eliminated", "sparse"])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--dense", type=int, default=4_000, help="rows of the dense comparison")
    parser.add_argument("--folder", help="where the file of `streamed` is written")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    {"streamed": streamed, "eliminated": eliminated, "sparse": sparse}[args.what](args)


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
