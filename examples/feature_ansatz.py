"""
The neural feature ansatz
=========================

Which features does a layer learn? Radhakrishnan, Beaglehole, Pandit and Belkin (2022,
`arXiv:2212.13881 <https://arxiv.org/abs/2212.13881>`_) state that the Gram matrix :math:`W^T W`
of its weights becomes proportional to the average outer product of the network's gradients (AGOP)
at its input. This script follows the cosine of the two matrices during training. From a small
start it rises above 0.9 in both layers, as they find; from a start of usual size it hardly moves.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# 500 digits, even or odd, and two starts that differ by a factor only.
# :class:`opflow.observe.Function` records :func:`opflow.features.feature_ansatz` of each layer.

digits = load_digits()
X, y = digits.data[:500] / 16, np.where(digits.target[:500] % 2 == 0, 1.0, -1.0)
X -= X.mean(axis=0)
drawn = of.ReLUNetwork.random([64, 64, 64], seed=0, scaling="standard", readout_rate=1.0)
ansatz = of.features.feature_ansatz
watch = {
    "layer 1": of.observe.Function(lambda fields: ansatz(fields, 1)),
    "layer 2": of.observe.Function(lambda fields: ansatz(fields, 2)),
}
keep, runs = {"networks": of.observe.Snapshots([400])}, {}
for scale in (0.1, 1.0):
    weights, readout = [scale * W for W in drawn.weights], scale * drawn.readout
    runs[scale] = of.train(
        of.ReLUNetwork(weights, readout, readout_rate=1.0),
        X,
        y,
        loss="mean",
        method=of.GradientDescent(0.1),
        steps=800,
        every=20,
        observe=watch | keep,
    )
    for layer in watch:
        seen = runs[scale].observations[layer]
        print(
            f"start × {scale}, {layer}: cosine {seen[0]:.2f} at the start, at most "
            f"{seen.max():.2f}, {seen[-1]:.2f} at the end"
        )

# %%
# Left: the cosines. Of the network that starts small, the first layer later leaves its maximum.
# Right: the diagonals of both matrices of the first layer at step 400, one number per pixel, near
# the maximum of its cosine.

network = runs[0.1].observations["networks"][400]
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", width_ratios=[1.5, 1, 1])
for (scale, run), style in zip(runs.items(), ("-", "--"), strict=True):
    for layer, colour in zip(watch, of.plot.COLOURS, strict=False):
        label, values = f"{layer}, start × {scale}", run.observations[layer]
        axes[0].plot(run.steps, values, style, color=colour, label=label)
axes[0].set(title="Cosine of $W^TW$ and AGOP", xlabel="steps", ylim=(0, 1.05), ylabel="cosine")
axes[0].legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
axes[1].imshow((network.weights[0] ** 2).sum(axis=0).reshape(8, 8), cmap="cividis")
axes[1].set(title="Diagonal of $W^TW$", xticks=[], yticks=[])
axes[2].imshow(of.features.agop(network.fields(X), 1).diagonal().reshape(8, 8), cmap="cividis")
axes[2].set(title="Diagonal of the AGOP", xticks=[], yticks=[])
plt.show()
