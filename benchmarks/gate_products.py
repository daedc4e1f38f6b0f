"""A product with the kernel of one hidden layer against the two bare GEMMs it would take.

K r = J (Jᵀ r) is two products of gates with X.  The yardstick is the two matrix products of the
factored form, on whole preallocated arrays, with nothing else: NumPy's BLAS at its best.  The
contender is ``K @ r`` as anyone calls it.  Results are compared first; then both are timed in
turn, each after a pause, since an idle thread of OpenBLAS spins for some milliseconds and would
take a core from whatever follows it ("after BLAS" times the product without that pause).  Ratios
are medians over medians; ``cpu`` is the same in processor time, which a busy machine blurs less.

    python benchmarks/gate_products.py              # W1 and W2, both dtypes, 1 and 2 threads
    python benchmarks/gate_products.py --workloads W4 W5 --rounds 5 --json gates.json

W4 and W5 stand here for the first layer of those networks alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

WORKLOADS = {
    "W1": (2_000, 784, 512),
    "W2": (20_000, 784, 512),
    "W4": (4_000, 3_072, 1024),
    "W5": (100_000, 64, 256),
}
PAUSE = 0.06


def measure(name: str, dtype: str, threads: int, rounds: int) -> dict[str, Any]:
    """One workload in this process, whose BLAS has `threads` threads."""
    import numpy as np

    import opflow as of

    N, d, n = WORKLOADS[name]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, d)).astype(dtype)
    r = rng.standard_normal(N).astype(dtype)
    network = of.ReLUNetwork.random([d, n], scaling="standard", seed=1, dtype=np.dtype(dtype))
    fields = network.fields(X)
    phi = fields.conjugates[0]
    with of.gate_options(of.gate_engines()[0], threads=threads):
        K = of.collective_kernel(fields)
        step = r[:, None] * phi
        gradient, pushed = np.empty((n, d), dtype), np.empty((N, n), dtype)

        def gemms() -> None:
            np.matmul(step.T, X, out=gradient)
            np.matmul(X, gradient.T, out=pushed)

        def product() -> Any:
            return K @ r

        gemms()
        plain = np.einsum("un,un->u", phi, pushed)
        error = float(np.abs(product() - plain).max() / np.abs(plain).max())
        if error > 100 * np.finfo(dtype).eps:
            raise SystemExit(f"{name} {dtype}: the results differ by {error:.1e}")

        calls: dict[str, Callable] = {"gemms": gemms, "product": product}
        wall: dict[str, list[float]] = {key: [] for key in (*calls, "after BLAS")}
        cpu: dict[str, list[float]] = {key: [] for key in calls}
        repeats = max(1, int(2e10 // (4.0 * N * d * n)))
        for _ in range(rounds):
            for key, call in calls.items():
                time.sleep(PAUSE)
                call()
                start, used = time.perf_counter(), time.process_time()
                for _ in range(repeats):
                    call()
                wall[key].append((time.perf_counter() - start) / repeats)
                cpu[key].append((time.process_time() - used) / repeats)
            gemms()
            start = time.perf_counter()
            product()
            wall["after BLAS"].append(time.perf_counter() - start)
    flops = 4.0 * N * d * n
    middle = {key: statistics.median(times) for key, times in wall.items()}
    return {
        "workload": name,
        "dtype": dtype,
        "threads": threads,
        "engine": of.gate_engines()[0],
        "error": error,
        "milliseconds": {key: 1e3 * value for key, value in middle.items()},
        "gflops": {key: 1e-9 * flops / value for key, value in middle.items()},
        "ratio": middle["gemms"] / middle["product"],
        "ratio_of_minima": min(wall["gemms"]) / min(wall["product"]),
        "ratio_after_blas": middle["gemms"] / middle["after BLAS"],
        "ratio_of_cpu": statistics.median(cpu["gemms"]) / statistics.median(cpu["product"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["W1", "W2"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="a file to write the figures to")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:  # in a process of its own, whose BLAS was given its threads
        found = measure(args.workloads[0], args.dtypes[0], args.threads[0], args.rounds)
        print(json.dumps(found))
        return
    print(f"{'':17}{'threads':>8}{'GEMMs':>9}{'K @ r':>9}  GFLOP/s of 4Ndn"
          f"{'ratio':>9}{'minima':>8}{'cpu':>7}{'after BLAS':>12}")  # fmt: skip
    results = []
    for name in args.workloads:
        for dtype in args.dtypes:
            for threads in args.threads:
                limits = dict.fromkeys(
                    ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), str(threads)
                )
                command = [sys.executable, __file__, "--here", "--rounds", str(args.rounds)]
                command += ["--workloads", name, "--dtypes", dtype, "--threads", str(threads)]
                ran = subprocess.run(
                    command, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True
                )
                row = json.loads(ran.stdout)
                results.append(row)
                rates = row["gflops"]
                print(f"{name:4}{dtype:13}{threads:8}{rates['gemms']:9.0f}{rates['product']:9.0f}"
                      f"{'':17}{row['ratio']:9.2f}{row['ratio_of_minima']:8.2f}"
                      f"{row['ratio_of_cpu']:7.2f}{row['ratio_after_blas']:12.2f}",
                      flush=True)  # fmt: skip
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
