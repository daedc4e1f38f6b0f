"""
Lazy and rich training: the scale of the output decides
=======================================================

How far does the tangent kernel move while a network learns? Chizat, Oyallon and Bach (2019,
`arXiv:1812.07956 <https://arxiv.org/abs/1812.07956>`_) multiply the output of a model by
:math:`\\alpha`: a large :math:`\\alpha` keeps the kernel in place, which they call lazy training.
This script reproduces the shape of their result on a smaller teacher problem: the kernel moves
roughly by :math:`1/\\alpha`, and the lazy network generalises worse than the one that learns
features.
"""

import matplotlib.pyplot as plt
import numpy as np

import opflow as of

# %%
# The teacher has three ReLU units, the student a hundred. Each unit of the student has a twin
# with the opposite readout, so the network starts at zero output for every :math:`\alpha`.

rng = np.random.default_rng(0)
X, X_test = rng.standard_normal((200, 20)), rng.standard_normal((1000, 20))
units = rng.standard_normal((20, 3)) / np.sqrt(20)
y, y_test = (np.maximum(x @ units, 0) @ [1.0, 1.0, -1.0] for x in (X, X_test))
W, V = rng.standard_normal((50, 20)) / np.sqrt(20), rng.standard_normal(50) / 10
W, V = np.concatenate([W, W]), np.concatenate([V, -V])

# %%
# Training :math:`\alpha f` on the loss divided by :math:`\alpha^2` is training a network with the
# readout :math:`\alpha V` whose first layer learns at the rate :math:`1/\alpha^2`. Each network
# trains by descent with momentum until its loss is 0.1 % of the first one.

alphas, moved, errors = np.geomspace(0.03, 30, 9), [], []
goal = 0.5e-3 * np.mean(y**2)
for alpha in alphas:
    net = of.ReLUNetwork([W], alpha * V, rates=[alpha**-2], readout_rate=1.0)
    run = of.train(
        net,
        X,
        y,
        steps=6000,
        every=50,
        loss="mean",
        method=of.GradientDescent(momentum=0.9),
        stop=lambda moment: moment.loss < goal,
    )
    kernels = [of.collective_kernel(n.fields(X)) for n in (net, run.network)]
    moved.append(float(of.spectral.kernel_distance(*kernels)))
    errors.append(np.mean((run.predict(X_test)[:, 0] - y_test) ** 2) / np.var(y_test))
    print(
        f"α = {alpha:6.3f}: {run.steps[-1]:4d} steps, kernel moved by {moved[-1]:6.3f}, "
        f"test error {errors[-1]:.3f}"
    )

# %%
# Left: for large :math:`\alpha` the distance falls roughly as :math:`1/\alpha` (dashed). Right:
# the test error rises about tenfold with :math:`\alpha` and levels off in the lazy regime, where
# training is regression with the kernel of the start. This is one draw of a small problem.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.loglog(alphas, moved, "o-", color=of.plot.COLOURS[0], label="measured")
level = np.exp(np.mean(np.log(moved[3:] * alphas[3:])))
left.loglog(alphas[3:], level / alphas[3:], "k--", lw=1, label="∝ 1/α")
left.set(title="Distance the kernel moves", ylabel="‖K(end) − K(0)‖ / ‖K(0)‖", xlabel="scale α")
left.legend()
right.semilogx(alphas, errors, "o-", color=of.plot.COLOURS[1])
right.set(title="Test error after training", ylabel="mean squared error / variance", ylim=(0, None))
right.set(xlabel="scale α")
plt.show()
