r"""
Truncating the hierarchy
========================

The hierarchy of C. Nordio (2026, `arXiv:2606.09744 <https://arxiv.org/abs/2606.09744>`_) carries a
change through the layers by products of weight-induced Gram factors. An order-:math:`p` truncation
keeps products of at most :math:`p` factors. Is a low order a good approximation? With four layers
of 96 units it is not: :math:`p = 3` is exact, and every lower order leaves errors of 5 % or more.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# 200 digits, even or odd, and a network of four hidden layers.

data = load_digits()
X = (data.data[:200] - data.data[:200].mean(axis=0)) / 16
y = np.where(data.target[:200] % 2 == 0, 1.0, -1.0)
net = of.ReLUNetwork.random([64, 96, 96, 96, 96], seed=4)

# %%
# :class:`opflow.TruncatedFlow` moves the fields at its order, next to the exact gradient descent
# with the same steps. The observer compares the two: the distance of the residuals relative to the
# first residual, and relative errors of hidden fields, conjugate fields and kernel.

parts = ("residual", "hidden fields", "conjugate fields", "kernel")
observe, runs = [of.observe.TruncationError()], {}
for order in range(4):
    method = of.TruncatedFlow(order=order)
    runs[order] = of.train(net, X, y, steps=80, every=8, method=method, observe=observe)
    last = zip(parts, runs[order].observations["truncation_error"][-1], strict=True)
    print(f"p = {order}:", ", ".join(f"{part} {error:.2g}" for part, error in last))

# %%
# At the end each further order has lowered all four errors, and none below 3 makes them small. At
# :math:`p = 0` the error of the kernel ends larger than the kernel itself. The errors of
# :math:`p = 3` are rounding, far below the picture.

fig, axes = plt.subplots(1, 4, figsize=(10.5, 3.4), sharey=True, layout="constrained")
for order in range(3):
    run, colour = runs[order], of.plot.COLOURS[order]
    for ax, part, line in zip(axes, parts, run.observations["truncation_error"].T, strict=True):
        ax.semilogy(run.steps[1:], line[1:], "o-", ms=4, color=colour, label=f"p = {order}")
        ax.set(xlabel="steps", title=part, ylim=(0.02, 4))
        ax.grid(alpha=0.25)
axes[0].set_yticks([0.03, 0.1, 0.3, 1, 3], ["0.03", "0.1", "0.3", "1", "3"])
axes[0].set_ylabel("relative error")
axes[0].legend(frameon=False, loc="upper right")
plt.show()
