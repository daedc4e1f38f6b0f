"""
Predictions with error bars
===========================

Regression with the tangent kernel of an infinitely wide network is a Gaussian process: each
prediction has a standard deviation, and each training sample a leave-one-out residual without
training again. On 442 patients of scikit-learn's diabetes data the 95 % intervals hold about 95 %
of the held-out targets, and the leave-one-out error predicts the held-out one.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_diabetes

import opflow as of

# %%
# Inputs and targets are standardised. :func:`opflow.infinite_width` gives the kernel of networks
# with two hidden layers: of training samples, between new ones and these, and its diagonal.

X, y = load_diabetes(return_X_y=True)
order = np.random.default_rng(0).permutation(len(y))
X, y = X[order], y[order]
X, y = (X - X[:300].mean(axis=0)) / X[:300].std(axis=0), (y - y[:300].mean()) / y[:300].std()
net = of.ReLUNetwork.random([10, 1, 1], seed=0)
K = of.as_operator(of.infinite_width(net, X[:300]).todense())
cross = of.infinite_width(net, X[300:], X[:300])
prior = of.infinite_width(net, X[300:]).diagonal()

# %%
# The scale of the kernel and the variance of the noise maximise the marginal likelihood on a grid.
# :func:`opflow.spectral.posterior` computes an attribute when it is asked for.

grid = [(c, s) for c in np.geomspace(0.003, 1, 11) for s in np.linspace(0.3, 0.7, 9)]
fits = [of.spectral.posterior(c * K, y[:300], s) for c, s in grid]
c, noise = grid[int(np.argmax([float(fit.log_marginal_likelihood) for fit in fits]))]
fit = of.spectral.posterior(c * K, y[:300], noise, c * cross, c * prior)
error, deviation = y[300:] - fit.mean, (fit.variance + noise) ** 0.5
left_out, spread = fit.leave_one_out.values, (noise / (1 - fit.leverages.values)) ** 0.5
print(f"mean squared error: held out {np.mean(error**2):.2f}, left out {np.mean(left_out**2):.2f}")
print(f"95 % intervals hold {np.mean(abs(error) < 1.96 * deviation):.1%} of the held-out targets")

# %%
# Left: held-out patients. Right: how often intervals of each level hold the target, of held-out
# patients and of training patients left out one by one. Both stay near the diagonal: the
# standard error of 142 patients is 4 %. Most of the width is noise, which no kernel removes.

levels, colours = np.linspace(0.1, 0.99, 30), of.plot.COLOURS
fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
rank, at = np.argsort(fit.mean), np.arange(142)
low, high = (fit.mean + d * deviation for d in (-1.96, 1.96))
axes[0].fill_between(at, low[rank], high[rank], color=colours[0], alpha=0.2, label="95 % interval")
axes[0].plot(at, fit.mean[rank], color=colours[0], label="prediction")
axes[0].plot(at, y[300:][rank], "o", ms=4, color=colours[1], label="target")
axes[0].set(
    xlabel="held-out patients, by prediction", ylabel="progress, standardised", ylim=(-3, 5)
)
for name, z in {"held out": error / deviation, "left out": left_out / spread}.items():
    inside = [np.mean(abs(z) < norm.ppf((1 + q) / 2)) for q in levels]
    axes[1].plot(levels, inside, label=name, lw=2, color=colours[2 if name == "held out" else 3])
axes[1].plot([0, 1], [0, 1], "k:", label="calibrated")
axes[1].set(xlabel="level of the interval", ylabel="share of targets inside", title="Calibration")
[ax.legend() for ax in axes]
plt.show()
