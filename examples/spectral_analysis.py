"""Spectra of kernels before, during and after training: digits, and a photograph's learned modes.

pip install '.[demo]' && python examples/spectral_analysis.py --out figures

On the handwritten digits (even or odd): the density of the kernel's spectrum with its error bars,
its largest eigenvalues with a power law, the residual mode by mode against the prediction of a
constant kernel, for a wide network and a narrow one, the kernel class by class, and how the layers
align with the targets.  On scikit-learn's `china.jpg`, learned from random Fourier features of the
pixels' positions: the kernel's leading modes, which are pictures, at the start and once trained.
Two minutes on one core; --quick is a small version of all of it.
"""

import argparse
from pathlib import Path

import numpy as np
from image_regression import FourierFeatures, photograph
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import opflow as of
from opflow import plot

TOP = 100  # eigenpairs
WIDE, NARROW = 4096, 64


def digits(samples):
    data = load_digits()
    X = data.data[:samples] / 16.0
    labels = data.target[:samples]
    return X - X.mean(axis=0), np.where(labels % 2 == 0, 1.0, -1.0), labels


class LayerAlignment:
    """The alignment of every layer's kernel with the targets, and of their sum."""

    name = "layer_alignment"

    def __call__(self, moment):
        fields, y = moment.network.fields(moment.inputs), moment.targets
        kernels = [*of.layer_kernels(fields), of.collective_kernel(fields)]
        return np.array([of.spectral.alignment(K, y) for K in kernels])


def save(figure, path):
    figure.savefig(path, dpi=90)
    print(f"{path}")


def side_by_side(width=11.0, height=4.0, **options):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, 2, **options)


def spectrum(X, y, labels, steps, folder):
    """Density, eigenvalues, alignment and the kernel itself, at the start and after training."""
    start = of.ReLUNetwork.random([X.shape[1], 256, 256, 256], seed=0)
    run = of.train(start, X, y, steps=steps, every=max(1, steps // 25), observe=[LayerAlignment()])
    fields = {"start": start.fields(X), "trained": run.network.fields(X)}
    # a few hundred products are ahead: the cost model knows whether to form the kernel for them
    kernels = {when: of.materialise(of.collective_kernel(f), products=1000, columns=10)
               for when, f in fields.items()}  # fmt: skip

    figure, axes = side_by_side()
    found = {when: of.spectral.density(K, log=True) for when, K in kernels.items()}
    plot.density(found, axes[0])
    plot.density(found, axes[1], cumulative=True)
    save(figure, folder / "spectrum_density.png")
    for when, rho in found.items():
        rank = of.spectral.effective_rank(kernels[when])
        print(f"{when}: effective rank {rank!r}, eigenvalues that are zero {rho.null!r}")

    top = min(TOP, len(y) // 2)
    pairs = {when: of.spectral.eigsh(K, top, tol=1e-6) for when, K in kernels.items()}
    save(plot.eigenvalues(pairs, fit=(10, top)).figure, folder / "spectrum_eigenvalues.png")

    figure, axes = side_by_side(11.0, 4.6)
    for ax, (when, K) in zip(axes, kernels.items(), strict=True):
        plot.heat_map(K, ax, labels=labels, cells=200)
        ax.set_title(f"{ax.get_title()}, {when}")
    save(figure, folder / "spectrum_kernel.png")

    lines = run.observations["layer_alignment"].T
    names = [*(f"layer {i + 1}" for i in range(len(lines) - 1)), "K"]
    ax = plot.alignment(run.times, dict(zip(names, lines, strict=True)))
    save(ax.figure, folder / "spectrum_alignment.png")


def decay(X, y, steps, folder):
    """The residual in the modes of the kernel at the start, of a wide and a narrow network."""
    figure, axes = side_by_side(13.0, 4.0, sharey=True)
    for ax, width in zip(axes, (WIDE, NARROW), strict=True):
        network = of.ReLUNetwork.random([X.shape[1], width], seed=0)
        K = of.collective_kernel(network.fields(X))
        values, modes = of.spectral.eigsh(K, 20)
        step = 0.2 / values[0]

        def coefficients(moment, modes=modes):
            return of.spectral.projections(modes, moment.residual)

        run = of.train(network, X, y, steps=steps, method=of.GradientDescent(step),
                       observe={"coefficients": coefficients})  # fmt: skip
        seen = run.observations["coefficients"]
        # what a constant kernel gives with these steps: exp(-λt), were they small
        predicted = seen[0] * (1 - step * values) ** np.arange(len(seen))[:, None]
        plot.decay(run.times, seen, values, predicted, ax)
        ax.set_title(f"Decay of the residual, {width:,} units")
    save(figure, folder / "spectrum_decay.png")


def modes(pixels, steps, folder):
    """The leading modes of a photograph's kernel, before and after it has been learned."""
    picture = photograph(pixels)
    shape = picture.shape[:2]
    features, grey = FourierFeatures(*shape), picture.mean(axis=2).reshape(-1)
    features.waves /= 4  # slower waves, which a small picture can show
    X = features[:]
    network = of.ReLUNetwork.random([X.shape[1], 128, 128], seed=0, dtype=np.float32)
    run = of.train(network, X, grey - grey.mean(), steps=steps,
                   method=of.GradientDescent(momentum=0.9), every=steps)  # fmt: skip
    print(f"photograph of {shape[1]} × {shape[0]}: {run}")
    figure = Figure(figsize=(9, 7.2), layout="constrained")
    for ax, (when, net) in zip(
        figure.subplots(2, 1), {"at the start": network, "trained": run.network}.items(),
        strict=True,
    ):  # fmt: skip
        pairs = of.spectral.eigsh(of.collective_kernel(net.fields(X)), 8, tol=1e-4)
        plot.modes(pairs, shape, ax=ax)
        ax.set_title(f"Modes of the kernel, {when}", pad=4)
        print(f"{when}: {pairs!r}")
    save(figure, folder / "spectrum_modes.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    quick = args.quick
    X, y, labels = digits(120 if quick else 1797)
    spectrum(X, y, labels, 5 if quick else 200, args.out)
    few = slice(0, 60 if quick else 500)
    decay(X[few], y[few], 20 if quick else 400, args.out)
    modes(500 if quick else 7000, 2 if quick else 100, args.out)


if __name__ == "__main__":
    main()
