"""Error bars, leave-one-out residuals and influences of a kernel regression, on the diabetes data.

pip install '.[demo]' && python examples/uncertainty.py --out figures

A Gaussian process with the tangent kernel of infinitely wide networks, or with that of a finite one
around its initial function (--width 1000), learns the progress of a disease in 442 patients from
ten numbers each.  The kernel's scale and the noise maximise the marginal likelihood.  A table says
how often intervals hold the targets of 142 held-out patients, and which training patients move the
predictions most; a picture shows these, and the learning curve that the kernel's eigenvalues
predict.  A few seconds.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn.datasets import load_diabetes

import opflow as of
from opflow import plot

LEVELS = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])


def data(seed, held_out):
    """Standardised inputs and targets, training samples first; and how many these are."""
    table = load_diabetes()
    order = np.random.default_rng(seed).permutation(len(table.target))
    X, y = table.data[order], table.target[order]
    seen = len(y) - held_out
    X = (X - X[:seen].mean(axis=0)) / X[:seen].std(axis=0)
    return X, (y - y[:seen].mean()) / y[:seen].std(), seen


def kernels(X, y, seen, width):
    """K(X, X), K(X*, X), the diagonal of K(X*, X*), and what the prior's mean leaves of y."""
    old, new = X[:seen], X[seen:]
    if not width:
        net = of.ReLUNetwork.random([X.shape[1], 1, 1], seed=0)
        K, cross = of.infinite_width(net, old), of.infinite_width(net, new, old)
        return K, cross, of.infinite_width(net, new).diagonal(), y
    net = of.ReLUNetwork.random([X.shape[1], width, width], seed=0)
    fields, others = net.fields(old), net.fields(new)
    prior = of.collective_kernel(others).diagonal()
    cross = of.cross_kernel(others, fields)
    return of.collective_kernel(fields), cross, prior, y - net(X)[:, 0]


def scale_and_noise(K, y):
    """c and σ² with which c·K and σ² maximise the marginal likelihood; c given σ²/c is explicit."""

    def process(ratio):
        c = y @ of.spectral.posterior(K, y, ratio).coefficients / len(y)
        return c, of.spectral.posterior(c * K, y, c * ratio)

    def loss(power):
        return -process(np.exp(power))[1].log_marginal_likelihood

    top = float(np.log(K.trace() / len(y)))
    ratio = np.exp(minimize_scalar(loss, bounds=(top - 10, top + 5), method="bounded").x)
    return process(ratio)[0], process(ratio)[0] * ratio


def coverage(errors, deviations):
    """How often intervals of the LEVELS hold the targets."""
    return [float((np.abs(errors) <= norm.ppf((1 + q) / 2) * deviations).mean()) for q in LEVELS]


def curve(K, y, ridge, seeds=20):
    """Sizes of training sets drawn from these samples, errors on all of them, and predictions."""
    pairs = of.spectral.eigh(K)
    values, overlaps = pairs.eigenvalues.clip(min=0) / len(y), pairs.eigenvectors.T @ y
    sizes = np.unique(np.geomspace(5, len(y), 9).astype(int))
    predicted = of.spectral.learning_curve(values, overlaps / len(y) ** 0.5, sizes, ridge=ridge)
    measured = np.empty((len(sizes), seeds))
    for i, P in enumerate(sizes):
        for seed in range(seeds):
            drawn = np.random.default_rng(seed).integers(len(y), size=P)
            k = K[:, drawn]
            fit = of.spectral.posterior(k[drawn], y[drawn], ridge, k)
            measured[i, seed] = np.mean((fit.mean - y) ** 2)
    return sizes, measured, predicted


def predictions(ax, y, mean, deviation):
    order = np.argsort(mean)
    at = np.arange(len(order))
    ends = (mean + d * 1.96 * deviation for d in (-1, 1))
    ax.fill_between(
        at, *(end[order] for end in ends), color=plot.COLOURS[0], alpha=0.2, lw=0, label="95 %"
    )
    ax.plot(at, mean[order], color=plot.COLOURS[0], label="mean")
    ax.plot(at, y[order], ".", color=plot.ROLES["held out"], label="target")
    ax.set(xlabel="held-out patients, sorted", ylabel="progress, standardised", title="Predictions")
    ax.legend(fontsize=8)


def calibration(ax, sets):
    ax.plot([LEVELS[0], 1], [LEVELS[0], 1], color="0.3", lw=1)
    for (name, rates), role in zip(sets.items(), ("held out", "training set"), strict=True):
        ax.plot(LEVELS, rates, "o-", color=plot.ROLES[role], label=name)
    ax.set(xlabel="level of the interval", ylabel="targets inside", title="Calibration")
    ax.legend(fontsize=8)


def influences(ax, leverages, residuals, moves, top):
    points = ax.scatter(leverages, residuals, c=moves, s=16, cmap="viridis_r")
    for j in top:
        ax.annotate(str(j), (leverages[j], residuals[j]), fontsize=8)
    ax.axhline(0.0, color="0.3", lw=1)
    ax.set(xlabel="leverage", ylabel="leave-one-out residual", title="Training patients")
    ax.figure.colorbar(points, ax=ax, label="most that a prediction moves without them")


def learning(ax, sizes, measured, predicted):
    spread = measured.std(axis=1, ddof=1) / measured.shape[1] ** 0.5
    ax.errorbar(sizes, measured.mean(axis=1), 3 * spread, fmt="o", color=plot.COLOURS[0],
                label="measured, 3 standard errors")  # fmt: skip
    ax.plot(sizes, predicted, "--", color=plot.ROLES["predicted"], label="of the eigenvalues")
    ax.set(xscale="log", xlabel="samples drawn", ylabel="mean squared error on all of them")
    ax.set_title("Learning curve")
    ax.legend(fontsize=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--width", type=int, default=0, help="of a finite network (0: infinite)")
    parser.add_argument("--held-out", type=int, default=142)
    parser.add_argument("--seed", type=int, default=0, help="of the division of the patients")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    X, y, seen = data(args.seed, args.held_out)
    K, cross, prior, y = kernels(X, y, seen, args.width)
    K = of.as_operator(K.todense())  # small, and used many times
    c, noise = scale_and_noise(K, y[:seen])
    found = of.spectral.posterior(c * K, y[:seen], noise, c * cross, c * prior)
    print(f"scale {c:.3g}, noise {noise:.3g}: {found.log_marginal_likelihood!r}")

    mean, deviation = found.mean, (found.variance + noise) ** 0.5
    leverages, residuals = found.leverages.values, found.leave_one_out.values
    left_out = (noise / (1 - leverages)) ** 0.5  # the deviation of a target from all the others
    error = np.mean((y[seen:] - mean) ** 2)
    print(f"mean squared error held out {error:.3f}, leave-one-out {np.mean(residuals**2):.3f}")
    rates = {
        "held out": coverage(y[seen:] - mean, deviation),
        "leave-one-out": coverage(residuals, left_out),
    }
    print("level          " + "".join(f"{level:8.2f}" for level in LEVELS))
    for name, row in rates.items():
        print(f"{name:<15}" + "".join(f"{rate:8.2f}" for rate in row))

    moves = np.abs(found.influence.todense() * residuals).max(axis=0)
    top = np.argsort(-moves)[:5]
    print("patient   leverage   leave-one-out residual   most that a prediction moves without")
    for j in top:
        print(f"{j:7d} {leverages[j]:10.3f} {residuals[j]:24.2f} {moves[j]:38.3f}")

    picture = Figure(figsize=(11.0, 8.0), layout="constrained")
    (a, b), (d, e) = picture.subplots(2, 2)
    predictions(a, y[seen:], mean, deviation)
    calibration(b, rates)
    influences(d, leverages, residuals, moves, top)
    learning(e, *curve(c * K.data, y[:seen], noise))
    path = args.out / "uncertainty.png"
    picture.savefig(path, dpi=90)
    print(path)


if __name__ == "__main__":
    main()
