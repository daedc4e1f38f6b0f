"""The tangent kernel of a residual network of PyTorch, before and after training.

pip install '.[demo,torch]' && python examples/kernel_of_a_resnet.py --out figures

A small ResNet (convolutions, GroupNorm, skip connections) learns the handwritten digits with Adam
and cross-entropy.  Before and after, the sum of the kernels of its ten outputs is asked for its
spectrum, how it aligns with the labels, what share of it each layer has, and how well regression
with it predicts the digits that were held out.
Twenty seconds on one core; --quick is a small version of all of it.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import opflow as of
from opflow.plot import COLOURS

CLASSES = 10


class Block(nn.Module):
    """Two convolutions beside a skip connection."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, after)
        self.skip = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


def resnet(width):
    layers = {
        "stem": nn.Conv2d(1, width, 3, padding=1, bias=False),
        "norm": nn.GroupNorm(4, width),
        "relu": nn.ReLU(),
        "block1": Block(width, width, 1),
        "block2": Block(width, 2 * width, 2),
        "pool": nn.AdaptiveAvgPool2d(2),
        "flat": nn.Flatten(),
        "last": nn.Linear(8 * width, CLASSES),
    }
    return nn.Sequential(OrderedDict(layers))


def digits():
    """Images (N, 1, 8, 8) and labels in a random order."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order, None].astype(np.float32) / 8 - 1)
    return images, data.target[order]


def train(module, X, labels, epochs):
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    labels = torch.from_numpy(labels)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(X)).split(32):
            optimiser.zero_grad()
            loss = F.cross_entropy(module(X[batch]), labels[batch])
            loss.backward()
            optimiser.step()
            total += len(batch) * loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(X):.4f}")


def accuracy(outputs, labels):
    return float(np.mean(np.asarray(outputs).argmax(axis=1) == labels))


def look(when, module, X, labels, X_new, labels_new):
    """What the kernel on X is, and what regression with it says of new digits."""
    onehot = np.eye(CLASSES, dtype=np.float32)[labels]
    K = of.materialise(of.torch.kernel(module, X, outputs="trace"), how="dense")
    eigenvalues = of.spectral.eigh(K).eigenvalues
    aligned = of.spectral.alignment(K, onehot, centred=True)
    layers = of.torch.layer_kernels(module, X, outputs="trace")
    shares = of.spectral.layer_shares(list(layers.values()))

    # the targets less their mean: the kernel need not explain a constant
    mean = onehot.mean(axis=0)
    shift = 1e-3 * float(K.trace()) / len(X)
    regression = of.spectral.kernel_regression(K, onehot - mean, shift, tol=1e-4)
    cross = of.torch.cross_kernel(module, X_new, X, outputs="trace")
    right = accuracy(regression.predict(cross) + mean, labels_new)
    with torch.no_grad():
        own = accuracy(module(X_new), labels_new)

    most = int(np.searchsorted(np.cumsum(eigenvalues), 0.9 * eigenvalues.sum())) + 1
    largest = np.argsort(shares)[::-1][:3]
    print(f"{when}: tr K / N = {K.trace() / len(X):.3g}, {most} eigenvalues make 90 % of it; "
          f"centred alignment {float(aligned):.3f}")  # fmt: skip
    print("  largest shares:", ", ".join(f"{list(layers)[i]} {shares[i]:.0%}" for i in largest))
    print(f"  held-out accuracy: kernel regression {right:.3f}, the network itself {own:.3f}")
    return K.todense(), eigenvalues, dict(zip(layers, shares, strict=True)), float(aligned)


def draw(found, labels, path):
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    order = np.argsort(labels, kind="stable")
    edges = np.cumsum(np.bincount(labels, minlength=CLASSES))
    for ax, (when, (K, _, _, aligned)) in zip(axes[0], found.items(), strict=True):
        size = np.sqrt(K.diagonal())
        image = ax.imshow((K / np.outer(size, size))[np.ix_(order, order)], vmin=0, vmax=1)
        ax.set_xticks(edges, "")
        ax.set_yticks(edges - np.diff(edges, prepend=0) / 2, range(CLASSES))
        ax.set(title=f"{when} training, centred alignment {aligned:.2f}", xlabel="samples",
               ylabel="digit")  # fmt: skip
    figure.colorbar(image, ax=axes[0], label="kernel, as cosines")

    spectrum, bars = axes[1]
    for i, (when, (_, eigenvalues, shares, _)) in enumerate(found.items()):
        positive = eigenvalues[eigenvalues > 1e-6 * eigenvalues[0]]
        spectrum.loglog(range(1, len(positive) + 1), positive, color=COLOURS[i], label=when)
        bars.barh(np.arange(len(shares)) + 0.4 * i, 100 * np.array(list(shares.values())), 0.4,
                  color=COLOURS[i], label=when)  # fmt: skip
    spectrum.set(title="Eigenvalues", xlabel="number", ylabel="eigenvalue")
    spectrum.legend()
    bars.set_yticks(np.arange(len(shares)) + 0.2, shares, fontsize=8)
    bars.invert_yaxis()
    bars.set(title="Shares of the layers", xlabel="% of the trace")
    bars.legend()
    figure.savefig(path, dpi=90)
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=400, help="of the kernel")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.samples, args.width = 1, 60, 4
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    X, labels = digits()
    held_out = slice(-args.samples, None)
    few = slice(0, args.samples)
    data = X[few], labels[few], X[held_out], labels[held_out]
    module = resnet(args.width)
    print(f"{sum(p.numel() for p in module.parameters()):,} parameters")
    found = {"before": look("before", module, *data)}
    train(module, X[: -args.samples], labels[: -args.samples], args.epochs)
    found["after"] = look("after", module, *data)
    draw(found, labels[few], args.out / "kernel_of_a_resnet.png")


if __name__ == "__main__":
    main()
