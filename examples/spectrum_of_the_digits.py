"""
What a kernel's leading eigenvectors know of the digits
=======================================================

Gradient descent learns along the eigenvectors of the tangent kernel, the largest eigenvalues
first. How much of the classes of handwritten digits lies in the leading ones, before and after
training, and in which layers? Training turns the kernel towards the classes (kernel alignment:
Baratin et al., 2021, `arXiv:2008.00938 <https://arxiv.org/abs/2008.00938>`_).
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# ``outputs="trace"`` sums the kernel over the ten outputs, so that it compares samples.

X, labels = (part[:600] for part in load_digits(return_X_y=True))
X = (X - X.mean(axis=0)) / 16
targets = np.eye(10)[labels] - np.eye(10)[labels].mean(axis=0)
start = of.ReLUNetwork.random([64, 128, 128, 128], outputs=10, seed=0)
run = of.train(start, X, targets, steps=200, every=200)
nets = {"start": start, "trained": run.network}

# %%
# :func:`opflow.spectral.effective_rank` is the exponential of the spectrum's entropy, here with a
# 95 % interval, and :func:`opflow.spectral.alignment` the cosine between a centred kernel and the
# Gram matrix of the targets.

pairs, explained, aligned = {}, {}, {}
for when, net in nets.items():
    fields = net.fields(X)
    layers = [of.materialise(k, how="dense") for k in of.layer_kernels(fields, outputs="trace")]
    K = of.materialise(sum(layers[1:], layers[0]), how="dense")
    pairs[when] = of.spectral.eigsh(K, 100)
    parts = np.linalg.norm(pairs[when].eigenvectors.T @ targets, axis=1) ** 2
    explained[when] = np.cumsum(parts) / np.linalg.norm(targets) ** 2
    aligned[when] = [of.spectral.alignment(k, targets, centred=True) for k in (*layers, K)]
    rank = of.spectral.effective_rank(K, how="estimate")
    print(f"{when}: effective rank {rank!r}; alignment {float(aligned[when][-1]):.2f}")
    print(f"   ten eigenvectors hold {explained[when][9]:.0%} of the targets")

# %%
# Left: after training, ten eigenvectors hold most of the targets. Middle: the last layer, least
# aligned at the start, gains most. Right: each sample at its entries of two eigenvectors: classes
# form clusters. This is one network of 128 units per layer; wider ones change less.

fig, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
at = np.arange(4)
for i, when in enumerate(nets):
    colour = of.plot.ROLES[when]
    axes[0].semilogx(range(1, 101), explained[when], color=colour, label=when, linewidth=2)
    axes[1].bar(at + 0.4 * i, aligned[when], 0.38, color=colour, label=when)
axes[0].set(xlabel="number of eigenvectors", ylabel="share of the targets", title="Targets")
axes[1].set(xticks=at + 0.2, xticklabels=["layer 1", "layer 2", "layer 3", "sum"], ylim=(0, 0.85))
axes[1].set(ylabel="centred alignment", title="Alignment with the classes")
for digit, colour in enumerate(plt.cm.turbo(np.linspace(0.05, 0.95, 10))):
    x, y = pairs["trained"].eigenvectors[labels == digit, 1:3].T
    axes[2].plot(x, y, linestyle="", marker=f"${digit}$", color=colour, markersize=5)
axes[2].set(xlabel="eigenvector 2", ylabel="eigenvector 3", title="Samples, after training")
axes[0].legend()
axes[1].legend(ncols=2)
plt.show()
