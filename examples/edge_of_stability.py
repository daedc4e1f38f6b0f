"""
The edge of stability
=====================

Gradient descent of step :math:`s` on a quadratic function diverges if the largest eigenvalue of
the Hessian exceeds :math:`2/s`. Cohen et al. (2021,
`arXiv:2103.00065 <https://arxiv.org/abs/2103.00065>`_) found that neural networks train right
there: the eigenvalue rises to about 2/step and then hovers while the loss goes on falling. This
script reproduces that effect on handwritten digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# A hundred digits with one-hot targets, and full-batch gradient descent of a network with four
# hidden layers. :class:`opflow.observe.HessianEigenvalues` finds the two ends of the spectrum of
# the Hessian by Lanczos iterations on Hessian products. No Hessian is formed.

digits = load_digits()
X = digits.data[:100] / 16
X, y = X - X.mean(axis=0), np.eye(10)[digits.target[:100]]
net = of.ReLUNetwork.random(
    [64, 32, 32, 32, 32], outputs=10, seed=0, bias=True, scaling="standard", readout_rate=1.0
)
runs = {}
for step in (0.2, 0.25, 0.32):
    runs[step] = of.train(
        net,
        X,
        y,
        loss="mean",
        method=of.GradientDescent(step),
        steps=480,
        every=20,
        observe=[of.observe.HessianEigenvalues(tol=1e-2)],
    )
    late = runs[step].observations["hessian_eigenvalues"][12:, 0]
    print(
        f"step {step}: 2/step = {2 / step:5.2f}, largest eigenvalue after step 240: "
        f"{late.min():.2f} to {late.max():.2f}, loss {runs[step].losses[-1]:.4f}"
    )

# %%
# Left: after a first drop, each curve rises to its own dashed line, 2/step, and stays within a
# few per cent of it. Right: the loss keeps falling there.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for (step, run), colour in zip(runs.items(), of.plot.COLOURS, strict=False):
    largest = run.observations["hessian_eigenvalues"][:, 0]
    left.plot(run.steps, largest, color=colour, label=f"step {step}")
    left.axhline(2 / step, ls="--", lw=1, color=colour)
    right.semilogy(run.steps, run.losses, color=colour, label=f"step {step}")
left.set(title="Largest Hessian eigenvalue (dashed: 2/step)", ylabel="eigenvalue")
left.set(ylim=(0, 13), xlabel="steps of gradient descent")
right.set(title="Training loss", ylabel="mean loss", xlabel="steps of gradient descent")
left.legend(loc="lower right")
plt.show()
