"""opflow against every peer that is installed, in processes of their own, results compared first.

    python -m benchmarks.suite --quick                        # tiny sizes: does everything work?
    python -m benchmarks.suite --tasks products --workloads W1 W2 --budget-seconds 600
    python -m benchmarks.suite --report                       # the page and its figures

A run adds cells to the JSON file after each is measured, and measures none that is there (unless
it is told to, with --again): a run that was cut short goes on with the same command.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.suite import store
from benchmarks.suite.pool import ROOT, Cell, Options
from benchmarks.suite.problems import FULL, QUICK
from benchmarks.suite.run import run


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add = parser.add_argument
    add("--tasks", nargs="+", choices=FULL, default=list(FULL))
    add("--workloads", nargs="+", metavar="W", help="of those of the tasks, by name")
    add("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    add("--threads", nargs="+", type=int, default=sorted({1, min(2, cores or 1)}, reverse=True))
    add("--columns", nargs="+", type=int, default=[1, 16], help="vectors of a product")
    add("--contenders", nargs="+", metavar="NAME", help="these beside opflow; all by default")
    add("--rounds", type=int, default=5)
    add("--patience", type=float, default=20.0,
        help="seconds of rounds after which a contender has no more")  # fmt: skip
    add("--budget-seconds", type=float, default=float("inf"), help="no new cell after these")
    add("--again", action="store_true", help="measure cells that are in the file anew")
    add("--quick", action="store_true", help="tiny sizes, two rounds, results in runs/")
    add("--neural-tangents", metavar="PYTHON",
        help="an interpreter with neural-tangents and a JAX of its time")  # fmt: skip
    add("--results", type=Path, help="by default benchmarks/results.json")
    add("--report", action="store_true", help="write the page of the results, and measure nothing")
    add("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    args = parser.parse_args()
    default = Path("runs/benchmarks.json") if args.quick else ROOT / "benchmarks" / "results.json"
    args.results = args.results or default
    return args


def cells(args: argparse.Namespace) -> list[Cell]:
    """What was asked for, in the order in which processes are shared."""
    found = []
    for task in args.tasks:
        alone = task in ("dense", "scaling", "start")  # float32 and all threads say enough
        shapes = (QUICK if args.quick else FULL)[task]
        for threads in [max(args.threads)] if alone else args.threads:
            for name in args.workloads or shapes:
                for dtype in args.dtypes[:1] if alone else args.dtypes:
                    for columns in args.columns if task == "products" else [1]:
                        if name in shapes:
                            cell = Cell(task, name, shapes[name], dtype, threads, columns)
                            found.append(cell)
    return found


def main() -> None:
    args = parsed()
    if args.report:
        from benchmarks.suite import report, report_gpu

        gpu = report_gpu.load(ROOT / "benchmarks" / "gpu.json")
        report.publish(store.load(args.results), args.page, gpu)
        return
    if args.quick:
        args.dtypes, args.rounds = args.dtypes[:1], min(args.rounds, 2)
        args.threads, args.columns = [1], args.columns[-1:]
    options = Options(args.rounds, args.patience, time.monotonic() + args.budget_seconds,
                      args.contenders, args.neural_tangents, args.quick)  # fmt: skip
    results = store.joined(store.load(args.results), store.here(args.neural_tangents))
    todo = [cell for cell in cells(args) if args.again or cell.key not in results["cells"]]
    differing, start = [], time.monotonic()
    for number, (cell, found) in enumerate(run(todo, options), 1):
        results["cells"][cell.key] = found
        store.save(args.results, results)
        print(f"{time.monotonic() - start:6.0f} s  {number} of {len(todo)}: {cell.key}")
        for name, median in sorted(found["median"].items(), key=lambda item: item[1]):
            print(f"{'':10}{name:32}{1e3 * median:12.3f} ms  {len(found['times'][name])} rounds")
        for name, reason in found["skipped"].items():
            print(f"{'':10}{name:32}not timed: {reason}", flush=True)
            differing += [f"{cell.key}: {name}"] if "differs" in reason else []
    if differing:
        sys.exit("results differ: " + "; ".join(differing))


if __name__ == "__main__":
    main()
