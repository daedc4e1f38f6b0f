"""examples/tomography.py at 64 × 64 and at 256 × 256: memory, time, decibels, products.

Each size runs in a process of its own, whose whole peak is shown; beyond 64 × 64 with 400 steps.
At 64 × 64 Gauss–Newton follows from the same start to the loss of descent, on filtered views and
on raw ones.

    python benchmarks/tomography.py --sizes 64 256
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

import opflow as of

SCRIPT = Path(__file__).parents[1] / "examples" / "tomography.py"


def measure(n: int) -> None:
    source = SCRIPT.read_text()
    assert source.count("\nn = 64\n") == source.count("steps=300") == 1
    if n > 64:
        source = source.replace("\nn = 64\n", f"\nn = {n}\n").replace("steps=300", "steps=400")
    names: dict[str, Any] = {"__name__": "tomography"}
    for cell in source.split("# %%")[:5]:  # the last trains
        start = time.perf_counter()
        exec(cell, names)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    run = names["run"]
    print(f"{n} x {n}: {names['d'].size:,} rays, {run.products} products in {seconds:.0f} s, "
          f"peak {peak:.2f} GiB", flush=True)  # fmt: skip
    decibels = names["decibels"]
    for name in ("backprojection", "smooth", "field"):
        image = names[name]
        inside = decibels(np.clip(image, 0, 1))
        print(f"  {name}: {decibels(image):.2f} dB, cut to [0, 1] {inside:.2f} dB", flush=True)
    if n == 64:
        compare(names)


def compare(names: dict[str, Any]) -> None:
    """Descent, and Gauss–Newton to its loss."""
    net, X = names["net"], names["X"]
    for views, A in {"filtered": names["A"], "raw": names["G"]}.items():
        data = names["d"] if views == "raw" else names["root"] @ names["d"]
        goal = 0.0  # below which a run stops
        for method in (names["method"], of.GaussNewton()):
            run = of.train(
                net, X, data, measurement=A, method=method, steps=300, memory="1GB",
                stop=lambda moment, goal=goal: moment.loss <= goal,
            )  # fmt: skip
            goal = run.losses[-1]
            print(f"  {views}, {method!r}: {run.products} products, loss {goal:.4g}, "
                  f"{names['decibels'](run.network(X)[:, 0]):.2f} dB", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    args = parser.parse_args()
    os.environ["MPLBACKEND"] = "Agg"
    for n in args.sizes:
        child = multiprocessing.get_context("spawn").Process(target=measure, args=(n,))
        child.start()
        child.join()


if __name__ == "__main__":
    main()
