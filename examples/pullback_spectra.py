r"""
Weight-induced Gram operators by depth
======================================

In a deep network the conjugate fields of two samples are coupled by the weight-induced Gram
operators :math:`B^{(\ell,m)}_{\mu\nu}` of C. Nordio (2026, `arXiv:2606.09744
<https://arxiv.org/abs/2606.09744>`_). Do they decay with the distance :math:`m - \ell` of the
layers? Not in this small network: their norms grow with it, and training enlarges them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# Five hidden layers of 128 units learn to tell even from odd on 300 digits.

data = load_digits()
X = (data.data[:300] - data.data[:300].mean(axis=0)) / 16
y = np.where(data.target[:300] % 2 == 0, 1.0, -1.0)
net = of.ReLUNetwork.random([64, *[128] * 5], seed=5)
run = of.train(net, X, y, steps=200, loss="mean")
fields = {"start": net.fields(X), "trained": run.network.fields(X)}

# %%
# A member is built by the recursion :math:`B^{(\ell-1,m)} = W^{\ell T} D^\ell_\mu B^{(\ell,m)}
# D^\ell_\nu W^\ell` from :math:`B^{(m,m)} = I`, and its description shows that.

print(of.hierarchy.pullback(fields["trained"], 1, 3, 0, 17).describe())

# %%
# :func:`opflow.hierarchy.members` gives the spectra of all members: for 12 samples alone
# (:math:`\mu = \nu`) and for 12 pairs of different samples.

pairs = {"μ = ν": [(i, i) for i in range(12)], "μ ≠ ν": [(i, i + 17) for i in range(12)]}
found = {
    f"{name}, {when}": of.hierarchy.members(f, pairs[name])
    for name in pairs
    for when, f in fields.items()
}
for label, members in found.items():
    distance = np.array([m - ell for ell, m in members.layers])
    norms, traces = (
        [float(np.median(values[distance == d]).round(1)) for d in (1, 2, 3, 4)]
        for values in (members.norms, members.traces)
    )
    print(f"{label:14} norm by distance {norms}, trace {traces}")

# %%
# Left: the further apart the layers, the steeper the spectrum. The trace stays near the width, so
# the norm grows. Right: norms against distance, medians with bands from least to largest. Training
# enlarges the far members most. Between different samples norms are smaller, but they grow as well.

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for when, dash in (("start", "--"), ("trained", "-")):
    members = found[f"μ = ν, {when}"]
    for m, colour in zip((2, 3, 4, 5), of.plot.COLOURS, strict=False):
        values = np.median(members.values[members.layers.index((1, m))], axis=0)
        axes[0].semilogy(values[:64], dash, color=colour, label=f"$B^{{(1,{m})}}$, {when}")
axes[0].set(xlabel="rank", ylabel="eigenvalue", ylim=(1e-4, 40), title="median spectra, μ = ν")
axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
of.plot.hierarchy_norms(found, axes[1])
plt.show()
