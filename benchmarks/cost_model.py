"""What the cost model predicts against what is measured, and whether it chose the fastest.

For each problem every candidate of ``materialise`` is built, its products are compared with the
factored ones, and set-up and products are timed (medians, round robin).  Printed are predicted
and measured seconds of the whole work, and how much slower than the fastest the choice was.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --only W3 sparse --rounds 7 --cpu

The workloads W1 to W5 with one output are in ``python -m benchmarks.suite``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

clock = time.perf_counter

#: N, d, widths, outputs, dtype, products, columns
KERNELS = {
    "W3 small": (4_000, 784, [512, 512, 512], 1, "float32", 3, 1),
    "W3 outputs": (2_000, 784, [512, 512], 10, "float32", 20, 1),
    "W4 outputs": (2_000, 3_072, [1024, 1024], 4, "float32", 12, 1),
    "wide inputs": (1_000, 20_000, [256], 1, "float32", 20, 1),
    "wide outputs": (1_000, 20_000, [256], 10, "float32", 20, 1),
    "small": (300, 50, [64, 64], 1, "float64", 50, 1),
}
#: N, d, density (1 for a dense array), dtype, products, columns: Grams of inputs
GRAMS = {
    "inputs wide": (1_000, 50_000, 1.0, "float32", 20, 256),
    "inputs square": (4_000, 784, 1.0, "float32", 20, 256),
    "inputs tall": (20_000, 100, 1.0, "float32", 3, 256),
    "sparse text": (8_000, 100_000, 1e-3, "float32", 10, 64),
    "sparse text few": (8_000, 100_000, 1e-3, "float32", 1, 64),
    "sparse short": (2_000, 100_000, 1e-3, "float32", 20, 256),
    "sparse thin": (20_000, 20_000, 2e-4, "float32", 10, 8),
}


def problem(name: str):
    import numpy as np
    import scipy.sparse as sp

    import opflow as of

    rng = np.random.default_rng(0)
    if name in KERNELS:
        n, d, widths, outputs, dtype, products, columns = KERNELS[name]
        X = rng.standard_normal((n, d), dtype=np.float32).astype(dtype)
        net = of.ReLUNetwork.random([d, *widths], outputs=outputs, seed=0, dtype=dtype)
        return of.collective_kernel(net.fields(X), route="cached"), products, columns
    n, d, density, dtype, products, columns = GRAMS[name]
    if density == 1:
        X = rng.standard_normal((n, d), dtype=np.float32).astype(dtype)
    else:
        X = sp.random(n, d, density, format="csr", dtype=dtype, random_state=rng)
    return of.Gram(X), products, columns


def timed(work) -> tuple[float, object]:
    start = clock()
    result = work()
    return clock() - start, result


def measure(name: str, rounds: int) -> float:
    import numpy as np

    import opflow as of

    op, products, columns = problem(name)
    forms = of.candidates(op, products, columns)
    x = np.random.default_rng(1).standard_normal((op.shape[1], columns)).astype(op.dtype)
    reference = op @ x
    tolerance = 2e-4 if op.dtype == np.float32 else 1e-11
    setups: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    built = {}
    slow = {form.how for form in forms if form.product > 50 * op.cost(columns).flops}
    for form in forms:
        if not form.fits or form.how in slow:
            continue
        setup, built[form.how] = timed(lambda how=form.how: of.materialise(op, how=how))
        error = np.linalg.norm(built[form.how] @ x - reference) / np.linalg.norm(reference)
        if not error < tolerance:
            sys.exit(f"{name}: {form.how} differs from factored by {error:.2e}")
        setups[form.how], times[form.how] = [setup], []
        if setup < 2:
            setups[form.how] += [
                timed(lambda how=form.how: of.materialise(op, how=how))[0] for _ in range(2)
            ]
    for _ in range(rounds):
        for how, form_op in built.items():
            times[how].append(timed(lambda form_op=form_op: form_op @ x)[0])
    total = {
        how: statistics.median(setups[how]) + products * statistics.median(times[how])
        for how in built
    }
    chosen = next(form.how for form in forms if form.fits)
    best = min(total, key=total.__getitem__)
    print(f"\n{name}: {products} products of {columns} columns, {op.shape[0]:,} rows, {op.dtype}")
    print(f"   {'':10}{'set-up, s':>22}{'a product, ms':>22}{'in all, s':>22}")
    print(f"   {'':10}" + 3 * f"{'predicted':>11}{'measured':>11}")
    rates = of.machine_profile()
    for form in forms:
        if form.how not in total:
            print(f"   {form.how:10}{'not measured':>22}{'':22}{form.seconds:11.3g}")
            continue
        mark = "  <- chosen" if form.how == chosen else "  <- fastest" if form.how == best else ""
        product = 1e3 * rates.seconds(built[form.how].cost(columns), op.dtype)
        setup = max(0.0, form.seconds - products * product / 1e3)
        print(
            f"   {form.how:10}{setup:11.3g}{statistics.median(setups[form.how]):11.3g}"
            f"{product:11.3g}{1e3 * statistics.median(times[form.how]):11.3g}"
            f"{form.seconds:11.3g}{total[form.how]:11.3g}{mark}"
        )
    return total[chosen] / total[best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*KERNELS, *GRAMS]
    parser.add_argument("--only", nargs="+", help="problems whose name starts with one of these")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cpu", action="store_true", help="processor time of one thread, if the machine is busy"
    )
    args = parser.parse_args()
    if args.cpu:
        global clock
        clock, args.threads = time.process_time, 1
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    import opflow as of

    print(of.machine_profile())
    wanted = [n for n in names if not args.only or n.startswith(tuple(args.only))]
    ratios = {name: measure(name, args.rounds) for name in wanted}
    print("\nthe choice against the fastest (1 is the fastest):")
    for name, ratio in ratios.items():
        print(f"   {name:18}{ratio:6.2f}")


if __name__ == "__main__":
    main()
