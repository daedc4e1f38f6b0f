"""
Density of a spectrum with error bands
======================================

How are the eigenvalues of a tangent kernel distributed, when all one can do is multiply by it?
Stochastic Lanczos quadrature answers from 10 random vectors and 100 products with each
(Ghorbani, Krishnan and Xiao, 2019, `arXiv:1901.10159 <https://arxiv.org/abs/1901.10159>`_, use it
for Hessians). Here the estimate, with its 95 % bands, is compared with all eigenvalues.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# The inputs are 800 handwritten digits, in their 20 leading principal components. With 24
# hidden units, a network has 480 weights, so 320 eigenvalues are zero. With two layers, none is.

N = 800
X = load_digits().data[:N] / 16
U, S, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
X = U[:, :20] * S[:20]
nets = {
    "24 units": of.ReLUNetwork.random([20, 24], seed=0),
    "128, 128 units": of.ReLUNetwork.random([20, 128, 128], seed=0),
}
kernels = {name: of.collective_kernel(net.fields(X)) for name, net in nets.items()}

# %%
# :func:`opflow.spectral.density` finds the isolated large eigenvalues exactly and counts zeros
# apart; ``how="estimate"`` asks for the estimate at this small size too.

found = {name: of.spectral.density(K, log=True, how="estimate") for name, K in kernels.items()}
exact = {name: np.linalg.eigvalsh(K.todense())[::-1] for name, K in kernels.items()}
for name, rho in found.items():
    zeros = int((exact[name] < 1e-12 * exact[name][0]).sum())
    grid = np.geomspace(*rho.support, 200)
    low, high = rho.cdf_band(grid)
    truth = (exact[name][:, None] <= grid).mean(axis=0)
    inside = np.mean((low <= truth) & (truth <= high))
    print(f"{name}: zero eigenvalues {rho.null!r}, truly {zeros}")
    print(f"  the cumulative band holds the truth at {inside:.0%} of 200 points")

# %%
# Left: the densities per decade. Steps are the histograms of the exact eigenvalues, and the
# estimates follow them within their bands. Dotted parts are where the error exceeds the estimate.
# Right: the exact eigenvalues by rank. Those of the wide network fall about as rank^(-1.2), which
# decides how slowly gradient descent learns the last modes. The narrow one runs out of weights.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
of.plot.density(found, axes[0])
bins = 10 ** np.arange(-6, 3, 0.125)
for values, colour in zip(exact.values(), of.plot.COLOURS, strict=False):
    per_decade = np.full(N, 1 / (0.125 * N))
    axes[0].hist(values, bins, weights=per_decade, histtype="step", color=colour, alpha=0.6)
of.plot.eigenvalues(exact, axes[1], marker="", linewidth=2.5)
law = of.plot.power_law(exact["128, 128 units"], (10, 300))
line = law.factor * np.array([3, N]) ** law.exponent
axes[1].plot([3, N], line, "k:", label=f"rank^({law.exponent:.2f}), ranks 10 to 300")
axes[1].set(ylim=(1e-6, 1e2), title="All eigenvalues")
axes[1].legend(loc="lower left", fontsize=9, frameon=False)
plt.show()
