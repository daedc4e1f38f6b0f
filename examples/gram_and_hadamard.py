r"""
A kernel as a Hadamard product of two Grams
===========================================

The tangent kernel of one hidden ReLU layer is :math:`K = (X X^T) \circ C`: the Gram of the inputs
times, entry by entry, the co-activation matrix :math:`C` of the gates. As both are Grams, so is
their product: that of a row-wise Khatri–Rao product, and products with it need no N × N array.
SciPy's eigensolver and conjugate gradients run on it, here on scikit-learn's digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.linalg import cg, eigsh
from sklearn.datasets import load_digits

import opflow as of

# %%
# Even or odd, from 1,200 digits; 597 are held out. The network has 512 hidden units, random weights
# :math:`W` and a fixed readout :math:`v`.

digits = load_digits()
X = (digits.data - digits.data[:1200].mean(axis=0)) / 16
y = np.where(digits.target % 2 == 0, 1.0, -1.0)
X, X_new, y, y_new = X[:1200], X[1200:], y[:1200], y[1200:]
rng = np.random.default_rng(0)
W, v = rng.standard_normal((512, 64)) / 8, rng.standard_normal(512) / 512**0.5

# %%
# :class:`opflow.Hadamard` recognises the two Grams: the tree below shows one Gram of a Khatri–Rao
# product of :math:`X` and the gates, with the cost of one product.

C = of.CoActivation(X @ W.T > 0, weights=v**2)
K = of.Hadamard(of.Gram(X), C)
print(K.describe())

# %%
# The network's own kernel is the same operator.

net = of.ReLUNetwork([W], v)
fields = net.fields(X)
same = of.collective_kernel(fields) @ y
print(f"relative difference: {np.linalg.norm(K @ y - same) / np.linalg.norm(same):.0e}")

# %%
# SciPy takes the operator for the largest eigenvalues and for a ridge regression,
# :math:`(K + \lambda) \alpha = y`. The kernel between new samples and old ones predicts.

largest = eigsh(K, k=5, return_eigenvectors=False)[::-1]
print("largest eigenvalues:", largest.round(1), f"of a trace of {K.trace():.0f}")
alpha, _ = cg(K + 0.1 * of.Identity(len(y)), y, rtol=1e-6)
predicted = np.sign(of.cross_kernel(net.fields(X_new), fields) @ alpha)
print(f"ridge regression: {np.mean(predicted == y_new):.1%} of held-out digits correct")

# %%
# The input Gram has both signs. Co-activation is positive and largest within a digit, where samples
# share most units. The product keeps the signs of the first and is damped where few are shared.

fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
named = {"input Gram $X X^T$": of.Gram(X), "co-activation $C$": C, r"$K = (X X^T) \circ C$": K}
for ax, (title, op) in zip(axes, named.items(), strict=True):
    of.plot.heat_map(op, ax, labels=digits.target[:1200])
    ax.set(title=title, xlabel="samples, sorted by digit")
    ax.images[0].colorbar.set_label("entry")
plt.show()
