"""
Learning curves of kernel regression, predicted from the spectrum
=================================================================

How many samples does kernel regression need? Canatar, Bordelon and Pehlevan (2021,
`arXiv:2006.13198 <https://arxiv.org/abs/2006.13198>`_) predict its mean error for every number of
samples from the kernel's eigenvalues and the target's coefficients alone. This script reproduces
the agreement of their formula with experiments for the tangent kernel of a network on handwritten
digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# The population is 1,000 digits, labelled +1 if even and −1 if odd. One eigendecomposition of the
# kernel gives the eigenvalues and the coefficients that :func:`opflow.spectral.learning_curve`
# takes.

digits = load_digits()
X, y = digits.data[:1000] / 16, np.where(digits.target[:1000] % 2 == 0, 1.0, -1.0)
net = of.ReLUNetwork.random([64, 256, 256], seed=0)
K = of.collective_kernel(net.fields(X - X.mean(axis=0))).todense()
pairs = of.spectral.eigh(K)
eigenvalues = pairs.eigenvalues.clip(min=0) / 1000
coefficients = pairs.eigenvectors.T @ y / np.sqrt(1000)

# %%
# The measurement draws P digits, regresses on them with the ridge :math:`\lambda`, and takes the
# mean squared error over all digits, eight times for every P.

rng, measured = np.random.default_rng(0), {}
for ridge in (1e-6, 0.1, 1.0):
    for P in (10, 25, 60, 150, 400):
        errors = []
        for _ in range(8):
            drawn = rng.permutation(1000)[:P]
            part = K[np.ix_(drawn, drawn)]
            fit = of.spectral.kernel_regression(part, y[drawn], ridge, how="direct")
            errors.append(np.mean((fit.predict(K[:, drawn]) - y) ** 2))
        measured[ridge, P] = np.mean(errors), np.std(errors)
        at = of.spectral.learning_curve(eigenvalues, coefficients, P, ridge=ridge)
        print(f"ridge {ridge:5.1g}, P = {P:3d}: predicted {at:.3f}, measured {np.mean(errors):.3f}")

# %%
# Lines are predictions without a fitted parameter. Points with bars are the mean and the standard
# deviation of eight draws. The formula holds for large P, and describes these few samples as
# well. Its samples are drawn independently, these without replacement from a small population.

fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
smooth, colours = (
    np.geomspace(10, 450, 60),
    dict(zip((1e-6, 0.1, 1.0), of.plot.COLOURS, strict=False)),
)
for ridge, colour in colours.items():
    curve = of.spectral.learning_curve(eigenvalues, coefficients, smooth, ridge=ridge)
    ax.loglog(smooth, curve, color=colour, label=f"predicted, ridge {ridge:g}")
for (ridge, P), (mean, spread) in measured.items():
    ax.errorbar(P, mean, spread, fmt="o", ms=5, capsize=3, color=colours[ridge])
ax.set(xlabel="training samples P", ylabel="mean squared error", title="Even or odd digits")
ax.legend(loc="lower left")
plt.show()
