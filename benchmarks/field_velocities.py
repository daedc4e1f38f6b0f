"""All field velocities at once against one product with K: time and memory.

Both act on the same fields and residual; before timing, the stacked product is compared with
the compositions H_L and Ψ_1 layer by layer and with K itself.  Rounds alternate.

    python benchmarks/field_velocities.py                    # N = 20,000, d = 784, [512] * 3
    python benchmarks/field_velocities.py --dtype float64 --samples 5000
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import tracemalloc


def measure(args: argparse.Namespace) -> None:
    import numpy as np

    import opflow as of

    rng = np.random.default_rng(0)
    X = rng.standard_normal((args.samples, 784), dtype=np.float32).astype(args.dtype)
    r = rng.standard_normal(args.samples * args.outputs).astype(args.dtype)
    net = of.ReLUNetwork.random(
        [784, 512, 512, 512], outputs=args.outputs, scaling="standard", seed=0, dtype=args.dtype
    )
    fields = net.fields(X)
    K, V = of.collective_kernel(fields), of.hierarchy.field_velocities(fields, args.order)

    hidden, conjugate = of.hierarchy.split(fields, V @ r)
    tolerance = 1e-4 if args.dtype == "float32" else 1e-12

    def check(label: str, got: np.ndarray, want: np.ndarray) -> None:
        error = float(np.linalg.norm(got.ravel() - want.ravel()) / np.linalg.norm(want))
        if not error < tolerance:
            sys.exit(f"{label} differs by {error:.2e}")

    depth = net.depth
    check("H_L", hidden[-1], of.hierarchy.hidden_velocity(fields, depth, args.order) @ r)
    check("Ψ_1", conjugate[0], of.hierarchy.conjugate_velocity(fields, 1, args.order) @ r)
    if args.order is None:
        top = of.BlockDiagonal(fields.conjugates[-1])
        check("K from H_L", top @ hidden[-1].reshape(-1), K @ r)
    del hidden, conjugate

    times: dict[str, list[float]] = {"K": [], "velocities": []}
    for _ in range(args.rounds):
        for label, op in (("K", K), ("velocities", V)):
            time.sleep(0.2)
            start = time.perf_counter()
            op @ r
            times[label].append(time.perf_counter() - start)
    ratios = [v / k for v, k in zip(times["velocities"], times["K"], strict=True)]
    tracemalloc.start()
    product = V @ r
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    mib = 2.0**20
    print(f"N = {args.samples:,}, d = 784, widths [512, 512, 512], {args.outputs} outputs, "
          f"{args.dtype}, {args.threads} threads")  # fmt: skip
    print(f"   product with K        {1e3 * statistics.median(times['K']):8.1f} ms")
    print(f"   all field velocities  {1e3 * statistics.median(times['velocities']):8.1f} ms, "
          f"{statistics.median(ratios):.2f} times K (median of ratios)")  # fmt: skip
    print(f"   flops                 {V.cost().flops / K.cost().flops:8.2f} times K")
    print(f"   fields held           {fields.nbytes / mib:8.1f} MiB")
    print(f"   result                {product.nbytes / mib:8.1f} MiB")
    print(f"   peak beyond result    {(peak - product.nbytes) / mib:8.1f} MiB "
          f"({(peak - product.nbytes) / mib / depth:.1f} a layer)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--outputs", type=int, default=1)
    parser.add_argument("--order", type=int, default=None)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    measure(args)


if __name__ == "__main__":
    main()
