r"""
Which units two samples share
=============================

Two samples of a ReLU layer are coupled through the units that are active for both. Their overlap
is the cosine of their masks, :math:`C_{\mu\nu} / \sqrt{C_{\mu\mu} C_{\nu\nu}}` with the
co-activation matrix :math:`C_{\mu\nu} = \sum_i \theta_i^\mu \theta_i^\nu` of the gates. Training on
digits separates the overlap within a digit from that between digits, most in the last layer.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# 600 digits, ten outputs. :class:`opflow.CoActivation` keeps the gates at one bit each.

data = load_digits()
X, labels = data.data[:600] / 16, data.target[:600]
X, y = X - X.mean(axis=0), np.eye(10)[labels] - 0.1


def overlap(gates):
    C = of.CoActivation(gates).todense()
    return C / np.sqrt(np.outer(C.diagonal(), C.diagonal()))


# %%
# An observer records the gap of every layer: the mean overlap of two samples of one digit minus
# that of two samples of different digits. A narrow and a wide network train for 300 steps.

different = labels[:, None] != labels
alike = ~different & ~np.eye(len(labels), dtype=bool)


def gap(fields):
    overlaps = [overlap(gates) for gates in fields.gates]
    return np.array([c[alike].mean() - c[different].mean() for c in overlaps])


runs = {}
for width in (32, 128):
    net = of.ReLUNetwork.random([64, *[width] * 3], outputs=10, scaling="standard", seed=0)
    seen = [of.observe.Function(gap), of.observe.Snapshots({0, 300})]
    runs[width] = of.train(net, X, y, steps=300, every=20, observe=seen)
    gaps = runs[width].observations["gap"].round(2)
    print(f"width {width}: gap by layer {gaps[0]} at the start, {gaps[-1]} after training")

# %%
# The last layer of the narrow network: blocks of one digit stand out after training. Right: the
# gap of every layer. It grows most in layer 3, and far less in the wide network (dashed).

fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
for ax, (step, net) in zip(axes, runs[32].observations["snapshots"].items(), strict=False):
    of.plot.heat_map(overlap(net.fields(X).gates[2]), ax, labels=labels, vmin=0.4, vmax=1)
    ax.set(title=f"layer 3, width 32, step {step}", xlabel="samples, sorted by digit")
    ax.images[0].colorbar.set_label("overlap (cosine of masks)")
for i, colour in enumerate(of.plot.COLOURS[:3]):
    for run, dash, label in zip(runs.values(), ("-", "--"), (f"layer {i + 1}", None), strict=True):
        axes[2].plot(run.steps, run.observations["gap"][:, i], dash, color=colour, label=label)
axes[2].set(xlabel="steps", ylabel="overlap within − between", title="gap by layer", ylim=(0, 0.5))
axes[2].legend(frameon=False, title="width 32 (dashed: 128)", loc="upper left")
plt.show()
