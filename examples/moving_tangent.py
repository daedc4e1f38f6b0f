"""
The kernel moves early and then settles
=======================================

How long must a network train before it may be linearised? Fort et al. (2020,
`arXiv:2010.15110 <https://arxiv.org/abs/2010.15110>`_) find that the tangent kernel changes fast
in a short first phase and slowly afterwards, and that linearised training reaches better test
error the later it starts. This script reproduces both on handwritten digits: a linearisation
after 20 of 640 steps generalises like the whole training.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# 300 digits to train on, even or odd, the others held out. :class:`opflow.observe.Snapshots`
# keeps the network at some steps.

digits = load_digits()
order = np.random.default_rng(0).permutation(1797)
X, y = digits.data[order] / 16, np.where(digits.target[order] % 2 == 0, 1.0, -1.0)
X -= X.mean(axis=0)
X, y, X_test, y_test = X[:300], y[:300], X[300:], y[300:]
net = of.ReLUNetwork.random([64, 64, 64], seed=0, scaling="mean-field")
at = [0, 5, 10, 20, 40, 80, 160, 320, 640]
run = of.train(
    net,
    X,
    y,
    loss="mean",
    steps=640,
    every=5,
    observe=[of.observe.Snapshots(at), of.observe.HeldOutLoss(X_test, y_test)],
)

# %%
# From each of these networks the linearised flow, with the kernel of that moment, runs to its
# end. Distances of kernels are one minus the cosine of the two matrices.

networks, held_out = run.observations["snapshots"], run.observations["held_out_loss"]
kernels, errors = [], []
for step, network in networks.items():
    kernels.append(of.collective_kernel(network.fields(X)).todense())
    until = 1e4 * 300 / of.spectral.largest_eigenvalue(kernels[-1]).value
    flow = of.LinearisedFlow()
    lazy = of.train(network, X, y, loss="mean", method=flow, times=[until])
    errors.append(np.mean((lazy.predict(X_test)[:, 0] - y_test) ** 2) / 2)
    print(f"linearised at step {step:3d}: held-out loss {errors[-1]:.3f}")
print(f"the network after {run.steps[-1]} steps: {held_out[-1]:.3f}")
distances = [[1 - of.spectral.kernel_alignment(A, B) for A in kernels] for B in kernels]

# %%
# Left: the first five steps move the kernel as far as the other 635. The steps double from one
# cell to the next. Right: the later the linearisation starts, the better, until it matches the
# network.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
image = left.imshow(distances, cmap="cividis")
fig.colorbar(image, ax=left, label="1 − cosine")
left.set(title="Distance of kernels", xlabel="step", ylabel="step")
left.set(xticks=range(len(at)), xticklabels=at, yticks=range(len(at)), yticklabels=at)
right.plot(errors, "o-", color=of.plot.COLOURS[0], label="linearised there, to the end")
right.plot(held_out[np.array(at) // 5], "s-", color=of.plot.COLOURS[1], label="the network there")
right.set(title="Held-out loss", xlabel="step", ylabel="mean loss", ylim=(0, 0.2))
right.set_xticks(range(len(at)), at)
right.legend()
plt.show()
