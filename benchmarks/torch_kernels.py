"""Kernels of PyTorch modules: opflow against torch.func, curvlinops, NNGeometry, neural-tangents.

A product with the kernel of a ResNet-18 for images of 32 × 32 (BatchNorm in evaluation mode, one
output, float32), opflow in 4 GiB of resident memory; the 20 largest eigenvalues of a LeNet on
digits of scikit-learn, of the operator and of the dense kernel; products, dense kernels and
Gauss–Newton products of an MLP and a CNN with GELU, in float64, to 1e-10.  Every contender is a
process of its own and its result is compared before anything is timed; rounds take turns.

    pip install '.[bench,torch]' nngeometry scikit-learn
    python -m benchmarks.torch_kernels --quick                # tiny sizes: does everything work?
    python -m benchmarks.torch_kernels --rounds 3 --neural-tangents old/bin/python
    python -m benchmarks.suite --report                       # the page

The environment `old` has neural-tangents 0.6.5 and jax 0.4.23.  The ResNet takes minutes a product.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.suite import store
from benchmarks.suite.modules import shape, write
from benchmarks.suite.pool import ROOT, Cell, Options, Pool
from benchmarks.suite.run import measure

#: the task, the module, its samples, the dtype; of the ResNet the samples at a time and the memory
FULL = {
    "products, ResNet-18": ("module products", ("ResNet-18", 2_000, 50, "2.6GiB"), "float32"),
    "products, MLP": ("module products", ("MLP", 1_000), "float64"),
    "products, CNN": ("module products", ("CNN", 1_000), "float64"),
    "GGN, MLP": ("module GGN", ("MLP", 1_000), "float64"),
    "GGN, CNN": ("module GGN", ("CNN", 1_000), "float64"),
    "kernels, MLP": ("module kernels", ("MLP", 100), "float64"),
    "kernels, CNN": ("module kernels", ("CNN", 100), "float64"),
    "spectra, LeNet": ("module spectra", ("LeNet", 100), "float64"),
}
QUICK = {
    "products, ResNet-18": ("module products", ("small ResNet", 12, 5, None), "float32"),
    "GGN, CNN": ("module GGN", ("CNN", 12), "float64"),
    "kernels, CNN": ("module kernels", ("CNN", 12), "float64"),
    "spectra, LeNet": ("module spectra", ("LeNet", 12), "float64"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=FULL, help="these cells; all by default")
    add("--contenders", nargs="+", metavar="NAME", help="these beside opflow; all by default")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=2)
    add("--quick", action="store_true", help="tiny sizes, two rounds, results in runs/")
    add("--neural-tangents", metavar="PYTHON", help="an interpreter with neural-tangents")
    add("--results", type=Path, help="by default benchmarks/results.json")
    args = parser.parse_args()
    default = Path("runs/benchmarks.json") if args.quick else ROOT / "benchmarks" / "results.json"
    path = args.results or default
    rounds = 2 if args.quick else args.rounds
    options = Options(rounds, 1e9, float("inf"), args.contenders, args.neural_tangents, False)
    about = store.here(args.neural_tangents)
    failed = []
    for key, (task, what, dtype) in (QUICK if args.quick else FULL).items():
        if args.only and key not in args.only:
            continue
        name, N, *limits = what
        cell = Cell(task, name, shape(N, name, *limits), dtype, args.threads, 1)
        pool = Pool(options)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), cell.shape, dtype)
            try:
                found = measure(cell, Path(folder), pool)
            finally:
                pool.close()
        results = store.load(path)
        part = store.joined(results.get("modules", {"cells": {}}), about)
        part["cells"][key] = found
        store.save(path, results | {"modules": part})
        print(f"{key}: {found['shape']}")
        for name, median in found["median"].items():
            peak, before = (found[field][name] / 2**20 for field in ("peak", "resident"))
            print(f"  {name:20}{1e3 * median:12.2f} ms, set-up {found['set_up'][name]:.3g} s, peak "
                  f"{peak:,.0f} MiB, {before:,.0f} of them before, differs by "
                  f"{found['error'][name]:.1e}", flush=True)  # fmt: skip
        for name, reason in found["skipped"].items():
            print(f"  {name:20}not timed: {reason}", flush=True)
            failed += [f"{key}: {name}"] if "differs" in reason else []
    if failed:
        sys.exit("results differ: " + "; ".join(failed))


if __name__ == "__main__":
    main()
