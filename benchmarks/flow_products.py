"""Gradient flow to a fixed time: error against kernel products, method by method.

Digits, parity as the target (±1), float64.  The error is ‖r(T) − r_ref(T)‖/‖r(0)‖ against a
reference with a far smaller step, itself compared with a second one.  Residuals are kept in the
folder given, so that a run that was stopped goes on, and --plot draws what is there.

    python benchmarks/flow_products.py --keep runs            # all problems: some twenty minutes
    python benchmarks/flow_products.py --keep runs --only one-hidden
    python benchmarks/flow_products.py --keep runs --plot docs/figures/flow_products.png
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

#: hidden layers, outputs, scaling, λ_max·T at the start
PROBLEMS = {
    "one-hidden": (1, 1, "ntk", 2e3),
    "one-hidden-k10": (1, 10, "ntk", 2e3),
    "three-hidden": (3, 1, "ntk", 5e2),
}
TITLES = {
    "one-hidden": "one hidden layer of 256",
    "one-hidden-k10": "one hidden layer of 256, ten outputs",
    "three-hidden": "three hidden layers of 256",
}


def problem(name: str, samples: int) -> tuple[Any, Any, Any, float]:
    import numpy as np

    import opflow as of
    from opflow.data.load import load

    layers, outputs, scaling, reach = PROBLEMS[name]
    data = load("digits")
    X = np.ascontiguousarray(data.inputs[:samples])
    y = np.where(data.labels % 2 == 0, 1.0, -1.0)[:, None] if outputs == 1 else data.targets
    net = of.ReLUNetwork.random([64, *[256] * layers], outputs=outputs, scaling=scaling, seed=0)
    return net, X, np.ascontiguousarray(y[:samples]), reach


def measure(
    name: str, keep: Path, samples: int, references: bool, longer: float | None = None
) -> None:
    import numpy as np

    import opflow as of
    from opflow.spectral import largest_eigenvalue

    net, X, y, reach = problem(name, samples)
    folder = keep / name
    folder.mkdir(parents=True, exist_ok=True)

    def top(network: Any) -> float:
        return largest_eigenvalue(of.collective_kernel(network.fields(X)), tol=1e-3).value

    first = top(net)
    T = (longer or reach) / first

    def run(label: str, method: Any) -> Any:
        path = folder / f"{label}.npz"
        if not path.exists():
            result = of.train(net, X, y, method=method, until=T, every=10**9, eliminate=False)
            np.savez(path, residual=result.residual, products=result.products,
                     top=top(result.network))  # fmt: skip
            print(f"{name:24s} {label:24s} {result.products:7d} products", flush=True)
        return np.load(path)

    for tol in (1.0, 0.5, 0.25, 0.1, 0.04, 0.01, 1e-3):
        run(f"ExponentialFlow {tol:g}", of.ExponentialFlow(tol))
    for tol in (1.0, 0.25, 0.04, 0.01, 1e-3):
        run(f"GradientFlow {tol:g}", of.GradientFlow(tol))
    highest = max(first, max(float(np.load(p)["top"]) for p in folder.glob("*Flow*.npz")))
    if not (folder / "spectrum.npz").exists():
        order = X.shape[0] * net.outputs
        lowest = np.nan
        if order <= 2000:
            lowest = np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[0]
        np.savez(folder / "spectrum.npz", first=first, highest=highest, lowest=lowest,
                 start=np.linalg.norm(net(X) - y))  # fmt: skip
    highest = float(np.load(folder / "spectrum.npz")["highest"])
    run("GradientDescent 0.95", of.GradientDescent(0.95 * 2 / highest))
    if references:
        for part, label in ((0.5, "reference 2"), (0.25, "reference 1")):
            path = folder / f"{label}.npz"
            if not path.exists():
                residual, products = heun(net, X, y, T, math.ceil(T * highest / part))
                np.savez(path, residual=residual, products=products)
                print(f"{name:24s} {label:24s} {products:7d} products", flush=True)
    run("GradientDescent 0.5", of.GradientDescent(0.5 * 2 / highest))


def heun(net: Any, X: Any, y: Any, T: float, steps: int) -> tuple[Any, int]:
    """The residual by the second-order method of Heun in equal steps: none of the competitors."""
    import numpy as np

    from opflow.dynamics.first_layer import FirstLayer
    from opflow.dynamics.state import State

    now, spare = State(net, FirstLayer(X), y), np.empty_like(y)
    for _ in range(steps):
        _, slope = now.loss_and_velocity(spare)
        _, ahead = now.moved(slope, T / steps).loss_and_velocity(spare)
        mean = [(a + b) / 2 for a, b in zip(slope, ahead, strict=True)]
        now = now.moved(mean, T / steps)
    now.loss_and_velocity(spare)
    return spare, 2 * steps + 1


def report(keep: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    import numpy as np

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name in PROBLEMS:
        folder = keep / name
        if not (folder / "reference 1.npz").exists():
            continue
        spectrum = np.load(folder / "spectrum.npz")
        reference = np.load(folder / "reference 1.npz")["residual"]
        start = float(spectrum["start"])
        first, highest = float(spectrum["first"]), float(spectrum["highest"])
        left = float(np.linalg.norm(reference)) / start
        print(
            f"{name}: λ_max {first:.4g} (at most {highest:.4g} in the run), condition "
            f"{first / float(spectrum['lowest']):.3g}, ‖r(T)‖/‖r(0)‖ {left:.3g}"
        )
        curves[name] = {}
        for path in folder.glob("* *.npz"):
            data = np.load(path)
            if path.stem == "reference 1":
                continue
            error = float(np.linalg.norm(data["residual"] - reference)) / start
            curves[name].setdefault(path.stem.split()[0], []).append((int(data["products"]), error))
        for method, points in sorted(curves[name].items()):
            for products, error in sorted(points):
                print(f"   {method:16s} {products:7d} products   error {error:.2e}")
    return curves


def plot(curves: dict[str, dict[str, list[tuple[int, float]]]], path: str) -> None:
    from matplotlib.figure import Figure

    from opflow.plot import COLOURS

    figure = Figure(figsize=(4.2 * len(curves), 3.9), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    styles = {"GradientDescent": ("o", 0), "GradientFlow": ("s", 2), "ExponentialFlow": ("^", 1)}
    for ax, (name, methods) in zip(axes, curves.items(), strict=True):
        for method, (marker, colour) in styles.items():
            points = sorted(methods[method])
            ax.loglog(*zip(*points, strict=True), marker + "-", color=COLOURS[colour], ms=5, lw=1.3,
                      label=method)  # fmt: skip
        doubt = methods["reference"][0][1]
        ax.axhline(doubt, color="0.6", lw=1, ls=":")
        ax.annotate(
            "difference of two references",
            (1, doubt),
            (0, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color="0.4",
        )
        ax.set(title=TITLES[name], xlabel="kernel products")
        low, high = ax.get_xlim()
        ticks = [t for t in (50, 100, 200, 500, 1000, 2000, 5000, 10_000) if low <= t <= high]
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.set_xticks([], minor=True)
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", alpha=0.25, linewidth=0.6)
    axes[0].set_ylabel("error of r(T) / ‖r(0)‖")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, required=True, help="folder of residuals")
    parser.add_argument("--only", choices=list(PROBLEMS), action="append")
    parser.add_argument("--samples", type=int, default=1797)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--reach", type=float, help="λ_max·T, in a folder of its own")
    parser.add_argument("--no-references", action="store_true")
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    if args.plot is None:
        for name in args.only or PROBLEMS:
            measure(name, args.keep, args.samples, not args.no_references, args.reach)
    curves = report(args.keep)
    if args.plot is not None:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
