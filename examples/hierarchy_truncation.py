"""What each order of the hierarchy buys, how its operators decay, which layers move the kernel.

pip install '.[demo]' && python examples/hierarchy_truncation.py --out figures

On the handwritten digits (even or odd) and on a synthetic teacher, for 3, 4 and 5 hidden layers:
the error of the truncated flow against order and time, the operator norms of the members by
layer distance, and the velocity of the kernel layer by layer.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import opflow as of
from opflow.plot import COLOURS

DEPTHS, WIDTH, SAMPLES = (3, 4, 5), 128, 500
PARTS = ("residual", "hidden fields", "conjugate fields", "kernel")


def digits():
    data = load_digits()
    X = data.data[:SAMPLES] / 16.0
    return X - X.mean(axis=0), np.where(data.target[:SAMPLES] % 2 == 0, 1.0, -1.0)


def teacher():
    """A one-hidden-layer ReLU network of eight units on Gaussian inputs."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((SAMPLES, 20))
    y = np.maximum(X @ rng.standard_normal((20, 8)), 0) @ rng.standard_normal(8)
    return X, (y - y.mean()) / y.std()


class At:
    """An observer at some steps only; NaN at the others."""

    def __init__(self, observer, steps):
        self.observer, self.steps, self.name = observer, set(steps), observer.name

    def __call__(self, moment):
        return self.observer(moment) if moment.step in self.steps else np.full(len(PARTS), np.nan)


def truncation(data, steps):
    """{(depth, order): (times, errors)} of every order up to the exact one, p = L − 1."""
    X, y = data
    seen = np.unique(np.geomspace(1, steps, 9).astype(int))
    found = {}
    for depth in DEPTHS:
        net = of.ReLUNetwork.random([X.shape[1], *[WIDTH] * depth], seed=depth)
        for order in range(depth):
            try:
                run = of.train(
                    net, X, y, steps=steps, loss="mean", method=of.TruncatedFlow(order=order),
                    observe=[At(of.observe.TruncationError(), [0, *seen])],
                )  # fmt: skip
            except of.DivergenceError as error:  # a truncated flow is no gradient flow, and may
                print(f"L = {depth}, p = {order}: {error}")
                run = error.trajectory
            reached = seen[seen < len(run.times)]
            found[depth, order] = run.times[reached], run.observations["truncation_error"][reached]
    return found


def draw_truncation(found, title, path):
    figure, axes = plt.subplots(len(DEPTHS), len(PARTS), figsize=(13, 8), sharex=True,
                                sharey="col", layout="constrained")  # fmt: skip
    exact = 0.0
    for (depth, order), (times, errors) in found.items():
        if order == depth - 1:
            exact = max(exact, errors.max())
            continue
        for axis, column in zip(axes[DEPTHS.index(depth)], errors.T, strict=True):
            axis.loglog(times, column, "o-", ms=3, color=COLOURS[order], label=f"p = {order}")
    for row, depth in zip(axes, DEPTHS, strict=True):
        row[0].set_ylabel(f"L = {depth}: relative error")
        row[1].legend(frameon=False, fontsize=8)
    for axis, part in zip(axes[0], PARTS, strict=True):
        axis.set_title(part)
    for axis in axes[-1]:
        axis.set_xlabel("time")
    for axis in axes.flat:
        axis.yaxis.set_minor_formatter("")
    figure.suptitle(
        f"Truncated flow against the exact run: {title} (p = L − 1 is exact: at most {exact:.0e})"
    )
    figure.savefig(path, dpi=80)


def norms_by_distance(fields, kind):
    """{distance: operator norms} of the members of some sample pairs, μ = ν and μ ≠ ν."""
    pairs = {"μ = ν": [(i, i) for i in range(6)], "μ ≠ ν": [(i, i + 7) for i in range(6)]}
    out = {}
    for label, chosen in pairs.items():
        found = of.hierarchy.members(fields, chosen, kind=kind, top=1)
        distances = np.array([upper - lower for lower, upper in found.layers])
        out[label] = {d: found.norms[distances == d].ravel() for d in np.unique(distances)}
    return out


def draw_norms(before, after, path):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("pullback", "pushforward"), strict=True):
        for (when, fields), style in zip(
            (("at the start", before), ("trained", after)), ("o--", "s-"), strict=True
        ):
            for (label, norms), colour in zip(
                norms_by_distance(fields, kind).items(), COLOURS, strict=False
            ):
                medians = [np.median(values) for values in norms.values()]
                axis.semilogy(list(norms), medians, style, ms=5, color=colour,
                              label=f"{label}, {when}")  # fmt: skip
        axis.set(xlabel="layer distance (Gram factors)", title=kind)
        axis.set_xticks(sorted(norms))
        axis.set_yticks([5, 10, 20], ["5", "10", "20"])
        axis.yaxis.set_minor_formatter("")
    axes[0].set_ylabel("operator norm (median)")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Members of the hierarchy, digits, L = 5")
    figure.savefig(path, dpi=80)


class KernelMotion:
    """‖·‖_F of the two parts of every layer's kernel velocity, (L, 2)."""

    name = "kernel_motion"

    def __call__(self, moment):
        if moment.step % 20:
            return np.full((moment.network.depth, 2), np.nan)
        fields = moment.network.fields(moment.inputs)
        layers = of.layer_kernel_velocities(fields, moment.share * moment.residual)
        return np.array([[np.linalg.norm(part.todense()) for part in layer] for layer in layers])


def draw_motion(times, motion, path):
    seen = ~np.isnan(motion[:, 0, 0])
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, part, title in zip(
        axes, (0, 1), ("activations move: Ȧ ∘ D", "conjugates move: A ∘ Ḋ"), strict=True
    ):
        for layer in range(motion.shape[1]):
            values = motion[seen, layer, part]
            if values.any():  # the first layer's inputs and the last layer's readout are fixed
                axis.semilogy(times[seen], values, color=COLOURS[layer], label=f"layer {layer + 1}")
        axis.set(xlabel="time", title=title)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("‖dK/dt‖ of the layer (Frobenius)")
    figure.suptitle("Velocity of the kernel by layer, digits, L = 4")
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    for name, data in (("digits", digits()), ("teacher", teacher())):
        found = truncation(data, args.steps)
        draw_truncation(found, name, args.out / f"truncation_{name}.png")
        for (depth, order), (_, errors) in found.items():
            text = "  ".join(f"{p} {e:.1e}" for p, e in zip(PARTS, errors[-1], strict=True))
            print(f"{name}, L = {depth}, p = {order}: {text}")

    X, y = digits()
    net = of.ReLUNetwork.random([64, *[WIDTH] * 5], seed=5)
    run = of.train(net, X, y, steps=args.steps, loss="mean")
    draw_norms(net.fields(X), run.network.fields(X), args.out / "norms.png")

    net = of.ReLUNetwork.random([64, *[WIDTH] * 4], seed=4)
    run = of.train(net, X, y, steps=args.steps, loss="mean", observe=[KernelMotion()])
    draw_motion(run.times, run.observations["kernel_motion"], args.out / "kernel_velocity.png")
    print(f"figures in {args.out}")


if __name__ == "__main__":
    main()
