"""
Spectral bias: low frequencies first
====================================

Which parts of a target does a network learn first? The low frequencies (Rahaman et al., 2019,
`arXiv:1806.08734 <https://arxiv.org/abs/1806.08734>`_), which are the leading eigenvectors of its
tangent kernel. While it learns, the kernel's leading eigenvectors turn to the target (Baratin et
al., 2021, `arXiv:2008.00938 <https://arxiv.org/abs/2008.00938>`_). This script reproduces both
effects: the first on waves around a circle, the second on handwritten digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# The target on the circle is a sum of four waves of equal size; their amplitudes differ in the
# first residual, because the network does not start at zero. In the linearised flow the residual
# along an eigenvector decays as :math:`e^{-\lambda_i t}`. The moving network keeps the order.

angle = 2 * np.pi * np.arange(128) / 128
X, frequencies = np.c_[np.cos(angle), np.sin(angle)], [1, 2, 4, 6]
y = sum(np.cos(k * angle + k) for k in frequencies)
net = of.ReLUNetwork.random([2, 64, 64], bias=True, readout_rate=1 / 64, seed=0)
eigenvalues, modes = of.spectral.eigsh(of.collective_kernel(net.fields(X)), 20)
times = np.geomspace(2e-3, 6, 40)
watch = {
    "waves": lambda moment: abs(np.fft.rfft(moment.residual[:, 0])[frequencies]) / 64,
    "modes": lambda moment: of.spectral.projections(modes, moment.residual),
}
runs = []
for method in (of.GradientFlow(tol=1e-3), of.LinearisedFlow()):
    runs.append(of.train(net, X, y, method=method, times=times, observe=watch))
    seen = runs[-1].observations["modes"]
    gap = abs(seen - seen[0] * np.exp(-np.outer(runs[-1].times, eigenvalues))).max()
    print(f"{method.name}: 20 modes leave exp(-λt) by {gap / abs(seen).max():.1g} of the largest")

# %%
# On 300 digits, even or odd: the share of the target in the span of the k leading eigenvectors.

pixels, labels = (part[:300] for part in load_digits(return_X_y=True))
Z, labels = (pixels - pixels.mean(axis=0)) / 16, np.where(labels % 2 == 0, 1.0, -1.0)
start = of.ReLUNetwork.random([64, 64, 64], seed=0)
end = of.train(start, Z, labels, steps=300, method=of.GradientDescent(momentum=0.9)).network
shares = {}
for label, network in {"start": start, "trained": end}.items():
    _, U = of.spectral.eigsh(of.collective_kernel(network.fields(Z)), 30)
    shares[label] = np.cumsum((U.T @ labels) ** 2) / 300
    print(f"{label}: {shares[label][6]:.2f} of the squared target in the 7 leading modes")

# %%
# Left: the higher the frequency, the longer it takes, in the network (solid) and in its
# linearisation (dashed). The eigenvectors of a finite network are waves only roughly, so no line
# is a pure exponential. Right: training moves most of the target into a few leading modes.

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.set_prop_cycle(color=of.plot.COLOURS[:4])
for run, style in zip(runs, ("-", "--"), strict=True):
    left.semilogx(run.times[1:], run.observations["waves"][1:], style)
left.legend(left.lines[:4], [f"frequency {k}" for k in frequencies])
left.set(title="Residual on the circle", ylabel="amplitude of the wave", xlabel="time")
for label, share in shares.items():
    right.plot(np.arange(1, 31), share, "o-", ms=4, color=of.plot.ROLES[label], label=label)
right.set(title="Digits: target in the leading modes", xlabel="k, leading modes of K")
right.set(ylabel="share of the squared target", ylim=(0, 1.03))
right.legend(loc="lower right")
plt.show()
