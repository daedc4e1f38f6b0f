"""
Silent alignment: the kernel turns to the target before the loss falls
======================================================================

When does a network that starts small learn its features? Atanasov, Bordelon and Pehlevan (2022,
`arXiv:2111.00034 <https://arxiv.org/abs/2111.00034>`_) find that the tangent kernel first aligns
with the target while the loss stands still, and then only grows. This script reproduces that
order of events for a linear target on Gaussian inputs, and their conclusion: kernel regression
with the *final* kernel predicts nearly what the network does.
"""

import matplotlib.pyplot as plt
import numpy as np

import opflow as of

# %%
# One network starts with all weights times 0.05, the other one as drawn. Each trains until its
# loss is 1 % of that of the zero function. Observers record the alignment
# :math:`y^T K y / (\|K\|_F \|y\|^2)` and the size of the kernel.

rng = np.random.default_rng(0)
X, X_test, beta = (rng.standard_normal(shape) for shape in ((100, 20), (500, 20), 20))
y = X @ beta / np.sqrt(20)
drawn = of.ReLUNetwork.random([20, 64, 64], scaling="standard", readout_rate=1.0, seed=0)
goal, runs = 0.005 * np.mean(y**2), {}
watch = {
    "aligned": of.observe.Alignment(),
    "start": of.observe.Snapshots([0]),
    "trace": lambda moment: moment.kernel.trace(),
}
for scale, step, every in ((0.05, 0.04, 30), (1.0, 0.02, 4)):
    weights, readout = [scale * W for W in drawn.weights], scale * drawn.readout
    runs[scale] = of.train(
        of.ReLUNetwork(weights, readout, readout_rate=1.0),
        X,
        y,
        steps=3000,
        every=every,
        method=of.GradientDescent(step),
        loss="mean",
        observe=watch,
        stop=lambda moment: moment.loss < goal,
    )

# %%
# Test outputs of the network that starts small, against two kernel regressions.

run = runs[0.05]
aligned, early = run.observations["aligned"][:, 0], run.losses > 0.9 * run.losses[0]
print(
    f"alignment: {aligned[0]:.2f} at the start, {aligned[early][-1]:.2f} before a tenth of the "
    f"loss is gone, {aligned[-1]:.2f} at the end"
)
output = run.predict(X_test)[:, 0]
for name, net in {"first": run.observations["start"][0], "final": run.network}.items():
    fields = net.fields(X)
    K = of.collective_kernel(fields)
    fit = of.spectral.kernel_regression(K, y, 1e-6 * K.trace() / 100)
    gap = np.mean((fit.predict(of.cross_kernel(net.fields(X_test), fields)) - output) ** 2)
    print(f"regression with the {name} kernel: off by {gap / np.var(output):.3f} of the variance")

# %%
# Left: most of the alignment happens while the loss stands still, and the kernel's trace grows as
# the loss falls. Right: from the larger start the loss falls first, and the kernel turns little.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for ax, (scale, run) in zip(axes, runs.items(), strict=True):
    aligned, trace = run.observations["aligned"][:, 0], run.observations["trace"]
    ax.plot(run.times, run.losses / run.losses[0], color=of.plot.COLOURS[0], label="loss / first")
    ax.plot(run.times, aligned / aligned[-1], color=of.plot.COLOURS[1], label="alignment / last")
    ax.plot(run.times, trace / trace[-1], color=of.plot.COLOURS[2], label="trace of K / last")
    ax.set(xlabel="time (step size × steps)", title=f"Weights of the start × {scale}")
axes[0].set(ylabel="relative to the first or last value")
axes[1].legend(loc="center right")
plt.show()
