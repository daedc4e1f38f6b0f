"""
A photograph behind a blur, with pixels missing
===============================================

A photograph is blurred and noisy, and four in ten of its pixels are lost. PyLops composes the blur
and the loss of pixels to one operator G, and a network of the positions of pixels is trained
through G. Tikhonov regularisation does equally well in a fraction of the time, and total variation
slightly better.
"""

import matplotlib.pyplot as plt
import numpy as np
import pylops
from sklearn.datasets import load_sample_image

import opflow as of

# %%
# A grey part of ``china.jpg``, shrunk to 64 × 64 pixels. The blur is a Gaussian with a standard
# deviation of 1.2 pixels. The noise is 1 % of the range from black to white.

shape, single = (64, 64), np.float32
rng = np.random.default_rng(0)
grey = load_sample_image("china.jpg")[40:424, 120:504].mean(axis=2, dtype=single) / 255
model = grey.reshape(64, 6, 64, 6).mean(axis=(1, 3)).ravel() - 0.5
line = np.exp(-0.5 * (np.arange(-4, 5, dtype=single) / 1.2) ** 2)
pulse = np.outer(line, line) / line.sum() ** 2
blur = pylops.signalprocessing.Convolve2D(shape, pulse, offset=(4, 4), dtype=single)
kept = np.sort(rng.permutation(model.size)[: model.size * 6 // 10])
G = pylops.Restriction(model.size, kept, dtype=single) @ blur
d = G @ model + single(0.01) * rng.standard_normal(len(kept), dtype=single)

# %%
# Tikhonov regularisation penalises the Laplacian, and total variation the absolute differences of
# neighbours. The weights are the best of a few: the true photograph chooses them. It also chose the
# network's features, width, readout and method, from some thirty runs.


def decibels(found):
    """Peak signal-to-noise ratio; the range is 1."""
    return -10 * np.log10(np.mean((found - model) ** 2))


def tikhonov(weight):
    laplacian = pylops.Laplacian(shape, dtype=single)
    solve = pylops.optimization.leastsquares.regularized_inversion
    return solve(G, d, [laplacian], epsRs=[weight], iter_lim=200)[0]


def total_variation(weight):
    slopes = [pylops.FirstDerivative(shape, axis=axis, kind="forward") for axis in (0, 1)]
    solve = pylops.optimization.sparsity.splitbregman
    counts = {"niter_outer": 20, "niter_inner": 3, "iter_lim": 10}
    return solve(G, d, slopes, epsRL1s=[weight] * 2, mu=0.1, **counts)[0]


found = {
    "Tikhonov": max(map(tikhonov, (0.03, 0.06, 0.1)), key=decibels),
    "total variation": max(map(total_variation, (0.006, 0.01)), key=decibels),
}

# %%
# The network sees 128 Fourier features of each pixel. Whatever the data leave open stays as the
# network starts, so a small readout lets it start near zero. The 20 Gauss–Newton steps bring the
# residual slightly below the noise.

X = of.fourier_features(of.coordinates(shape, single), scale=1.5, count=128) / 128**0.5
net = of.ReLUNetwork.random([256, 128, 128], seed=0, dtype=single)
net = of.ReLUNetwork(net.weights, 0.1 * net.readout, rates=net.rates)
watch = {"dB": lambda moment: decibels(moment.network(X)[:, 0])}
newton = of.GaussNewton()
run = of.train(net, X, d, measurement=G, method=newton, steps=20, observe=watch)
found["network"] = run.network(X)[:, 0]
residual = np.linalg.norm(run.residual) / len(d) ** 0.5
print(f"residual {residual:.4f} per pixel, of a noise of 0.01, after {run.products} products")
for name, image in found.items():
    error = np.linalg.norm(image - model) / np.linalg.norm(model)
    print(f"{name}: {decibels(image):.2f} dB, relative error {error:.3f}")

# %%
# Above: the photograph and what is found. Below: the data, and the errors, which sit at the same
# edges in all three.

data = np.full(model.size, np.nan)
data[kept] = d
fig, axes = plt.subplots(2, 4, figsize=(9.5, 5), layout="constrained")
for ax, image, name in ((axes[0, 0], model, "photograph"), (axes[1, 0], data, "data")):
    ax.imshow(image.reshape(shape), cmap="gray", vmin=-0.5, vmax=0.5)
    ax.set_title(name)
for (above, below), (name, image) in zip(axes[:, 1:].T, found.items(), strict=True):
    above.imshow(image.reshape(shape), cmap="gray", vmin=-0.5, vmax=0.5)
    above.set_title(f"{name}, {decibels(image):.1f} dB")
    below.imshow((image - model).reshape(shape), cmap="RdBu", vmin=-0.3, vmax=0.3)
    below.set_title("error, white: 0")
for ax in axes.flat:
    ax.axis("off")

# %%
# Left: the first steps find nearly everything. Right: the leading eigenvalues of the measured
# kernel :math:`G K G^T`, by products alone. Training multiplies the first by about 30 and the
# others by about 100: from its small start the kernel moves far.

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
left.plot(run.observations["dB"], color=of.plot.COLOURS[0], label="network")
for name, style in (("Tikhonov", "--"), ("total variation", ":")):
    left.axhline(decibels(found[name]), color="0.5", ls=style, label=name)
left.set(title="Training", xlabel="Gauss–Newton step", ylabel="decibels", xticks=range(0, 21, 5))
left.legend(loc="lower right")
for label, network in {"start": net, "trained": run.network}.items():
    values = of.spectral.eigsh(of.measured_kernel(network.fields(X), G), 40).eigenvalues
    right.loglog(range(1, 41), values, ".-", color=of.plot.ROLES[label], label=label)
right.set(title="Measured kernel", xlabel="rank", ylabel="eigenvalue")
right.legend()
plt.show()
