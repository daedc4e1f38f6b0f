"""
How far a finite network is from infinite width
===============================================

As its layers widen, the tangent kernel of a random network converges to a limit that does not
depend on the weights (Jacot, Gabriel and Hongler, 2018,
`arXiv:1806.07572 <https://arxiv.org/abs/1806.07572>`_). How fast? On 48 handwritten digits the
distance falls as the width to the power −1/2, and deeper networks are further away.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# :func:`opflow.infinite_width` takes the depth, slopes and scales from a network of any width.
# Eight seeds per width show how much the distance depends on the draw.

X = load_digits().data[:48].astype(np.float32) / 16
X -= X.mean(axis=0)
widths, seeds = 2 ** np.arange(5, 12), range(8)
distances, kernels = {}, {}
for depth in (1, 2, 3):
    limit = of.infinite_width(of.ReLUNetwork.random([64] + depth * [1], seed=0), X).todense()
    rows = []
    for width in widths:
        for seed in seeds:
            net = of.ReLUNetwork.random([64] + depth * [width], seed=seed, dtype=np.float32)
            kernels[width] = of.collective_kernel(net.fields(X)).todense()
            rows.append(of.spectral.kernel_distance(limit, kernels[width]))
    distances[depth] = np.reshape(rows, (len(widths), len(seeds)))
    slope = np.polyfit(np.log(widths), np.log(distances[depth]).mean(axis=1), 1)[0]
    print(f"hidden layers: {depth}, distance falls as width^({slope:.2f})")

# %%
# Left: means over the seeds; bands go from the least to the largest. The dashed line has slope
# −1/2. Right: eigenvalues, one draw per width. The smallest ones of the narrow network are too
# small; those of the wide ones are near the limit.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for (depth, found), colour in zip(distances.items(), of.plot.COLOURS, strict=False):
    axes[0].loglog(widths, found.mean(axis=1), "o-", color=colour, label=f"hidden layers: {depth}")
    axes[0].fill_between(widths, found.min(axis=1), found.max(axis=1), color=colour, alpha=0.2)
axes[0].loglog(widths, 0.36 * (widths / 32) ** -0.5, "k--", label=r"width$^{-1/2}$")
axes[0].set(
    xlabel="width",
    xticks=widths,
    xticklabels=widths,
    yticks=(0.05, 0.1, 0.2, 0.5, 1),
    yticklabels=(0.05, 0.1, 0.2, 0.5, 1),
    ylabel=r"$\|K_n - K_\infty\| \, / \, \|K_\infty\|$",
)
axes[0].set_title("Distance from infinite width")
axes[0].legend()
spectra = {f"width {n:,}": np.linalg.eigvalsh(kernels[n].astype(float)) for n in (32, 256, 2048)}
spectra["infinite"] = np.linalg.eigvalsh(limit.astype(float))
of.plot.eigenvalues(spectra, axes[1])
axes[1].set_title("Eigenvalues, three hidden layers")
plt.show()
