"""
A PyTorch network, from checkpoint to checkpoint
================================================

PyTorch trains a perceptron to tell even digits from odd ones. Where would training lead if the
tangent kernel stayed as it is at a checkpoint? From the start to nearly 3 % errors, from epoch
3 on to about 2 %, near the end of training: the kernel turns early. Fort et al. (2020,
`arXiv:2010.15110 <https://arxiv.org/abs/2010.15110>`_) show this for deep networks on images.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import opflow as of

# %%
# Adam trains all layers. :meth:`opflow.ReLUNetwork.from_torch` copies the module at six epochs.

X, labels = load_digits(return_X_y=True)
X = ((X - X.mean(axis=0)) / 16).astype(np.float32)
y = np.where(labels % 2 == 0, 1, -1).astype(np.float32)
new, seen = np.split(np.random.default_rng(0).permutation(len(X))[:1397], [797])

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
inputs, targets = torch.from_numpy(X), torch.from_numpy(y[:, None])
networks = {}
for epoch in range(41):
    if epoch in (0, 1, 2, 3, 10, 40):
        networks[epoch] = of.ReLUNetwork.from_torch(module)
    for batch in torch.from_numpy(np.random.default_rng(epoch).permutation(seen)).split(32):
        optimiser.zero_grad()
        nn.functional.mse_loss(module(inputs[batch]), targets[batch]).backward()
        optimiser.step()

# %%
# :class:`opflow.LinearisedFlow` trains the linearisation of a network, whose kernel is constant.

kernels = [of.collective_kernel(net.fields(X[seen])).todense() for net in networks.values()]
turned = [of.spectral.kernel_alignment(K, kernels[-1]) for K in kernels]
aligned = [of.spectral.alignment(K, y[seen], centred=True) for K in kernels]
errors = []
for epoch, net in networks.items():
    lazy = of.train(net, X[seen], y[seen], method=of.LinearisedFlow(tol=1e-4), times=[100.0])
    answers = np.hstack([net(X[new]), lazy.predict(X[new])]) > 0
    errors.append(100 * (answers != (y[new, None] > 0)).mean(axis=0))
    print(f"epoch {epoch}: {errors[-1][0]:.1f} % errors, {errors[-1][1]:.1f} % linearised")

# %%
# Left: the kernel against the last one and the labels. Right: errors on 797 digits, for one seed.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
at, (own, linearised) = [str(epoch) for epoch in networks], np.transpose(errors)
axes[0].plot(at, turned, "o-", color=of.plot.COLOURS[0], label="cosine with the last kernel")
axes[0].plot(at, aligned, "s-", color=of.plot.COLOURS[1], label="alignment with the labels")
axes[1].plot(at, own, "o-", color=of.plot.COLOURS[2], label="the network itself")
axes[1].plot(at, linearised, "s-", color=of.plot.COLOURS[3], label="linearised from there")
axes[0].set(xlabel="epoch", ylabel="cosine", title="Tangent kernel", ylim=(0, 1.05))
axes[1].set(xlabel="epoch", ylabel="errors (%)", title="Held-out digits", ylim=(0, 15))
[ax.legend() for ax in axes]
plt.show()
