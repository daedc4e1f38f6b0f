"""A network that PyTorch trains, from checkpoint to checkpoint: its kernel, and where that leads.

pip install '.[demo,torch]' && python examples/torch_checkpoint.py --out figures

PyTorch trains all layers of a leaky network on the handwritten digits, with Adam and cross-entropy.
At five of its checkpoints the network is imported, and pictures show what its tangent kernel is:
the spectrum, how the layers (the readout among them) share it and align with the targets, and how
far it has moved.  From each checkpoint on, the linearised network, whose kernel stays as it is
there, is trained with the same loss: what it reaches is set beside what PyTorch did reach.
Two minutes on two cores; --quick is a small version of all of it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import opflow as of
from opflow import plot
from opflow.plot import COLOURS

EPOCHS = (0, 1, 3, 10, 40)
CLASSES = 10


def digits(samples):
    """Inputs and labels in a random order; the last fourth is held out."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:samples]
    X = data.data[order].astype(np.float32) / 16
    return X - X.mean(axis=0), data.target[order], 3 * len(order) // 4


def checkpoints(X, labels, width):
    """The networks at EPOCHS, as they are after training in PyTorch up to there."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(X.shape[1], width), nn.LeakyReLU(),
        nn.Linear(width, width), nn.LeakyReLU(),
        nn.Linear(width, CLASSES),
    )  # fmt: skip
    optimiser = torch.optim.Adam(module.parameters())
    X, labels = torch.from_numpy(X), torch.from_numpy(labels)
    networks = {}
    for epoch in range(max(EPOCHS) + 1):
        if epoch in EPOCHS:
            networks[f"epoch {epoch}"] = of.ReLUNetwork.from_torch(module)
        for batch in torch.randperm(len(X)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(X[batch]), labels[batch]).backward()
            optimiser.step()
    return networks


def force(f, onehot):
    """The gradient of the cross-entropy by outputs f: softmax(f) − y."""
    p = np.exp(f - f.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True) - onehot


def linearised(network, X, onehot, train, steps):
    """Outputs of the linearised network on all of X, trained on its first rows.

    The outputs f move as ``df = −K g`` with K of the checkpoint, where g is the force on samples to
    train on and 0 on the others.  Nesterov's steps of 2/λ_max are stable, as the curvature of
    the cross-entropy is ½ at most.
    """
    K = of.collective_kernel(network.fields(X))
    step = 2 / float(of.spectral.eigsh(K, 1, tol=1e-2).eigenvalues[0])
    f = ahead = network(X)
    for i in range(steps):
        g = force(ahead, onehot)
        g[train:] = 0
        after = ahead - step * (K @ g.ravel()).reshape(g.shape)
        ahead = after + i / (i + 3) * (after - f)
        f = after
    return f


def save(figure, path):
    figure.savefig(path, dpi=90)
    print(path)


def kernels(networks, X, onehot, folder):
    """Spectrum, shares, alignment and distances of the kernels on some samples."""
    targets = onehot - onehot.mean(axis=0)
    found, shares, aligned = {}, {}, []
    for when, network in networks.items():
        fields = network.fields(X)
        layers = of.layer_kernels(fields)
        found[when] = of.materialise(of.collective_kernel(fields), how="dense")
        shares[when] = of.spectral.layer_shares(layers)
        aligned.append([float(of.spectral.alignment(K, targets)) for K in (*layers, found[when])])
        print(f"{when}: {found[when].trace() / len(X):.3g} = tr K / N, layers share "
              f"{np.round(100 * shares[when])} % of it, the readout the last; alignment "
              f"{aligned[-1][-1]:.3f}")  # fmt: skip
    pairs = {when: of.spectral.eigsh(K, 40, tol=1e-4) for when, K in found.items()}
    save(plot.eigenvalues(pairs).figure, folder / "checkpoint_spectrum.png")
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = plot.layer_shares(shares, figure.subplots())
    ax.set_xticks(range(1, len(layers) + 1), [*map(str, range(1, len(layers))), "readout"])
    save(figure, folder / "checkpoint_shares.png")

    names = [*(f"layer {i}" for i in range(1, len(layers))), "readout", "K"]
    ax = plot.alignment(EPOCHS, dict(zip(names, np.transpose(aligned), strict=True)))
    epochs(ax)
    save(ax.figure, folder / "checkpoint_alignment.png")

    figure = Figure(figsize=(11, 4), layout="constrained")
    size, direction = figure.subplots(1, 2)
    start, *_, end = found
    away = [of.spectral.kernel_distance(found[start], K) for K in found.values()]
    size.plot(EPOCHS, away, marker="o", color=COLOURS[0])
    size.set(title=f"Distance from the kernel at {start}", ylabel="relative to that kernel")
    size.set_yscale("symlog", linthresh=1)
    for origin, colour in zip((start, end), COLOURS, strict=False):
        cosines = [of.spectral.kernel_alignment(found[origin], K) for K in found.values()]
        direction.plot(EPOCHS, cosines, marker="o", color=colour, label=f"kernel at {origin}")
    direction.set(title="Cosine of the angle to a kernel", ylim=(0, 1.05))
    direction.legend(loc="lower left")
    epochs(size)
    epochs(direction)
    save(figure, folder / "checkpoint_distance.png")


def epochs(ax):
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks(EPOCHS, map(str, EPOCHS))
    ax.set_xticks([], minor=True)
    ax.set(xlabel="epoch", xlim=(-0.15, 1.2 * max(EPOCHS)))


def predictions(networks, X, labels, train, steps, folder):
    """Held-out accuracy of each checkpoint and of its linearised network; where answers agree."""
    onehot = np.eye(CLASSES, dtype=X.dtype)[labels]
    reached = list(networks.values())[-1](X)[train:].argmax(axis=1)
    rows = []
    for when, network in networks.items():
        here = network(X)[train:].argmax(axis=1)
        there = linearised(network, X, onehot, train, steps)[train:].argmax(axis=1)
        rows.append([np.mean(here == labels[train:]), np.mean(there == labels[train:]),
                     np.mean(there == reached)])  # fmt: skip
        print(f"{when}: held-out accuracy {rows[-1][0]:.3f}, linearised from here {rows[-1][1]:.3f}"
              f"; {rows[-1][2]:.3f} of its answers are those that PyTorch reached")  # fmt: skip
    here, there, agreed = np.transpose(rows)
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    ax.axhline(here[-1], color="0.6", label="right at PyTorch's end")
    words = (
        "right at the checkpoint",
        "right, linearised from there",
        "the same as PyTorch's end",
    )
    for line, label, colour in zip((here, there, agreed), words, COLOURS, strict=False):
        ax.plot(EPOCHS, line, marker="o", color=colour, label=label)
    ax.set(ylim=(min(0.85, there.min() - 0.02), 1.005), ylabel="share of held-out digits",
           title="Where the kernel of a checkpoint leads")  # fmt: skip
    ax.legend(loc="lower right")
    epochs(ax)
    save(figure, folder / "checkpoint_predictions.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    X, labels, train = digits(200 if args.quick else None)
    networks = checkpoints(X[:train], labels[:train], 16 if args.quick else 64)
    few = slice(0, 60 if args.quick else 250)
    onehot = np.eye(CLASSES, dtype=X.dtype)[labels]
    kernels(networks, X[few], onehot[few], args.out)
    predictions(networks, X, labels, train, 10 if args.quick else 120, args.out)


if __name__ == "__main__":
    main()
