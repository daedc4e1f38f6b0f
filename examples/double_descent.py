"""
Double descent: the test error peaks where the width equals the number of samples
=================================================================================

Does a wider model overfit more? Belkin, Hsu, Ma and Mandal (2019,
`arXiv:1812.11118 <https://arxiv.org/abs/1812.11118>`_) show that the test error first peaks,
where the model just fits all samples, and then falls again. This script reproduces their curve
for random ReLU features whose readout is trained, and shows that stopping early removes the peak.
"""

import matplotlib.pyplot as plt
import numpy as np

import opflow as of

# %%
# A linear target with noise, 100 training samples. With the first layer frozen (rate 0) the
# network is linear in what it trains, so :class:`opflow.LinearisedFlow` is its exact gradient
# flow, at any time. By the last time the training is at its end: the least-squares solution of
# smallest norm.

rng = np.random.default_rng(0)
X, X_test, beta = (rng.standard_normal(shape) for shape in ((100, 20), (1000, 20), 20))
y = X @ beta / np.sqrt(20) + 0.3 * rng.standard_normal(100)
y_test = X_test @ beta / np.sqrt(20)
widths, times = [10, 20, 40, 60, 80, 90, 100, 110, 125, 150, 200, 400, 1000, 2000], [5, 50, 1e7]
errors = np.zeros((len(widths), len(times)))
for i, width in enumerate(widths):
    for seed in range(3):
        (W,) = of.ReLUNetwork.random([20, width], seed=seed).weights
        net = of.ReLUNetwork([W], np.zeros(width), rates=[0.0], readout_rate=1 / width)
        run = of.train(
            net,
            X,
            y,
            method=of.LinearisedFlow(),
            times=times,
            observe=[of.observe.HeldOutLoss(X_test, y_test)],
        )
        errors[i] += 2 * run.observations["held_out_loss"][1:] / 3
for width, row in zip(widths, errors, strict=True):
    print(f"width {width:4d}: test error " + ", ".join(f"{e:7.3f}" for e in row))

# %%
# The mean of three draws of the features. Trained to the end (black), the error peaks at width =
# samples (dotted), hundreds of times above that of the widest network. Stopped early, wider is
# better throughout. The height of the peak depends on the draw.

fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for column, time, colour in zip(errors.T, times, (*of.plot.COLOURS[:2], "k"), strict=True):
    ax.loglog(widths, column, "o-", ms=4, color=colour, label=f"time {time:g}")
ax.axvline(100, ls=":", color="0.4", label="width = samples")
ax.set(xlabel="width (trained parameters)", ylabel="mean squared test error")
ax.set_title("Random ReLU features, 100 samples")
ax.legend()
plt.show()
