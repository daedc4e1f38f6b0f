r"""
More features than samples: eliminating the first layer
=======================================================

Gradient descent moves the first layer by combinations of the samples, :math:`W^1(t) = W^1(0) + C^T
X`, so that :math:`h^1 = X W^1(0)^T + X X^T C`. Training needs :math:`X X^T` and N coefficients per
unit, and a step takes the same time for any number of features d. By the weights its time grows
with d. Both routes give the same trajectory.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import opflow as of

# %%
# 200 random samples with up to 51,200 features. ``eliminate`` chooses the route; by default
# :func:`opflow.train` takes the cheaper one. An observer reads the clock at every step. The
# fastest step counts, without the set-up (:math:`X X^T` and :math:`X W^1(0)^T`).

sizes = [200, 800, 3200, 12800, 51200]
rng = np.random.default_rng(0)
y = rng.standard_normal(200).astype(np.float32)
how = {"steps": 15, "method": of.GradientDescent(step=0.005)}
how["observe"] = {"clock": lambda moment: time.perf_counter()}
seconds = {"by the weights": [], "eliminated": []}
for d in sizes:
    X = rng.standard_normal((200, d), dtype=np.float32)
    net = of.ReLUNetwork.random([d, 128, 128], seed=0, dtype=np.float32)
    runs = [of.train(net, X, y, eliminate=eliminate, **how) for eliminate in (False, True)]
    for found, run in zip(seconds.values(), runs, strict=True):
        found.append(np.diff(run.observations["clock"]).min())
    weights, eliminated = (found[-1] for found in seconds.values())
    print(f"d = {d:6,}: a step by the weights takes {weights / eliminated:.1f} times as long")
difference = np.abs(runs[0].residual - runs[1].residual).max() / np.abs(runs[0].residual).max()
print(f"relative difference of the last residuals: {difference:.0e}, in float32")

# %%
# Left: a step by the weights takes longer with every feature, an eliminated one does not. The ratio
# depends on the computer, and a run of a few steps gains less, as the set-up counts too. Right: the
# loss along both runs at the largest d.

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
styles = ({"marker": "o", "markersize": 9}, {"marker": "s", "linestyle": "--", "markersize": 5})
for i, (route, found) in enumerate(seconds.items()):
    look = styles[i] | {"color": of.plot.COLOURS[i], "label": route}
    axes[0].loglog(sizes, 1e3 * np.array(found), **look)
    axes[1].plot(runs[i].steps, runs[i].losses, **look)
axes[0].set(xlabel="features d", ylabel="time of a step (ms)", title="200 samples, widths 128, 128")
axes[1].set(xlabel="steps", ylabel="loss", title=f"same trajectory, d = {d:,}", ylim=0)
for ax in axes:
    ax.legend(frameon=False)
plt.show()
