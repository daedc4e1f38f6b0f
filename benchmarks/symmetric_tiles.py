"""A symmetric matrix packed in half the memory against the full one: forming, products, memory.

``python -m benchmarks.symmetric_tiles [--orders 1000 3000 5000 10000] [--rounds 9]``.  Results are
compared before anything is timed.  Both forms take turns, and minima are told with medians after
them: other work on the machine only adds time.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import opflow as of

WAYS = ("dense", "packed")
COLUMNS = (1, 2, 8, 20, 40, 64)


def in_turn(calls: Sequence[Callable[[], Any]], rounds: int) -> list[str]:
    """Best and median milliseconds of each call, and the ratios of the last to the first."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - start))
    rows = [[which(found) for found in times] for which in (min, statistics.median)]
    shown = [f"{b:9.2f} ({m:9.2f})" for b, m in zip(*rows, strict=True)]
    return [*shown, *(f"{row[-1] / row[0]:5.2f}" for row in rows)]


def peak_of(call: Callable[[], Any]) -> float:
    """Megabytes at the peak of a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def measure(n: int, dtype: str, rounds: int) -> None:
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((n, width), dtype=dtype) for width in (64, 128))
    K = of.Hadamard(of.Gram(A), of.Gram(B))
    forming: list[Callable[[], Any]] = [lambda how=how: of.materialise(K, how=how) for how in WAYS]
    peaks = [peak_of(call) for call in forming]
    forms = [call() for call in forming]
    for threads in (1, 2):
        with threadpool_limits(threads), of.gate_options(threads=threads):
            title = f"{n:6} {dtype} {threads} thread(s)"
            print(f"{title} forming    ", *in_turn(forming, 3), flush=True)
            for columns in COLUMNS:
                X = rng.standard_normal((n, columns), dtype=dtype)
                full, packed = (form @ X for form in forms)
                np.testing.assert_allclose(packed, full, rtol=0, atol=1e-5 * abs(full).max())
                calls = [lambda form=form, X=X: form @ X for form in forms]
                print(f"{title} {columns:2} column(s)", *in_turn(calls, rounds), flush=True)
    print(f"{n:6} {dtype} peak, MB: " + ", ".join(f"{p:.0f}" for p in peaks), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, nargs="+", default=[1000, 3000, 5000, 10_000])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"numpy {np.__version__}: dense and packed, best (median) ms; ratios of both")
    for n in options.orders:
        for dtype in ("float32", "float64"):
            measure(n, dtype, options.rounds)


if __name__ == "__main__":
    main()
