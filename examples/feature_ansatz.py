"""
The neural feature ansatz
=========================

Which features does a layer learn? Radhakrishnan, Beaglehole, Pandit and Belkin (2022,
`arXiv:2212.13881 <https://arxiv.org/abs/2212.13881>`_) state that the Gram matrix :math:`W^T W` of its weights becomes
proportional to the average outer product of the network's gradients (AGOP) at its input. This
script follows the cosine of the two matrices during training. From a small start it rises above
0.9 in both layers, as they find; from a start of usual size it hardly moves.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# 500 digits, even or odd, and two starts that differ by a factor only. :class:`opflow.observe.Function`
# records :func:`opflow.features.feature_ansatz` of each layer.

digits = load_digits()
X, y = digits.data[:500] / 16, np.where(digits.target[:500] % 2 == 0, 1.0, -1.0)
X -= X.mean(axis=0)
drawn = of.ReLUNetwork.random([64, 64, 64], seed=0, scaling="standard", readout_rate=1.0)
watch = {
    f"layer {layer}": of.observe.Function(lambda fields, at=layer: of.features.feature_ansatz(fields, at))
    for layer in (1, 2)
}
runs = {}
for scale in (0.1, 1.0):
    start = [scale * W for W in drawn.weights], scale * drawn.readout
    net = of.ReLUNetwork(*start, readout_rate=1.0)
    runs[scale] = of.train(
        net, X, y, loss="mean", method=of.GradientDescent(0.1), steps=1000, every=20, observe=watch
    )
    for layer, seen in runs[scale].observations.items():
        print(f"start × {scale}, {layer}: cosine {seen[0]:.2f} at the start, at most "
              f"{seen.max():.2f}, {seen[-1]:.2f} at the end")  # fmt: skip

# %%
# Left: the cosines. Of the network that starts small, the first layer later leaves its maximum. Right: the diagonals
# of both matrices of the first layer, one number per pixel, pick the same strokes.

network = runs[0.1].network
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", width_ratios=[1.5, 1, 1])
for (scale, run), style in zip(runs.items(), ("-", "--"), strict=True):
    for (layer, seen), colour in zip(run.observations.items(), of.plot.COLOURS, strict=False):
        axes[0].plot(run.steps, seen, style, color=colour, label=f"{layer}, start × {scale}")
axes[0].set(title="Cosine of $W^TW$ and AGOP", xlabel="steps", ylim=(0, 1.6), ylabel="cosine")
axes[0].legend(fontsize=8)
pictures = {
    "Diagonal of $W^TW$": (network.weights[0] ** 2).sum(axis=0),
    "Diagonal of the AGOP": of.features.agop(network.fields(X), 1).diagonal(),
}
for ax, (title, values) in zip(axes[1:], pictures.items(), strict=True):
    ax.imshow(values.reshape(8, 8), cmap="cividis")
    ax.set(title=title, xticks=[], yticks=[])
plt.show()
