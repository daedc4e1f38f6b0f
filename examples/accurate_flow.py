"""
Gradient flow with few kernel products
======================================

Gradient flow is the limit of gradient descent with small steps, so an accurate flow takes many
steps. How many products with the kernel does an error of one per cent take? On 300 digits, the
adaptive :class:`opflow.GradientFlow` needs about a fifth of what descent needs, and
:class:`opflow.ExponentialFlow` less than half.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# Even digits against odd ones, by one hidden layer of 128 units, up to a time of 150 over the
# largest eigenvalue. The error is that of the last residual, relative to the first one, against
# descent with steps six times smaller than the smallest compared.

X, labels = load_digits(return_X_y=True)
X, y = (X[:300] - X.mean(axis=0)) / 16, np.where(labels[:300] % 2 == 0, 1.0, -1.0)
net = of.ReLUNetwork.random([64, 128], seed=0)
top = of.spectral.largest_eigenvalue(of.collective_kernel(net.fields(X))).value
end = 150 / top


def residual(method):
    run = of.train(net, X, y, until=end, method=method, every=10**9, eliminate=False)
    return run.products, run.residual


_, exact = residual(of.GradientDescent(0.03 / top))
methods = {
    "GradientDescent": [of.GradientDescent(s / top) for s in (1.5, 0.75, 0.375, 0.1875)],
    "GradientFlow": [of.GradientFlow(tol) for tol in (1.0, 0.1, 0.01, 0.001)],
    "ExponentialFlow": [of.ExponentialFlow(tol) for tol in (1.0, 0.1, 0.01, 0.001)],
}
found = {}
for name, settings in methods.items():
    runs = [residual(method) for method in settings]
    errors = [np.linalg.norm(r - exact) / np.linalg.norm(net(X)[:, 0] - y) for _, r in runs]
    found[name] = [products for products, _ in runs], errors
    print(name, *(f"{n} products: {e:.2%}" for n, e in zip(*found[name], strict=True)), sep="  ")

# %%
# Each point is one step or one tolerance. The flows reach one per cent with far fewer products.
# Below, the gain depends on the problem: the more a flip of a gate moves the outputs, the shorter
# the steps. This is one small network, to an early time.

fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, (products, errors)), mark in zip(found.items(), "osD", strict=True):
    colour = of.plot.COLOURS["osD".index(mark)]
    ax.loglog(products, 100 * np.array(errors), mark + "-", color=colour, label=name)
ax.set(xlabel="products with the kernel", ylabel="error of the residual (%)")
ax.set_xticks(ticks := [50, 100, 200, 500, 1000], ticks)
ax.set_yticks(ticks := [0.5, 1, 2, 4], ticks)
ax.minorticks_off()
ax.set_title("Gradient flow to a fixed time")
ax.legend()
plt.show()
