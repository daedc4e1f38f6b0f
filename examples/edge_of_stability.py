"""The edge of stability on the handwritten digits: eigenvalues of the Hessian along descent.

pip install '.[demo]' && python examples/edge_of_stability.py --out figures

Gradient descent of a fixed step s is stable while no eigenvalue of the Hessian exceeds 2/s.  At
first the largest one moves freely; then it rises to 2/s and hovers there, while the loss goes on
falling.  For three steps the table and the picture show it next to the largest eigenvalue of the
Gauss–Newton matrix, which leaves out the second derivatives of the outputs, and the smallest one.
Half a minute on one core; --quick is a small version.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import opflow as of
from opflow import plot

STEPS = (0.15, 0.25, 0.4)


def data(samples):
    """Centred pixels, and classes as one-hot targets."""
    digits = load_digits()
    X = digits.data[:samples] / 16.0
    return X - X.mean(axis=0), np.eye(10)[digits.target[:samples]]


def train(X, y, step, steps):
    net = of.ReLUNetwork.random(
        [64, 64, 64, 64], outputs=10, seed=0, bias=True, scaling="standard", readout_rate=1.0
    )
    watch = [of.observe.HessianEigenvalues(), of.observe.Sharpness(tol=1e-3, steps=60)]
    method = of.GradientDescent(step)
    return of.train(net, X, y, loss="mean", method=method, steps=steps, every=10, observe=watch)


def table(runs):
    lines = [
        f"{'step':>6}{'2/step':>9}{'Hessian':>20}{'Gauss–Newton':>15}{'smallest':>10}{'loss':>9}"
    ]
    for step, run in runs.items():
        ends = run.observations["hessian_eigenvalues"]
        late = slice(len(ends) // 2, None)
        top = f"{ends[late, 0].min():.2f} to {ends[late, 0].max():.2f}"
        lines.append(
            f"{step:6.2f}{2 / step:9.2f}{top:>20}{run.observations['sharpness'][-1]:15.2f}"
            f"{ends[-1, 1]:10.3f}{run.losses[-1]:9.4f}"
        )
    return "\n".join(lines)


def figure(runs):
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for (step, run), colour in zip(runs.items(), plot.COLOURS, strict=False):
        times = np.round(run.times / step)
        ends, gauss_newton = (run.observations[n] for n in ("hessian_eigenvalues", "sharpness"))
        left.plot(times, ends[:, 0], color=colour, label=f"Hessian, step {step}")
        left.plot(times, gauss_newton, ":", lw=2, color=colour, label="Gauss–Newton")
        left.axhline(2 / step, ls="--", lw=0.8, color=colour)
        middle.plot(times, ends[:, 1], color=colour, label=f"step {step}")
        right.semilogy(times, run.losses, color=colour, label=f"step {step}")
    left.set(title="Largest eigenvalue; dashed: 2/step", ylim=(0, 1.5 * 2 / min(runs)))
    middle.set(title="Smallest eigenvalue of the Hessian")
    middle.set_yscale("symlog", linthresh=0.1)
    right.set(title="Mean loss")
    for axes in (left, middle, right):
        axes.set(xlabel="steps of descent")
        axes.legend(fontsize=7, ncol=2 if axes is left else 1)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    X, y = data(100 if args.quick else 300)
    runs = {step: train(X, y, step, 30 if args.quick else 400) for step in STEPS}
    print(table(runs))
    path = args.out / "edge_of_stability.png"
    figure(runs).savefig(path, dpi=90)
    print(path)


if __name__ == "__main__":
    main()
