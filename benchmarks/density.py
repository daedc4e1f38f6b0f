"""The density of the spectrum of K at an N where K is never formed: error bars, memory, time.

Lanczos quadrature on the collective kernel of a ReLU network
of Gaussian inputs.  Times are given as multiples of one product with one vector, timed in the same
run; the peak is that of the whole process, network, data and interpreter included.

    python benchmarks/density.py                            # N = 50,000, float32
    python benchmarks/density.py --samples 5000 --steps 60
    python benchmarks/density.py --samples 2000 --exact     # against LAPACK
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def peak() -> float:
    """GiB the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(rho: Any, grid: Any, exact: Any) -> None:
    low, high = rho.band(grid)
    below, above = rho.cdf_band(grid)
    title = f"   {'eigenvalue':>12}{'density':>11}{'95 % band':>23}{'at or below':>13}{'95 %':>19}"
    print(title + (f"{'exact':>11}{'exact':>9}" if exact is not None else ""))
    for i, (x, value, share) in enumerate(zip(grid, rho(grid), rho.cdf(grid), strict=True)):
        row = f"   {x:12.4g}{value:11.4g}   [{low[i]:8.4g}, {high[i]:8.4g}]{share:13.4f}"
        row += f"   [{below[i]:.4f}, {above[i]:.4f}]"
        if exact is not None:
            row += f"{exact(grid)[i]:11.4g}{exact.cdf(grid)[i]:9.4f}"
        print(row)


def measure(args: argparse.Namespace) -> None:
    import numpy as np

    import opflow as of
    from opflow.spectral.density.density import density

    n = args.samples
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, args.features), dtype=np.float32).astype(args.dtype)
    net = of.ReLUNetwork.random(
        [args.features, *args.widths], scaling="standard", seed=0, dtype=args.dtype
    )
    K = of.collective_kernel(net.fields(X))
    r = rng.standard_normal(n, dtype=np.float32).astype(args.dtype)
    block = rng.standard_normal((n, args.probes), dtype=np.float32).astype(args.dtype)
    K @ r
    one = statistics.median(timed(lambda: K @ r)[0] for _ in range(5))
    many = statistics.median(timed(lambda: K @ block)[0] for _ in range(3))
    print(
        f"\nN = {n:,}, d = {args.features}, widths {args.widths}, {args.dtype}, "
        f"{args.threads} threads\n"
        f"   one product with one vector   {1e3 * one:10.1f} ms\n"
        f"   one product with {args.probes:3} vectors  {1e3 * many:10.1f} ms"
        f" ({many / one:.1f} products)\n"
        f"   peak memory before            {peak():10.2f} GiB"
    )
    options = {"probes": args.probes, "log": not args.linear}
    methods: dict[str, Callable[[], Any]] = {
        "Lanczos quadrature": lambda: density(K, steps=args.steps, how="estimate", **options)
    }
    width = None
    for name, method in methods.items():
        seconds, rho = timed(method)
        width = width or rho.width
        blocks = rho.products / args.probes
        print(
            f"\n{name}: {seconds:.1f} s = {seconds / one:.0f} products with one vector, for "
            f"{rho.products} vectors in {blocks:.0f} blocks\n"
            f"   {100 * blocks * many / seconds:.0f} % of it is products; "
            f"peak memory of the process {peak():.2f} GiB\n   {rho!r}"
        )
        exact = None
        if args.exact:
            values = np.linalg.eigvalsh(K.todense().astype(np.float64))
            exact = density(np.diag(values), width=rho.width, how=None, log=rho.log)
        table(rho, rho.grid(15), exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--widths", type=int, nargs="+", default=[512])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--probes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--linear", action="store_true", help="a linear axis, not a log one")
    parser.add_argument("--exact", action="store_true", help="beside LAPACK (forms K)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    measure(args)


if __name__ == "__main__":
    main()
