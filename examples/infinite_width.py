"""How fast kernels of finite networks approach that of infinite width, on the handwritten digits.

pip install '.[demo]' && python examples/infinite_width.py --out figures

A table of the relative distance |K_n - K∞| / |K∞| over widths n from 64 to 8,192, with the exponent
that fits it, for networks of one to three layers; the eigenvalues of some of these kernels; and a
kernel regression with K∞ that tells even digits from odd.  Two minutes on two cores; --quick is a
small version.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import opflow as of
from opflow import plot

CASES = {
    "1 layer": {"slope": [0.0]},
    "2 layers": {"slope": [0.0, 0.0]},
    "3 layers": {"slope": [0.0, 0.0, 0.0]},
    "2 leaky, trained readout": {"slope": [0.3, 0.3], "readout_rate": "auto"},
}


def network(width, seed, options, inputs):
    widths = [inputs, *[width] * len(options["slope"])]
    return of.ReLUNetwork.random(widths, seed=seed, dtype=np.float32, **options)


def distances(X, widths, seeds, options):
    """Of every width, the distances from the limit for every seed; and one kernel."""
    limit = of.infinite_width(network(1, 0, options, X.shape[1]), X).todense()
    found, kernels = [], {}
    for width in widths:
        row = []
        for seed in range(seeds):
            K = of.collective_kernel(network(width, seed, options, X.shape[1]).fields(X)).todense()
            row.append(np.linalg.norm(K - limit) / np.linalg.norm(limit))
        found.append(row)
        kernels[f"{width:,} units"] = K
    return np.array(found), kernels | {"infinite": limit}


def table(widths, found):
    """Mean distances, and the exponent of the width that fits them."""
    lines = ["width   " + "".join(f"{name:>26}" for name in found)]
    means = {name: d.mean(axis=1) for name, d in found.items()}
    for i, width in enumerate(widths):
        lines.append(f"{width:<8,}" + "".join(f"{m[i]:26.4f}" for m in means.values()))
    powers = [np.polyfit(np.log(widths), np.log(m), 1)[0] for m in means.values()]
    lines.append("exponent" + "".join(f"{power:26.2f}" for power in powers))
    return "\n".join(lines)


def figure(widths, found, kernels):
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, d), colour in zip(found.items(), plot.COLOURS, strict=False):
        left.loglog(widths, d.mean(axis=1), "o-", color=colour, label=name)
        left.fill_between(widths, d.min(axis=1), d.max(axis=1), color=colour, alpha=0.2, lw=0)
    line = found["1 layer"].mean() * (np.array(widths) / np.sqrt(widths[0] * widths[-1])) ** -0.5
    left.loglog(widths, line, "--", color=plot.ROLES["predicted"], label="n^(-1/2)")
    left.set(xlabel="width n", ylabel="|K_n - K∞| / |K∞|", title="Distance from infinite width")
    left.legend(fontsize=8)
    chosen = [*list(kernels)[:: max(1, len(kernels) // 3)], "infinite"]
    values = {name: np.linalg.eigvalsh(kernels[name].astype(float)) for name in chosen}
    plot.eigenvalues(values, right)
    right.set_title("Eigenvalues, 2 layers")
    return figure


def regression(X, y, seen):
    """The share of unseen digits that a kernel regression with K∞ tells right."""
    net = network(1, 0, CASES["2 layers"], X.shape[1])
    K = of.materialise(of.infinite_width(net, X[:seen]), how="dense")
    fit = of.spectral.kernel_regression(K, y[:seen], 1e-2, how="direct")
    f = fit.predict(of.infinite_width(net, X[seen:], X[:seen]))
    return float(((f > 0) == (y[seen:] > 0)).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    X = (digits.data / 16.0).astype(np.float32)
    X -= X.mean(axis=0)
    y = np.where(digits.target % 2 == 0, 1, -1).astype(np.float32)

    widths = [2**i for i in range(6, 9 if args.quick else 14)]
    found, kernels = {}, {}
    for name, options in CASES.items():
        found[name], kernels[name] = distances(X[:48], widths, 2 if args.quick else 5, options)
    print(table(widths, found))
    path = args.out / "infinite_width.png"
    figure(widths, found, kernels["2 layers"]).savefig(path, dpi=90)
    print(path)
    right = regression(X, y, 300 if args.quick else 1200)
    print(f"kernel regression with K∞: {100 * right:.1f} % of the other digits told right")


if __name__ == "__main__":
    main()
