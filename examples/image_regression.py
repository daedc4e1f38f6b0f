"""A photograph learned from its pixels' coordinates, matrix-free, by stochastic gradient descent.

pip install '.[demo]' && python examples/image_regression.py --out runs/photograph

The training set are the 273,280 pixels of scikit-learn's `china.jpg`, a sample the random Fourier
features of a pixel's position, its targets the three colours.  No feature matrix exists: rows are
computed as they are read.  Two and a half minutes on one core, to 21.9 dB.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_image

import opflow as of

FEATURES, WIDTHS, SIGMA = 256, [256, 256], 16.0
BATCH, MOMENTUM = 2048, 0.95


class FourierFeatures:
    """Rows √(2/d) (cos 2πBx, sin 2πBx) of every pixel's position x, computed when they are read."""

    dtype = np.dtype(np.float32)

    def __init__(self, height, width):
        self.grid, self.shape = (height, width), (height * width, FEATURES)
        rng = np.random.default_rng(0)
        self.waves = (2 * np.pi * SIGMA * rng.standard_normal((2, FEATURES // 2))).astype("f4")

    def __getitem__(self, index):
        pixels = np.arange(self.shape[0])[index]
        place = np.stack(np.divmod(pixels, self.grid[1]), axis=1) / max(self.grid)
        phase = place.astype(np.float32) @ self.waves
        scale = np.float32((2 / FEATURES) ** 0.5)
        return scale * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def photograph(pixels):
    """The picture (height, width, 3) with values in [0, 1], thinned to at most so many pixels."""
    picture = load_sample_image("china.jpg").astype(np.float32) / 255
    every = 1
    while -(-picture.shape[0] // every) * -(-picture.shape[1] // every) > pixels:
        every += 1
    return picture[::every, ::every]


def stable_step(network, X, samples=4096):
    """1/λ_max(K/N), with K/N estimated on a random sample of the pixels."""
    rows = np.random.default_rng(1).choice(X.shape[0], min(samples, X.shape[0]), replace=False)
    K = of.collective_kernel(network.fields(X[np.sort(rows)]))
    return len(rows) / of.spectral.largest_eigenvalue(K).value


def psnr(residual):
    """Peak signal-to-noise ratio in decibels."""
    return -10 * np.log10(float((residual.astype(np.float64) ** 2).mean()))


def learn(picture, steps):
    """{step: residual} at moments ever further apart: the picture as it emerges."""
    X, mean = FourierFeatures(*picture.shape[:2]), picture.mean(axis=(0, 1))
    y = (picture - mean).reshape(-1, 3)
    network = of.ReLUNetwork.random([FEATURES, *WIDTHS], outputs=3, seed=0, dtype=np.float32)
    step = stable_step(network, X)
    moments = sorted({int(steps / 4**i) for i in range(6) if steps >= 4**i} | {0})
    residuals, start = {}, time.perf_counter()
    for i, (a, b) in enumerate(itertools.pairwise(moments)):
        sizes = np.linspace(step, 0.1 * step, b - a)  # ever smaller: the noise of the batches goes
        method = of.GradientDescent(sizes.__getitem__, MOMENTUM, min(BATCH, len(y)), rng=i)
        run = of.train(network, X, y, method=method, steps=b - a, every=steps, loss="mean")
        network, residuals[b] = run.network, run.residual
        print(
            f"step {b:5}  PSNR {psnr(run.residual):5.2f} dB  {time.perf_counter() - start:5.0f} s",
            flush=True,
        )
    return residuals


def draw(picture, residuals, folder):
    """emerging.png, final.png and error.png."""

    def fitted(residual):
        return np.clip(picture + residual.reshape(picture.shape), 0, 1)

    figure, axes = plt.subplots(2, 3, figsize=(9, 4.4), layout="constrained")
    shown = dict(list(residuals.items())[-5:])
    for axis, (step, residual) in zip(axes.flat, shown.items(), strict=False):
        axis.imshow(fitted(residual))
        axis.set_title(f"step {step:,}: {psnr(residual):.1f} dB", fontsize=10)
    axes.flat[len(shown)].imshow(picture)
    axes.flat[len(shown)].set_title("photograph", fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(folder / "emerging.png", dpi=100)
    last = residuals[max(residuals)]
    plt.imsave(folder / "final.png", fitted(last))
    size = np.sqrt((last**2).mean(axis=1)).reshape(picture.shape[:2])
    plt.imsave(folder / "error.png", size, cmap="magma", vmin=0, vmax=0.25)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/photograph"))
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("--pixels", type=int, default=10**6, help="thin the picture to so many")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    picture = photograph(args.pixels)
    print(f"{picture.shape[1]} x {picture.shape[0]} = {picture[..., 0].size:,} pixels")
    residuals = learn(picture, args.steps)
    draw(picture, residuals, args.out)
    print(f"PSNR {psnr(residuals[max(residuals)]):.2f} dB; pictures in {args.out}")


if __name__ == "__main__":
    main()
