"""How steady a product with K is from process to process: W1 in float32 against its bare GEMMs.

    python benchmarks/steadiness.py --processes 50

Each process checks the product, then times it and the two GEMMs of the same shapes in turn, and
takes medians.  Printed are quantiles over processes of GEMMs / opflow, with the page faults and
the context switches of a product.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time


def measure(rounds: int) -> dict[str, float]:
    import numpy as np

    import opflow as of

    rng = np.random.default_rng(0)
    X, r = (rng.standard_normal(shape, dtype=np.float32) for shape in ((2000, 784), 2000))
    net = of.ReLUNetwork.random([784, 512], seed=0, dtype=np.float32)
    fields = net.fields(X)
    K, (phi,) = of.collective_kernel(fields), fields.conjugates
    G, out = np.empty((512, 784), np.float32), np.empty((2000, 512), np.float32)
    assert np.allclose(K @ r, net.rates[0] * (phi * (X @ ((phi.T * r) @ X).T)).sum(1), rtol=1e-3)

    def gemms() -> None:
        np.matmul(phi.T, X, out=G)
        np.matmul(X, G.T, out=out)

    times: dict[str, list[float]] = {"opflow": [], "gemms": []}
    counts = np.zeros(3)
    for _ in range(rounds):
        for name, call in (("opflow", lambda: K @ r), ("gemms", gemms)):
            time.sleep(0.2)  # idle BLAS threads busy-wait for 0.12 s
            before = resource.getrusage(resource.RUSAGE_SELF)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_SELF)
            if name == "opflow":
                for i, what in enumerate(("ru_minflt", "ru_nvcsw", "ru_nivcsw")):
                    counts[i] += getattr(after, what) - getattr(before, what)
    ours, theirs = (statistics.median(times[name]) for name in ("opflow", "gemms"))
    return {
        "ratio": theirs / ours,
        "ms": 1e3 * ours,
        **dict(zip("fvi", counts / rounds, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.rounds)))
        return
    command = [sys.executable, __file__, "--one", "--rounds", str(args.rounds)]
    found = []
    for _ in range(args.processes):
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        found.append(json.loads(done.stdout))
        print(f"{found[-1]['ratio']:.2f}", end=" ", flush=True)
    print()
    ratios = sorted(one["ratio"] for one in found)
    at = [ratios[round(q * (len(ratios) - 1))] for q in (0.0, 0.1, 0.5, 0.9, 1.0)]
    print("GEMMs / opflow: " + "  ".join(f"{q:.2f}" for q in at) + "  (0, 10, 50, 90, 100 %)")
    for name, what in (("f", "page faults"), ("v", "waits"), ("i", "preemptions")):
        print(f"{what} of a product: {statistics.median(one[name] for one in found):.1f}")


if __name__ == "__main__":
    main()
